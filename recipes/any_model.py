"""Grows five kinds of small networks, each beside its final size trained from the start.

    python recipes/any_model.py --model lstm                # grows three times, by "firefly"
    python recipes/any_model.py --model all --seeds 0 1 2
    python recipes/any_model.py --model gpt --method random --backend jax

A convolutional network on generated waves (cnn1d), a recurrent one that reads scikit-learn's digits
row by row (lstm), a vision transformer on the same digits (vit), a U-Net that marks generated
shapes (unet), and a transformer that learns to write Python's help, which comes with Python,
character by character (gpt). They are built of Keras's own layers and one of this file's. Each gets
35 % more neurons after every quarter of its epochs. Its final size then trains from the start with
the same optimizer: for as many floating-point operations, which are fewer epochs, rounded up, and
for as many epochs. The learning rate is held for three quarters of each run, then falls to zero.

The first three fifths of the data are trained on, the last fifth is the test split. Sizes, epochs
and the learning rate (0.003 everywhere) were set after a look at the fifth between
(`--validation`), so that all takes minutes on two cores; nothing was searched for.

Writes into --out a folder for each run, <model>-seed<n>-<grown|flops|epochs>, with results.json
(see runs.Run), and prints a table. The same command goes on where it was stopped, if it names
--out. What came out is in docs/results.md.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import common
import keras
import numpy as np
from keras import layers

import keras_grow
from keras_grow import runs

BATCH_SIZE = 32
GROWTHS = 3
ARMS = {"grown": "grown", "flops": "final size, equal FLOPs", "epochs": "final size, equal epochs"}


def main(argv: list[str] | None = None) -> dict[str, list[dict[str, runs.Run]]]:
    """Runs the recipe, and returns the runs of each model, seed by seed."""
    args = parse(argv)
    common.claim(args.out / "asked.json", asked(args))
    results = {}
    for name in args.model:
        results[name] = [compare(name, seed, args) for seed in args.seeds]
    print(f"\n{table(results, args)}\n\nthe results are in {args.out}")
    return results


def compare(name: str, seed: int, args: argparse.Namespace) -> dict[str, runs.Run]:
    """Grows one model, and trains its final size from the start, if that isn't done yet."""
    folders = {arm: args.out / f"{name}-seed{seed}-{arm}" for arm in ARMS}
    if all((folder / runs.RESULTS).exists() for folder in folders.values()):
        return {arm: runs.read(folder) for arm, folder in folders.items()}
    epochs = args.epochs or TASKS[name].epochs
    print(f"\n{name}, seed {seed}:", flush=True)
    keras.utils.set_random_seed(seed)
    model = keras_grow.GrowableModel.from_keras(TASKS[name].build())
    every = epochs // (GROWTHS + 1)
    penalty = None if args.penalty == "none" else args.penalty
    growth = keras_grow.GrowthCallback(args.rate, every, args.method, penalty)
    found = {"grown": train(model, name, seed, epochs, args, [growth])}
    grown = found["grown"].training_flops
    final = keras_grow.flops.training_flops(model, len(load(name, args)[0]))  # of an epoch
    for arm, length in {"flops": math.ceil(grown / final), "epochs": epochs}.items():
        keras.utils.set_random_seed(seed)
        fresh = keras_grow.GrowableModel.from_keras(keras.models.clone_model(model.to_keras()))
        found[arm] = train(fresh, name, seed, length, args)
    for arm, run in found.items():
        runs.write(folders[arm] / runs.RESULTS, run)
        print(f"{ARMS[arm]:26} {100 * run.test_accuracy:6.2f} %, loss {run.test_loss:.3f}")
    return found


