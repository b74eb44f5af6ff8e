"""Grows under `MirroredStrategy` on two logical CPUs and on one; `test_distribution.py` runs it.

TensorFlow's devices can't be changed once it has used them, hence a process of its own. What is
compared is printed as JSON.

    python tests/helpers/two_devices.py METHOD ...
"""

import json
import os
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

import keras_grow
from keras_grow.layers import GrowableConv2D, GrowableDense

EPOCHS = {"net2wider": 3, "random": 2, "splitting": 2, "firefly": 2}
# Adam divides by the size of the gradient, and with it what rounding changes: not for all.
OPTIMIZERS = {"random": lambda: keras.optimizers.Adam(0.01)}


def data():
    """Two global batches of 8: each device gets 4 examples of a batch."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(16, 4, 4, 2)).astype("float32"), rng.integers(0, 3, 16)


def network(optimizer):
    """Without batch normalisation, whose statistics are those of each device's own examples."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((4, 4, 2))
    x = GrowableConv2D(4, 3, padding="same", activation="silu", name="conv")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = GrowableDense(4, activation="tanh", name="dense")(x)
    model = keras_grow.GrowableModel(inputs, keras.layers.Dense(3, name="head")(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, loss_weights=0.5)  # below 1, where a relative penalty shrinks
    return model


def callback(method):
    if method == "firefly":
        method = keras_grow.methods.Firefly(train_batches=1, score_batches=1)
    penalty = keras_grow.SimilarityPenalty(1.0, weight_sum=0.1, relative=True)
    return keras_grow.GrowthCallback(0.25, every=1, method=method, penalty=penalty, verbose=0)


def train(scope, method):
    """Trains with growths; returns the model and the logs of its epochs.

    Until the first growth a penalty counts as much at any loss, afterwards it shrinks with it.
    """
    with scope:
        optimizer = OPTIMIZERS.get(method, lambda: keras.optimizers.SGD(0.1, momentum=0.9))()
        model = network(optimizer)
    model.arm(keras_grow.SimilarityPenalty(1.0, weight_sum=0.1))
    fit = {"batch_size": 8, "shuffle": False, "verbose": 0, "callbacks": [callback(method)]}
    return model, model.fit(*data(), epochs=EPOCHS[method], **fit).history


def variables(model):
    """All that a model trains with: weights, slots, the state of the penalty."""
    window = model.penalty_window.state.variables
    return [*model.variables, *model.optimizer.variables, *window]


def copies(variable):
    """The copies of a variable, one per device; of one that isn't mirrored, itself."""
    return [np.asarray(copy) for copy in getattr(variable.value, "values", (variable.value,))]


def compare(method, strategy):
    """Trains on one device and on two, and says how the results differ."""
    one, one_logs = train(nullcontext(), method)
    two, two_logs = train(strategy.scope(), method)
    pairs = list(zip(variables(one), variables(two), strict=True))
    apart = [np.abs(copies(a)[0] - copies(b)[0].astype("float64")).max() for a, b in pairs]
    held = [copies(v) for v in variables(two)]
    return two, {
        "widths": [one.widths, two.widths],
        "logs": [one_logs, two_logs],
        "slots": len(two.optimizer.variables),
        "largest_difference": float(max(apart)),
        "mirrored": [len(values) for values in held],
        "copies_equal": [all(np.array_equal(values[0], v) for v in values) for values in held],
    }


def saved_and_loaded(model, strategy):
    """Saves a grown model, loads it under the strategy, and goes on."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        with strategy.scope():
            loaded = keras.models.load_model(path)
        elsewhere = keras.models.load_model(path)
    x, y = data()
    outputs = [m.predict(x, batch_size=8, verbose=0) for m in (model, loaded, elsewhere)]
    apart = [float(np.abs(outputs[0] - other).max()) for other in outputs[1:]]
    window = [m.penalty_window.epochs_left for m in (model, loaded, elsewhere)]
    before = loaded.widths
    loaded.fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=[callback("net2wider")])
    held = [copies(v) for v in variables(loaded)]
    return {
        "outputs_apart": apart,
        "epochs_left": window,
        "widths": [before, loaded.widths],
        "mirrored": [len(values) for values in held],
        "copies_equal": [all(np.array_equal(values[0], v) for v in values) for values in held],
    }


def main(*methods):
    (cpu,) = tf.config.list_physical_devices("CPU")
    devices = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, devices)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    results = {}
    for method in methods:
        model, results[method] = compare(method, strategy)
        print(f"{method}: done", file=sys.stderr)
        if method == "net2wider":
            results["saved"] = saved_and_loaded(model, strategy)
    print(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
