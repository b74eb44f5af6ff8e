"""A small training run that is killed and started again: inside a test, or in a process of its own.

    python tests/helpers/resumable.py FOLDER KILL THREADS

trains with a backup in FOLDER until it ends or kills itself (SIGKILL). KILL is "never",
"after:SECONDS" (counted from the start of `fit`), "growing:N" (at the N-th variable that is
resized), "half:N" (with the N-th backup half written) or "whole:N" (with it written, before it
takes the place of the previous one). THREADS is their number, 0 for the default. FOLDER/begun.txt
gets a line as each epoch begins, FOLDER/end.npz the end.
"""

import os
import signal
import sys
import threading
import time
import zlib
from contextlib import contextmanager
from functools import partial
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest

import keras_grow
from keras_grow.callbacks.backup import file as backup_file
from keras_grow.core import keras_private
from keras_grow.layers import GrowableBatchNormalization, GrowableConv2D, GrowableDense
from keras_grow.utils import files

tf = pytest.importorskip("tensorflow")  # its data sets, on every backend

EPOCHS, STEPS, SIZE = 4, 3, 8
X = np.random.default_rng(0).normal(size=(STEPS * SIZE, 6, 6, 2)).astype("float32")
Y = np.random.default_rng(1).integers(0, 3, STEPS * SIZE)


