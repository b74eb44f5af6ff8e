"""Grows a small network on real handwritten digits: a minute on 2 cores, no download.

    python recipes/digits.py                      # grows four times, with the similarity penalty
    python recipes/digits.py --method random --no-penalty --seed 1
    python recipes/digits.py --backend jax        # needs no TensorFlow

A network of four convolutions starts 8 channels wide and gets 35 % more neurons every 12 of 60
epochs. Its final size then trains from the start: for as many epochs, and for as many
floating-point operations, which are fewer epochs. The images are the 1,797 digits of 8x8 pixels
that come with scikit-learn: 500 of them, the same in every run, are the test split, the others the
training split, shifted by up to a pixel.

The defaults were chosen on 297 images held out from the training split (`--validation`), never on
the test split, whose accuracy along the way is shown and nothing else. With seeds 0, 1 and 2 the
grown network reached 99.8, 99.2 and 99.4 % of the test split; its final size 99.2, 99.0 and 99.4 %
for 2.3 times the FLOPs, and 98.0, 99.6 and 99.6 % for as many. What growing saves is on the way: it
is at 95 % after 7, 6 and 4 GFLOPs, its final size after 35, 35 and 54.

Writes into --out: the grown network (model.keras), results.json, static.json and static_flops.json
(see runs.Run), history.csv, and as figures growth_curve.png, similarity_histogram.png and
saliency.png.

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
PENALTY_EPOCHS = 6
BLOCKS = 4
GOAL = 0.95  # accuracy on the images held out
LABELS = "grown", "final size, as many epochs", "final size, as many FLOPs"


class Digits(NamedTuple):
    """Images `(images, 8, 8, 1)` from 0 to 1 with their labels, to train on and to be judged by."""

    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]


def main(argv: list[str] | None = None) -> dict:
    """Runs the recipe, and returns what it writes: the grown run, and the static one."""
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
    widths = [grown.widths[f"conv{block}"] for block in range(1, BLOCKS + 1)]
    print("\nits final size from the start, for as many epochs:")
    static = build(widths, digits, args)
    baseline = train(static, digits, args)
    shorter = for_as_many_flops(args, run, baseline)
    print(f"\nits final size from the start, for as many FLOPs ({shorter.epochs} epochs):")
    short = train(build(widths, digits, shorter), digits, shorter)
    results = {"grown": run, "static": baseline, "static_flops": short}
    grown.save(args.out / "model.keras")
    runs.write(args.out / "static.json", baseline)
    runs.write(args.out / "static_flops.json", short)
    runs.write(args.out / runs.RESULTS, run)
    draw(args, results, copies.kernel, grown, static, digits)
    print(
        f"\n{comparison(results, args)}\n\n{saving(run, baseline)}\n\n"
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
    epochs = min(PENALTY_EPOCHS, args.every)
    penalty = keras_grow.SimilarityPenalty(epochs=epochs) if args.penalty else None
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


def for_as_many_flops(args, run: runs.Run, baseline: runs.Run) -> argparse.Namespace:
    """Returns the arguments by which the final size trains for the FLOPs of the grown run.

    Its epochs are rounded up, in its favour. They are fewer, and its learning rate falls as early:
    a run that were merely cut off would end at a rate at which nothing settles.
    """
    epochs = math.ceil(run.training_flops * args.epochs / baseline.training_flops)
    every = max(1, round(args.every * epochs / args.epochs))
    return argparse.Namespace(**{**vars(args), "epochs": epochs, "every": every})


def comparison(results: Mapping[str, runs.Run], args: argparse.Namespace) -> str:
    """Returns the runs side by side, as a table."""
    split = "validation" if args.validation else "test"
    lines = [
        f"{'':26} {split + ' accuracy':>19}  seconds  training FLOPs   to {GOAL:.0%}  parameters"
    ]
    for label, each in zip(LABELS, results.values(), strict=True):
        goal = flops_to_goal(each)
        lines.append(
            f"{label:26} {100 * each.test_accuracy:17.1f} %  {each.seconds['training']:7.1f}"
            f"  {each.training_flops:14.2e}  {f'{goal:.1e}' if goal else '-':>7}"
            f"  {each.parameters:10,}"
        )
    return "\n".join(lines)


def saving(run: runs.Run, baseline: runs.Run) -> str:
    """Says in one line what growing saved."""
    saved = 1 - run.training_flops / baseline.training_flops
    line = f"growing saved {saved:.0%} of the FLOPs of as many epochs at the final size"
    goals = flops_to_goal(run), flops_to_goal(baseline)
    return (
        f"{line}, and {1 - goals[0] / goals[1]:.0%} on the way to {GOAL:.0%}"
        if all(goals)
        else line
    )


def flops_to_goal(run: runs.Run) -> int | None:
    """Returns the FLOPs after which the images held out were first classified that well."""
    spent = np.cumsum(run.history["training_flops"])
    reached = spent[np.array(run.history["val_accuracy"]) >= GOAL]
    return int(reached[0]) if len(reached) else None


def draw(args, results, kernel, grown, static, digits: Digits) -> None:
    """Draws what growing did: over its cost, to the neurons of one layer, and to what they see."""
    curves = dict(zip(LABELS, results.values(), strict=True))
    before = "just after the last growth" if results["grown"].growth else "at the start"
    figures = {
        "growth_curve": plots.growth_curve(curves, x="flops"),
        "similarity_histogram": plots.similarity_histogram(
            {f"conv2, {before}": kernel, "conv2, at the end": grown.get_layer("conv2").kernel}
        ),
    }
    if not args.fast:
        images, labels = digits.test
        first = [int(np.argmax(labels == digit)) for digit in range(10)]
        models = {"grown": grown, "from the start": static}
        figures["saliency"] = plots.saliency_grid(
            models, images[first], labels[first], overlay=False
        )
    for name, figure in figures.items():
        figure.savefig(args.out / f"{name}.png", dpi=150)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = common.parser(__doc__)
    add = parser.add_argument
    switch = argparse.BooleanOptionalAction
    methods = keras_grow.methods.NAMES
    add("--epochs", type=common.positive_int, default=60, help="of training")
    add("--every", type=common.positive_int, default=12, help="epochs between growths")
    add("--rate", type=common.positive, default=0.35, help="new neurons per old one")
    add("--width", type=common.positive_int, default=8, help="channels of each layer, at first")
    add("--method", choices=methods, default="net2wider", help="how to choose new neurons")
    add("--penalty", action=switch, default=True, help="against similar neurons")
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
