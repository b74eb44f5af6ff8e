"""Inputs and targets for networks, and networks compiled for them."""

import keras
import numpy as np
from networks import batch


def compiled(model, loss="mse"):
    model.compile(keras.optimizers.SGD(0.05), loss)
    return model


def problem(model, count=24, seed=0):
    """Inputs and targets for a model."""
    x = batch(model, count, seed).astype(keras.config.floatx())
    y = np.random.default_rng(seed + 1).normal(size=(count, model.output_shape[-1]))
    return x, y.astype(x.dtype)


def generator(seed=0):
    return np.random.default_rng(seed)
