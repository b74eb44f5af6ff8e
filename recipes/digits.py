"""Grows a small network on real handwritten digits: a minute or two on 2 cores, no download.

    python recipes/digits.py                      # grows four times, as GrowthCallback does
    python recipes/digits.py --method net2wider --penalty paper --seed 1
    python recipes/digits.py --backend jax        # needs no TensorFlow

A network of four convolutions starts 8 channels wide and gets 35 % more neurons every 12 of 60
epochs. Its final size then trains from the start: for as many epochs, and for as many
floating-point operations, which are fewer epochs; and its first size trains without growing. The
images are the 1,797 digits of 8x8 pixels that come with scikit-learn: 500 of them, the same in
every run, are the test split, the others the training split, shifted by up to a pixel. They are
easy: this shows how growing works, and docs/results.md where it pays.

Widths, rate and stages were chosen on 297 images held out from the training split (`--validation`),
never on the test split, whose accuracy along the way is shown and nothing else.

Writes into --out: the grown network (model.keras), its results.json and those of the other three
(static.json, static_flops.json, static_start.json; see runs.Run), history.csv, and as figures
growth_curve.png, similarity_histogram.png and saliency.png.

Reference: Sakai and Hotta, Growing Deep Neural Network Considering with Similarity between Neurons.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import common
import keras
import numpy as np

import keras_grow
from keras_grow import plots, runs
from keras_grow.layers import GrowableBatchNormalization, GrowableConv2D

BATCH_SIZE = 32
LEARNING_RATE = 0.1
BLOCKS = 4
GOAL = 0.98  # accuracy on the images held out
# Name of a run, and of its file -> what it is.
LABELS = {
    "grown": "grown",
    "static": "final size, as many epochs",
    "static_flops": "final size, as many FLOPs",
    "static_start": "first size, as many epochs",
}


class Digits(NamedTuple):
    """Images `(images, 8, 8, 1)` from 0 to 1 with their labels, to train on and to be judged by."""

    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]


def main(argv: list[str] | None = None) -> dict:
    """Runs the recipe, and returns what it writes: the grown run, and those beside it."""
    args = parse(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    digits = load(args.validation)
    print(
        f"{len(digits.train[1]):,} handwritten digits to train on, {len(digits.test[1])} to "
        f"{'validate' if args.validation else 'test'}\n\n"
        f"{args.width} channels wide at the start:"
    )
    grown = build([args.width] * BLOCKS, digits, args)
    copies = KernelAfterGrowth("conv2")
    log = keras.callbacks.CSVLogger(args.out / "history.csv")
    run = train(grown, digits, args, [growth(args), copies, log])
    results, models = {"grown": run}, {"grown": grown}
    for name, (widths, asked) in baselines(args, run).items():
        print(f"\n{LABELS[name]} ({asked.epochs}):")
        models[name] = build(widths, digits, asked)
        results[name] = train(models[name], digits, asked)
    grown.save(args.out / "model.keras")
    for name, each in results.items():
        runs.write(args.out / (runs.RESULTS if name == "grown" else f"{name}.json"), each)
    draw(args, results, copies.kernel, models, digits)
    share = run.training_flops / results["static"].training_flops
    print(
        f"\n{comparison(results, args)}\n\n"
        f"growing took {share:.0%} of the FLOPs of as many epochs at the final size\n\n"
        f"model, results and figures are in {args.out}"
    )
    return {name: each.to_dict() for name, each in results.items()}


def load(validation: bool) -> Digits:
    """Splits the digits, each class in proportion, in the same way every time."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    images = (images / 16).reshape(-1, 8, 8, 1).astype("float32")

    def split(images, labels, held_out):
        parts = train_test_split(
            images, labels, test_size=held_out, stratify=labels, random_state=0
        )
        return Digits((parts[0], parts[2]), (parts[1], parts[3]))

    digits = split(images, labels, 500)
    return split(*digits.train, 297) if validation else digits


