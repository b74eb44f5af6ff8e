"""Does an exact growth hurt what follows? Loss over the next 100 steps, with and without it.

    python benchmarks/continuity.py

For each optimizer: a small convolutional network trains on scikit-learn's digits for 100 steps;
then one copy goes on, and one grows by 35 % with `Net2Wider(noise=0)` and goes on with the same
batches. Printed is the mean training loss of both over the next 100 steps, and their quotient, as
medians over the seeds. "no slots" is the growth with the slots set to zero, as a library that
rebuilds the optimizer would do.
"""

from __future__ import annotations

import argparse
import json
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from sklearn.datasets import load_digits

import keras_grow
from keras_grow.layers import GrowableBatchNormalization, GrowableConv2D
from keras_grow.methods import Net2Wider

OPTIMIZERS = {
    "SGD, momentum 0.9": lambda: keras.optimizers.SGD(0.05, momentum=0.9),
    "Adam": lambda: keras.optimizers.Adam(0.003),
    "AMSGrad": lambda: keras.optimizers.Adam(0.003, amsgrad=True),
    "AdamW": lambda: keras.optimizers.AdamW(0.003),
    "Nadam": lambda: keras.optimizers.Nadam(0.003),
    "Adamax": lambda: keras.optimizers.Adamax(0.005),
    "RMSprop, momentum": lambda: keras.optimizers.RMSprop(0.001, momentum=0.9, centered=True),
    "Adagrad": lambda: keras.optimizers.Adagrad(0.03),
    "Adadelta": lambda: keras.optimizers.Adadelta(1.0),
    "Adafactor": lambda: keras.optimizers.Adafactor(0.02),
    "Lion": lambda: keras.optimizers.Lion(0.0005),
    "Lamb": lambda: keras.optimizers.Lamb(0.01),
}


def network(optimizer) -> keras_grow.GrowableModel:
    """Three convolutions with batch normalisation, 8 channels wide."""
    inputs = x = keras.Input((8, 8, 1))
    for number in range(3):
        x = GrowableConv2D(8, 3, padding="same", use_bias=False, name=f"conv{number}")(x)
        x = GrowableBatchNormalization(momentum=0.9)(x)
        x = keras.layers.ReLU()(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras_grow.GrowableModel(inputs, keras.layers.Dense(10)(x))
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def losses(make, seed: int, steps: int, growth: str) -> float:
    """Trains, grows or not, and returns the mean loss of the steps that follow."""
    keras.utils.set_random_seed(seed)
    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8, 1) / 16).astype("float32")
    model, rng, seen = network(make()), np.random.default_rng(seed), []
    for step in range(2 * steps):
        if step == steps and growth != "none":
            model.grow(0.35, Net2Wider(noise=0, seed=seed))
        if step == steps and growth == "no slots":
            for variable in model.optimizer.variables[2:]:
                variable.assign(np.zeros(variable.shape))
        rows = rng.integers(0, len(images), 64)
        model.reset_metrics()
        seen.append(float(model.train_on_batch(images[rows], labels[rows])))
    return float(np.mean(seen[steps:]))


def main(argv: list[str] | None = None) -> dict:
    """Measures every optimizer, prints a table and returns the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--optimizers", nargs="*", default=list(OPTIMIZERS))
    parser.add_argument("--out", default=None)
    args = parser.parse_args(argv)
    results = {}
    print(f"{'optimizer':20} {'without':>9} {'grown':>9} {'grown/without':>14} {'no slots':>9}")
    for name in args.optimizers:
        values = {
            growth: [
                losses(OPTIMIZERS[name], seed, args.steps, growth) for seed in range(args.seeds)
            ]
            for growth in ("none", "exact", "no slots")
        }
        without, grown, bare = (np.array(v) for v in values.values())
        results[name] = {
            "without": float(np.median(without)),
            "grown": float(np.median(grown)),
            "quotient": float(np.median(grown / without)),
            "no_slots_quotient": float(np.median(bare / without)),
        }
        r = results[name]
        print(
            f"{name:20} {r['without']:9.4f} {r['grown']:9.4f} {r['quotient']:14.3f} "
            f"{r['no_slots_quotient']:9.3f}",
            flush=True,
        )
    if args.out:
        with open(args.out, "w") as file:
            json.dump(results, file, indent=2)
    return results


if __name__ == "__main__":
    main()