def train(model, name: str, seed: int, epochs: int, args, callbacks=()) -> runs.Run:
    """Trains and tests a model, and returns the results."""
    x, y, held_x, held_y = load(name, args)
    steps = epochs * math.ceil(len(x) / BATCH_SIZE)
    rate = keras_grow.schedules.HoldThenCosine(TASKS[name].learning_rate, steps, hold=0.75)
    model.compile(
        keras.optimizers.Adam(rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    meter = keras_grow.CostMeter(len(x))
    history = model.fit(x, y, BATCH_SIZE, epochs, verbose=0, callbacks=[meter, *callbacks])
    last = model.evaluate(held_x, held_y, 256, verbose=0, return_dict=True)
    own = {"model": name, "seed": seed, "epochs": epochs, "static": not callbacks}
    return runs.Run.of(history, meter, last, "any_model", {**asked(args), **own})


def asked(args: argparse.Namespace) -> dict:
    """Returns what all runs in a folder have in common."""
    names = "backend method penalty rate epochs validation".split()
    return {name: getattr(args, name) for name in names}


def load(name: str, args: argparse.Namespace) -> list[np.ndarray]:
    """Returns inputs and labels to train on, and those held out."""
    x, y = TASKS[name].data()
    train, held = slice(0, len(x) * 3 // 5), slice(len(x) * 4 // 5, None)
    if args.validation:
        held = slice(train.stop, held.start)
    return [x[train], y[train], x[held], y[held]]


def table(results: dict[str, list[dict[str, runs.Run]]], args: argparse.Namespace) -> str:
    """Returns the means over the seeds, and each seed's accuracy."""
    split = "validation" if args.validation else "test"
    lines = [
        f"| model | | {split} accuracy (%) | each | {split} loss | GFLOPs | parameters |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, seeds in results.items():
        for arm, label in ARMS.items():
            found = [each[arm] for each in seeds]
            accuracies = [100 * run.test_accuracy for run in found]
            mean = {
                "loss": np.mean([run.test_loss for run in found]),
                "gflops": np.mean([run.training_flops for run in found]) / 1e9,
                "size": np.mean([run.parameters for run in found]),
            }
            lines.append(
                f"| {name} | {label} | {np.mean(accuracies):.2f} | "
                + " ".join(f"{each:.1f}" for each in accuracies)
                + " | {loss:.3f} | {gflops:.1f} | {size:,.0f} |".format(**mean)
            )
    return "\n".join(lines)


# Data: the same at every call, in no order but that of the text.


def waves() -> tuple[np.ndarray, np.ndarray]:
    """Sine, square, saw-tooth and triangular waves `(3000, 96, 1)` in noise, and which they are."""
    rng = np.random.default_rng(0)
    labels = np.arange(3000) % 4
    cycles, phase = rng.uniform(3, 8, (2, 3000, 1))
    turn = (cycles * np.linspace(0, 1, 96) + phase) % 1
    shapes = [
        np.sqrt(2) * np.sin(2 * np.pi * turn),
        np.sign(turn - 0.5),
        np.sqrt(3) * (2 * turn - 1),
        np.sqrt(3) * (4 * np.abs(turn - 0.5) - 1),
    ]
    clean = np.choose(labels[:, None], shapes)
    return (clean + rng.normal(0, 0.6, clean.shape))[..., None].astype("float32"), labels


def digits() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's handwritten digits `(1797, 8, 8)`, from 0 to 1, shuffled."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    return (images[order] / 16).reshape(-1, 8, 8).astype("float32"), labels[order]


def shapes() -> tuple[np.ndarray, np.ndarray]:
    """Noisy images `(1000, 24, 24, 1)` of a disc, a square and a ring, and what each pixel is."""
    rng = np.random.default_rng(0)
    row, column = np.mgrid[:24, :24]
    images = rng.normal(0, 0.5, (1000, 24, 24, 1))
    labels = np.zeros((1000, 24, 24), int)
    for image, label in zip(images, labels, strict=True):
        for kind in rng.permutation([1, 2, 3]):
            size, (down, across) = rng.uniform(3, 6), rng.uniform(4, 20, 2)
            round_, square = np.hypot(row - down, column - across), np.abs(row - down)
            square = np.maximum(square, np.abs(column - across))
            inside = [round_ < size, square < size, np.abs(round_ - size) < 1.2][kind - 1]
            label[inside] = kind
        image[label > 0] += 1
    return images.astype("float32"), labels


def text() -> tuple[np.ndarray, np.ndarray]:
    """Windows of 48 characters of Python's help `(windows, 48)`, and the character after each."""
    from pydoc_data.topics import topics

    written = "\n".join(topics[name] for name in sorted(topics))[:100_000]
    codes = np.minimum(np.frombuffer(written.encode("ascii", "replace"), np.uint8), 127)
    whole = codes[: (len(codes) - 1) // 48 * 48 + 1].astype("int32")
    return whole[:-1].reshape(-1, 48), whole[1:].reshape(-1, 48)


# Models, of plain Keras layers.


def cnn1d() -> keras.Model:
    """Three convolutions over time."""
    inputs = x = keras.Input((96, 1))
    for block in (1, 2, 3):
        x = layers.Conv1D(6, 5, padding="same", use_bias=False, name=f"conv{block}")(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
        x = layers.MaxPooling1D(2)(x)
    return keras.Model(inputs, layers.Dense(4)(layers.GlobalAveragePooling1D()(x)))


def lstm() -> keras.Model:
    """Two LSTMs."""
    inputs = keras.Input((8, 8))
    x = layers.LSTM(8, return_sequences=True)(inputs)
    return keras.Model(inputs, layers.Dense(10)(layers.LSTM(8)(x)))


@keras.saving.register_keras_serializable(package="any_model")
class Positions(layers.Layer):
    """Adds to each position of a sequence a vector that it learns."""

    def build(self, shape):
        self.table = self.add_weight(shape=shape[1:], initializer="random_normal", name="table")

    def call(self, inputs):
        return inputs + self.table


keras_grow.register_layer(Positions, through={"table": -1}, linear=True)


def block(x, causal: bool):
    """A block of a transformer, which normalises what it reads."""
    width = x.shape[-1]
    read = layers.LayerNormalization()(x)
    read = layers.MultiHeadAttention(2, width // 2)(read, read, use_causal_mask=causal)
    x = layers.Add()([x, read])
    read = layers.Dense(2 * width, activation="gelu")(layers.LayerNormalization()(x))
    return layers.Add()([x, layers.Dense(width)(read)])


def vit() -> keras.Model:
    """A transformer over the 16 patches of an image."""
    inputs = keras.Input((8, 8))
    x = layers.Conv2D(12, 2, strides=2)(layers.Reshape((8, 8, 1))(inputs))
    x = Positions()(layers.Reshape((16, 12))(x))
    for _ in range(2):
        x = block(x, causal=False)
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(inputs, layers.Dense(10)(x))


def unet() -> keras.Model:
    """Down to a quarter of the resolution and up again, with what was seen on the way down."""

    def convolution(x, width):
        x = layers.Conv2D(width, 3, padding="same", use_bias=False)(x)
        return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))

    inputs = keras.Input((24, 24, 1))
    fine = convolution(inputs, 4)
    middle = convolution(layers.MaxPooling2D()(fine), 8)
    x = convolution(layers.MaxPooling2D()(middle), 12)
    for width, seen in ((8, middle), (4, fine)):
        x = layers.Conv2DTranspose(width, 2, strides=2)(x)
        x = convolution(layers.Concatenate()([x, seen]), width)
    return keras.Model(inputs, layers.Conv2D(4, 1)(x))


def gpt() -> keras.Model:
    """A transformer that tells the next character."""
    inputs = keras.Input((48,), dtype="int32")
    x = Positions()(layers.Embedding(128, 16)(inputs))
    for _ in range(2):
        x = block(x, causal=True)
    return keras.Model(inputs, layers.Dense(128)(layers.LayerNormalization()(x)))


class Task(NamedTuple):
    """A model at the size that it starts at, what it is trained on, and how."""

    build: Callable[[], keras.Model]
    data: Callable[[], tuple[np.ndarray, np.ndarray]]
    epochs: int
    learning_rate: float


TASKS = {
    "cnn1d": Task(cnn1d, waves, 32, 0.003),
    "lstm": Task(lstm, digits, 48, 0.003),
    "vit": Task(vit, digits, 40, 0.003),
    "unet": Task(unet, shapes, 20, 0.003),
    "gpt": Task(gpt, text, 20, 0.003),
}


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = common.parser(__doc__)
    add = parser.add_argument
    add("--model", choices=[*TASKS, "all"], nargs="+", default=["all"], help="which models")
    method = "of growth; firefly as in docs/results.md, though the package's default is random"
    add("--method", choices=keras_grow.methods.NAMES, default="firefly", help=method)
    named = "after a growth; the paper's as in docs/results.md, not the package's default"
    add("--penalty", choices=["default", "paper", "none"], default="paper", help=named)
    add("--rate", type=common.positive, default=0.35, help="new neurons per old one")
    add("--epochs", type=common.positive_int, help="at least 4; each model has its own")
    add("--seeds", type=common.count, nargs="+", default=[0], help="of every random draw")
    add("--validation", action="store_true", help="judge by the validation split")
    add("--out", type=Path, help="folder to write to, or to go on in; runs/any_model-<time>")
    args = parser.parse_args(argv)
    if args.epochs is not None and args.epochs <= GROWTHS:
        parser.error(f"--epochs {args.epochs} leaves no room for {GROWTHS} growths")
    if "all" in args.model:
        args.model = list(TASKS)
    args.out = args.out or common.default_out("any_model")
    return args


if __name__ == "__main__":
    try:
        main()
    except common.FolderError as error:
        sys.exit(str(error))