class ShiftedBatches(keras.utils.PyDataset):
    """The training images in batches, at each epoch in another order and place.

    Args:
        images: `(images, 8, 8, 1)`.
        labels: `(images,)`.
        seed: Of the order and the shifts.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, seed: int):
        super().__init__()
        self._padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
        self._labels, self._rng = labels, np.random.default_rng(seed)
        self.on_epoch_end()

    def on_epoch_end(self) -> None:
        """Shuffles the images, and shifts each by up to a pixel."""
        rows = self._rng.permutation(len(self._labels))
        down, across = self._rng.integers(0, 3, (2, len(rows), 1)) + np.arange(8)
        shifted = self._padded[rows[:, None, None], down[:, :, None], across[:, None, :]]
        self._epoch = shifted, self._labels[rows]

    def __len__(self) -> int:
        return -(-len(self._labels) // BATCH_SIZE)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        batch = slice(index * BATCH_SIZE, (index + 1) * BATCH_SIZE)
        return tuple(part[batch] for part in self._epoch)


def build(widths: Sequence[int], digits: Digits, args) -> keras_grow.GrowableModel:
    """Builds and compiles the network; its random draws are those of `--seed`."""
    keras.utils.set_random_seed(args.seed)
    inputs = x = keras.Input((8, 8, 1))
    for block, width in enumerate(widths, start=1):
        x = GrowableConv2D(width, 3, padding="same", use_bias=False, name=f"conv{block}")(x)
        # An epoch is 41 steps: at Keras's 0.99 the statistics would trail the weights by two.
        x = GrowableBatchNormalization(momentum=0.9, name=f"bn{block}")(x)
        x = keras.layers.ReLU(name=f"relu{block}")(x)
        if block == 2:
            x = keras.layers.MaxPooling2D(name="pool")(x)
    x = keras.layers.GlobalAveragePooling2D(name="average")(x)
    model = keras_grow.GrowableModel(inputs, keras.layers.Dense(10, name="head")(x))
    steps = -(-len(digits.train[1]) // BATCH_SIZE)
    growths = range(args.every, args.epochs, args.every)
    rate = keras_grow.schedules.get(
        args.schedule, LEARNING_RATE, args.epochs * steps, [epoch * steps for epoch in growths]
    )
    model.compile(
        keras.optimizers.SGD(rate, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def growth(args: argparse.Namespace) -> keras_grow.GrowthCallback:
    """Returns the callback that grows the network."""
    penalty = None if args.penalty == "none" else args.penalty
    return keras_grow.GrowthCallback(args.rate, args.every, args.method, penalty)


class KernelAfterGrowth(keras.callbacks.Callback):
    """Keeps a layer's kernel as it was after the latest growth, before training went on.

    Put it after the callback that grows the network.

    Args:
        layer: Name of the layer.

    Attributes:
        kernel: The kernel; before any growth, the one that training began with.
    """

    def __init__(self, layer: str):
        super().__init__()
        self.layer = layer
        self.kernel: np.ndarray | None = None
        self._growths = 0

    def on_epoch_begin(self, epoch, logs=None) -> None:
        """Copies the kernel, where the model has just grown."""
        growths = len(self.model.growth_history)
        if self.kernel is None or growths > self._growths:
            self.kernel = self.model.get_layer(self.layer).kernel.numpy()
        self._growths = growths


class Progress(keras.callbacks.Callback):
    """Logs the learning rate, and prints the accuracy at the end of each stage.

    Put it before what reads the logs.

    Args:
        every: Epochs in a stage.
    """

    def __init__(self, every: int):
        super().__init__()
        self.every = every

    def on_epoch_end(self, epoch, logs=None) -> None:
        """Logs, and prints a line where a stage ends."""
        logs["learning_rate"] = float(self.model.optimizer.learning_rate)
        if (epoch + 1) % self.every == 0 or epoch + 1 == self.params["epochs"]:
            print(f"epoch {epoch + 1}: accuracy {100 * logs['val_accuracy']:.1f} %", flush=True)


def train(model, digits: Digits, args, callbacks: Sequence = ()) -> runs.Run:
    """Trains and tests the network, and returns the results."""
    meter = keras_grow.CostMeter(len(digits.train[1]))
    history = model.fit(
        ShiftedBatches(*digits.train, args.seed),
        epochs=args.epochs,
        validation_data=digits.test,
        validation_batch_size=len(digits.test[1]),
        callbacks=[meter, Progress(args.every), *callbacks],
        verbose=0,
    )
    last = {name: history.history[f"val_{name}"][-1] for name in ("loss", "accuracy")}
    configuration = {**vars(args), "out": str(args.out), "static": not callbacks}
    return runs.Run.of(history, meter, last, "digits", configuration)


def baselines(
    args: argparse.Namespace, run: runs.Run
) -> dict[str, tuple[list[int], argparse.Namespace]]:
    """Returns the runs that don't grow: name -> widths, and arguments to train with.

    For as many FLOPs the final size trains for fewer epochs, rounded up, in its favour. Its
    learning rate falls as early: a run that were merely cut off would end at a rate at which
    nothing settles.
    """
    final = [run.widths[f"conv{block}"] for block in range(1, BLOCKS + 1)]
    epochs = math.ceil(run.training_flops / run.history["training_flops"][-1])
    every = max(1, round(args.every * epochs / args.epochs))
    fewer = argparse.Namespace(**{**vars(args), "epochs": epochs, "every": every})
    return {
        "static": (final, args),
        "static_flops": (final, fewer),
        "static_start": ([args.width] * BLOCKS, args),
    }


def comparison(results: Mapping[str, runs.Run], args: argparse.Namespace) -> str:
    """Returns the runs side by side, as a table."""
    split = "validation" if args.validation else "test"
    lines = [
        f"{'':26} {split + ' accuracy':>19}  seconds  training FLOPs   to {GOAL:.0%}  parameters"
    ]
    for name, each in results.items():
        goal = flops_to_goal(each)
        lines.append(
            f"{LABELS[name]:26} {100 * each.test_accuracy:17.1f} %  {each.seconds['training']:7.1f}"
            f"  {each.training_flops:14.2e}  {f'{goal:.1e}' if goal else '-':>7}"
            f"  {each.parameters:10,}"
        )
    return "\n".join(lines)


def flops_to_goal(run: runs.Run) -> int | None:
    """Returns the FLOPs after which the images held out were first classified that well."""
    spent = np.cumsum(run.history["training_flops"])
    reached = spent[np.array(run.history["val_accuracy"]) >= GOAL]
    return int(reached[0]) if len(reached) else None


def draw(args, results, kernel, models, digits: Digits) -> None:
    """Draws what growing did: over its cost, to the neurons of one layer, and to what they see."""
    curves = {LABELS[name]: each for name, each in results.items()}
    before = "just after the last growth" if results["grown"].growth else "at the start"
    figures = {
        "growth_curve": plots.growth_curve(curves, x="flops"),
        "similarity_histogram": plots.similarity_histogram(
            {
                f"conv2, {before}": kernel,
                "conv2, at the end": models["grown"].get_layer("conv2").kernel,
            }
        ),
    }
    if not args.fast:
        images, labels = digits.test
        first = [int(np.argmax(labels == digit)) for digit in range(10)]
        shown = {"grown": models["grown"], "from the start": models["static"]}
        figures["saliency"] = plots.saliency_grid(
            shown, images[first], labels[first], overlay=False
        )
    for name, figure in figures.items():
        figure.savefig(args.out / f"{name}.png", dpi=150)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = common.parser(__doc__)
    add = parser.add_argument
    methods = keras_grow.methods.NAMES
    add("--epochs", type=common.positive_int, default=60, help="of training")
    add("--every", type=common.positive_int, default=12, help="epochs between growths")
    add("--rate", type=common.positive, default=0.35, help="new neurons per old one")
    add("--width", type=common.positive_int, default=8, help="channels of each layer, at first")
    add("--method", choices=methods, default="random", help="how to choose new neurons")
    penalties = ["default", "paper", "none"]
    add("--penalty", choices=penalties, default="default", help="against similar neurons")
    add("--schedule", choices=["cosine", "restarts", "hold"], default="hold", help="learning rate")
    add("--seed", type=common.count, default=0, help="of every random draw")
    add("--validation", action="store_true", help="judge by held-out training images")
    add("--fast", action="store_true", help="no saliency figure")
    add("--out", type=Path, help="folder for the results, if not runs/digits-<time>")
    args = parser.parse_args(argv)
    if args.every >= args.epochs:
        parser.error(f"--every {args.every} leaves no growth within --epochs {args.epochs}")
    args.out = args.out or common.default_out("digits")
    if (args.out / runs.RESULTS).exists():
        parser.error(f"--out {args.out} already holds results: name another folder")
    return args


if __name__ == "__main__":
    main()
