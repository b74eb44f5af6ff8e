"""Does growing on the plateau find a good width? One grown network beside a sweep of fixed widths.

    python benchmarks/how_wide.py                                     # scikit-learn's digits
    python benchmarks/how_wide.py --data cifar10.npz --examples 5000  # as Keras keeps them

Trains the network of docs/index.md as its section "How wide?" does: it grows by 35 % where the loss
on a held-out tenth falls by less than 0.05 in 5 epochs, at most six times, and training stops where
no epoch is better than the best one for 25. Beside it networks of a fixed width, once, twice, ...
the first, stop in the same way. Prints, for each seed, the width in units of the first, the
accuracies on the held-out and the test images, the epochs, and the FLOPs of training; a sweep costs
the sum of its rows, and takes the width that is best on the held-out images.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import keras_grow

Examples = tuple[np.ndarray, np.ndarray]
WIDTHS = (8, 16)  # of the two convolutions at first


def load(path: Path | None, examples: int) -> tuple[Examples, Examples]:
    """Returns images `(images, height, width, channels)` and labels, to train on and to test by."""
    if path:
        with np.load(path) as arrays:
            x, y, x_test, y_test = (
                arrays[name] for name in ("x_train", "y_train", "x_test", "y_test")
            )
        scale = 255
    else:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        images, labels = load_digits(return_X_y=True)
        images = images.reshape(-1, 8, 8, 1)
        x, x_test, y, y_test = train_test_split(
            images, labels, test_size=500, stratify=labels, random_state=0
        )
        scale = 16
    x, x_test = (each.astype("float32") / scale for each in (x, x_test))
    return (x[:examples], y[:examples].reshape(-1)), (x_test, y_test.reshape(-1))


def network(shape: Sequence[int], factor: float) -> keras_grow.GrowableModel:
    """Returns the network of docs/index.md, so many times as wide, compiled."""
    first, second = (round(factor * width) for width in WIDTHS)
    convolution = {"kernel_size": 3, "padding": "same", "activation": "relu"}
    plain = keras.Sequential(
        [
            keras.Input(shape),
            keras.layers.Conv2D(first, **convolution),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(second, **convolution),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(10, name="logits"),
        ]
    )
    model = keras_grow.GrowableModel.from_keras(plain)
    model.compile(
        "adam",
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def trained(factor: float, grows: bool, seed: int, args, train: Examples, test: Examples) -> dict:
    """Trains a network until the held-out loss stands still, and returns what came out."""
    keras.utils.set_random_seed(seed)
    model = network(train[0].shape[1:], factor)
    meter = keras_grow.CostMeter(round(0.9 * len(train[0])))
    callbacks = [
        meter,
        keras.callbacks.EarlyStopping("val_loss", patience=25, restore_best_weights=True),
    ]
    if grows:
        plateau = keras_grow.OnPlateau("val_loss", 5, min_delta=args.min_delta, max_growths=6)
        callbacks.insert(1, keras_grow.GrowthCallback(0.35, every=plateau, verbose=0))
    history = model.fit(
        *train, validation_split=0.1, epochs=args.epochs, callbacks=callbacks, verbose=0
    ).history
    best = int(np.argmin(history["val_loss"]))
    width = sum(model.widths.values()) / sum(WIDTHS)
    _, accuracy = model.evaluate(*test, batch_size=500, verbose=0)
    return {
        "width": width,
        "held out": history["val_accuracy"][best],
        "held-out loss": history["val_loss"][best],
        "test": accuracy,
        "epochs": len(history["val_loss"]),
        "flops": sum(meter.flops),
    }


def main(argv: list[str] | None = None) -> dict:
    """Runs the benchmark, and returns name -> one entry for each seed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, help="an .npz file; by default, digits")
    parser.add_argument("--examples", type=int, default=50_000, help="at most so many")
    parser.add_argument("--factors", type=float, nargs="+", default=[1, 2, 3, 4, 6])
    parser.add_argument("--min-delta", type=float, default=0.05, help="a fall worth waiting for")
    parser.add_argument("--epochs", type=int, default=300, help="at most")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--json", type=Path, help="write the numbers there, too")
    args = parser.parse_args(argv)
    train, test = load(args.data, args.examples)
    print("| | seed | width | held out (%) | test (%) | epochs | GFLOPs |")
    print("|---|---|---|---|---|---|---|")
    arms = {"grown": (1.0, True), **{f"fixed, {f:g}": (f, False) for f in args.factors}}
    results: dict[str, list[dict]] = {name: [] for name in arms}
    for seed in args.seeds:
        for name, (factor, grows) in arms.items():
            row = trained(factor, grows, seed, args, train, test)
            results[name].append(row)
            print(
                f"| {name} | {seed} | {row['width']:.1f} | {100 * row['held out']:.1f} "
                f"| {100 * row['test']:.1f} | {row['epochs']} | {row['flops'] / 1e9:.1f} |",
                flush=True,
            )
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))
    return results


if __name__ == "__main__":
    main()