def network(optimizer=None, **compile_arguments):
    """A network with Dropout, whose draws are part of the state of a run."""
    inputs = keras.Input((6, 6, 2))
    x = GrowableConv2D(4, 3, padding="same", use_bias=False, name="a")(inputs)
    x = keras.layers.ReLU()(GrowableBatchNormalization(name="a_bn")(x))
    x = GrowableDense(5, activation="gelu", name="b")(keras.layers.Flatten()(x))
    x = keras.layers.Dropout(0.2)(x)
    model = keras_grow.GrowableModel(inputs, keras.layers.Dense(3, name="head")(x))
    model.compile(
        optimizer or keras.optimizers.SGD(0.05, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        **compile_arguments,
    )
    return model


# Eagerly: these runs are too short for a graph to pay.
eager = partial(network, run_eagerly=True)


class Seeded(keras_grow.methods.Net2Wider):
    """Draws what to copy by a seed made of its batches: quick, and another for any other batch."""

    name = "seeded"
    needs_data = True

    def choose(self, graph, budget, rng, data=None):
        batches = data.batches(2, rng)
        seed = zlib.crc32(b"".join(np.asarray(x).tobytes() for x, *_ in batches))
        return super().choose(graph, budget, np.random.default_rng(seed))


def stream(first_epoch, epochs=EPOCHS):
    """A passing stream whose order is a function of the epoch."""

    def one_epoch(epoch):
        seed = tf.stack([tf.constant(3, tf.int64), epoch])
        order = tf.random.experimental.stateless_shuffle(tf.range(len(X)), seed)
        rows = tf.data.Dataset.from_tensor_slices(order).batch(SIZE)
        return rows.map(lambda i: (tf.gather(X, i), tf.gather(Y, i)))

    return tf.data.Dataset.range(first_epoch, epochs).flat_map(one_epoch)


def growing(every=None, **arguments):
    """A callback of growths that follow each other quickly, by a method that needs data."""
    penalty = keras_grow.SimilarityPenalty(epochs=3)
    arguments = {"method": Seeded(), "penalty": penalty, "verbose": 0, **arguments}
    every = keras_grow.At([1, 3]) if every is None else every
    return keras_grow.GrowthCallback(0.3, every, **arguments)


def train(folder, callbacks=(), before=(), growth=None, model=None, epochs=EPOCHS, **arguments):
    """Trains with a backup in `folder`, from the beginning or from where it was; no folder, none.

    Returns:
        The model and the history of its `fit`.
    """
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
    model = eager() if model is None else model()
    growth = growing() if growth is None else growth()
    backup_arguments = {"delete_checkpoint": False, "verbose": 0, **arguments.pop("backup", {})}
    backups = [] if folder is None else [keras_grow.GrowthBackup(folder, **backup_arguments)]
    data = {"x": stream(backups[0].epoch if backups else 0, epochs), "steps_per_epoch": STEPS}
    data = arguments.pop("data")() if "data" in arguments else {**data, "shuffle": False}
    callbacks = [*before, growth, *backups, *callbacks]
    history = model.fit(**data, epochs=epochs, callbacks=callbacks, verbose=0, **arguments)
    return model, history


def end_of(model):
    """Returns all that two equal runs have in common, as arrays by name."""
    slots = model.optimizer.variables
    end = {f"model {i} {v.name}": np.array(v) for i, v in enumerate(model.variables)}
    end |= {f"slot {i} {v.name}": np.array(v) for i, v in enumerate(slots)}
    for i, event in enumerate(model.growth_history):
        end[f"growth {i}"] = np.array([event.epoch, *event.widths_after.values()])
    window = model.penalty_window
    if window:
        end["window"] = np.array([window.epochs_left, *window.get_config()["sums"]])
    return end


def assert_equal(first, second):
    """Compares two ends bit for bit."""
    assert list(first) == list(second)
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


copying = partial(growing, method="net2wider")


class Stopped(Exception):
    """Stands for whatever ends a run."""


def stop():
    raise Stopped


class StopAt(keras.callbacks.Callback):
    """Stops a run as an epoch begins, or after one of its batches."""

    def __init__(self, epoch, batch=None):
        super().__init__()
        self.stops_at, self.batch = epoch, batch

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
        if self.batch is None and epoch == self.stops_at:
            stop()

    def on_train_batch_end(self, batch, logs=None):
        if self.batch is not None and (self.epoch, batch) == (self.stops_at, self.batch):
            stop()


class Begun(keras.callbacks.Callback):
    """Notes each epoch as it begins, on the disk at once."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def on_epoch_begin(self, epoch, logs=None):
        with self.path.open("a") as file:
            file.write(f"{epoch}\n")


def assert_goes_on(folder, *stops, **arguments):
    """Runs to the end, and again with each of the stops on the way, and compares the ends."""
    whole, history = train(None, **{**arguments, "backup": {}})
    for stop_at in stops:
        with pytest.raises(Stopped):
            train(folder, **{**arguments, "callbacks": [stop_at]})
    model, after = train(folder, **arguments)
    assert_equal(end_of(whole), end_of(model))
    assert after.epoch == history.epoch
    assert after.history == history.history
    return model


@contextmanager
def stopping(kind, when, stop):
    """Has a run stop in the middle of what it does.

    Args:
        kind: "growing", "half", "whole": see above.
        when: The how many-th time.
        stop: Called to stop it.
    """
    counts = {"growing": 0, "half": 0, "whole": 0}
    resize, replacing, to_disk = keras_private.resize, files.replacing, files._to_disk

    def passing(which):
        counts[which] += 1
        if which == kind and counts[which] == when:
            stop()

    def stopping_resize(variable, value):
        passing("growing")
        return resize(variable, value)

    @contextmanager
    def stopping_replacing(path):
        with replacing(path) as partial:
            partial.write_bytes(b"keras_grow backup half of it")
            passing("half")
            yield partial

    def stopping_to_disk(path):
        if path.is_file():
            passing("whole")
        to_disk(path)

    keras_private.resize, backup_file.replacing = stopping_resize, stopping_replacing
    files._to_disk = stopping_to_disk
    try:
        yield
    finally:
        keras_private.resize, backup_file.replacing, files._to_disk = resize, replacing, to_disk


def kill():
    """Ends this process as a power cut would."""
    os.kill(os.getpid(), signal.SIGKILL)


class Timer(keras.callbacks.Callback):
    """Kills the process some seconds after `fit` begins, whatever it is doing then."""

    def __init__(self, seconds):
        super().__init__()
        self.timer = threading.Timer(seconds, kill)
        self.timer.daemon = True

    def on_train_begin(self, logs=None):
        self.timer.start()


def main(folder, how, threads):
    tf.config.threading.set_inter_op_parallelism_threads(int(threads))
    tf.config.threading.set_intra_op_parallelism_threads(int(threads))
    folder = Path(folder)
    kind, _, when = how.partition(":")
    timers = [Timer(float(when))] if kind == "after" else []
    at = int(when) if kind in ("growing", "half", "whole") else 0
    started = time.perf_counter()
    with stopping(kind, at, kill):
        model, history = train(folder, [Begun(folder / "begun.txt")], timers)
    logs = {f"log {name}": np.array(values) for name, values in history.history.items()}
    logs |= {"epochs": np.array(history.epoch), "seconds": time.perf_counter() - started}
    np.savez(folder / "end.npz", **end_of(model), **logs)


if __name__ == "__main__":
    main(*sys.argv[1:])
