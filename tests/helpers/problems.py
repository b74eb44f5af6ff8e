"""Inputs and targets for networks, and networks compiled for them."""

from functools import partial

import keras
import numpy as np
from networks import batch


def compiled(model, loss="mse", optimizer=None, **options):
    """Compiles a model, with momentum unless told otherwise, and returns it."""
    model.compile(optimizer or keras.optimizers.SGD(0.05, momentum=0.9), loss, **options)
    return model


# Tracing a step takes longer than all the steps of most tests.
eager = partial(compiled, run_eagerly=True)


def cross_entropy():
    """The loss of logits."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def problem(model, count=24, seed=0):
    """Inputs and targets for a model."""
    x = batch(model, count, seed).astype(keras.config.floatx())
    y = np.random.default_rng(seed + 1).normal(size=(count, model.output_shape[-1]))
    return x, y.astype(x.dtype)


def generator(seed=0):
    return np.random.default_rng(seed)
