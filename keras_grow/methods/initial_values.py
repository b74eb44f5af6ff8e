"""What initializers of layers draw, drawn by NumPy: the same on every backend."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

# The deviation of a standard normal distribution that is cut off beyond two of its deviations.
_DEVIATION_WHEN_TRUNCATED = 0.87962566103423978


def initial_values(initializer: Any, shape: tuple[int, ...], rng: np.random.Generator):
    """Draws values as an initializer of a layer would.

    Args:
        initializer: Keras's own initializers are drawn by NumPy, of the same distribution. Any
            other is called, with a seed from `rng` if it takes one.
        shape: Shape of the values.
        rng: The source of the draw.

    Returns:
        Array of float32.

    Example:

    >>> import keras, numpy as np
    >>> from keras_grow.methods.initial_values import initial_values
    >>> rng = np.random.default_rng(0)
    >>> initial_values(keras.initializers.HeNormal(), (3, 3, 8, 16), rng).shape
    (3, 3, 8, 16)
    """
    if type(initializer) in _DRAWS:
        return _DRAWS[type(initializer)](initializer, shape, rng).astype("float32")
    config = getattr(initializer, "get_config", dict)()
    if "seed" in config:
        seed = int(rng.integers(2**31))
        initializer = type(initializer).from_config({**config, "seed": seed})
    return keras.ops.convert_to_numpy(initializer(shape, dtype="float32"))


def _normal(initializer: Any, shape: tuple, rng: np.random.Generator) -> np.ndarray:
    return rng.normal(initializer.mean, initializer.stddev, shape)


def _uniform(initializer: Any, shape: tuple, rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(initializer.minval, initializer.maxval, shape)


def _truncated_normal(initializer: Any, shape: tuple, rng: np.random.Generator) -> np.ndarray:
    return initializer.mean + initializer.stddev * _truncated(shape, rng)


def _truncated(shape: tuple, rng: np.random.Generator) -> np.ndarray:
    """Draws standard normal values, those beyond two deviations again."""
    values = rng.normal(size=shape)
    while np.any(beyond := np.abs(values) > 2):
        values[beyond] = rng.normal(size=np.count_nonzero(beyond))
    return values


def _variance_scaling(initializer: Any, shape: tuple, rng: np.random.Generator) -> np.ndarray:
    fan_in, fan_out = _fans(initializer, shape)
    fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}
    deviation = math.sqrt(initializer.scale / max(1.0, fan[initializer.mode]))
    if initializer.distribution == "truncated_normal":
        return deviation / _DEVIATION_WHEN_TRUNCATED * _truncated(shape, rng)
    if initializer.distribution == "uniform":
        limit = math.sqrt(3) * deviation
        return rng.uniform(-limit, limit, shape)
    return rng.normal(0, deviation, shape)


def _fans(initializer: Any, shape: tuple) -> tuple[int, int]:
    """Returns how many units a kernel reads and how many it feeds, as Keras counts them."""
    into = getattr(initializer, "input_axes", None)  # new in Keras 3.13
    out_of = getattr(initializer, "output_axes", None)
    if into is not None and out_of is not None:
        return math.prod(shape[axis] for axis in into), math.prod(shape[axis] for axis in out_of)
    if len(shape) < 2:
        return (shape or (1,))[0], (shape or (1,))[0]
    receptive_field = math.prod(shape[:-2])
    return shape[-2] * receptive_field, shape[-1] * receptive_field


def _orthogonal(initializer: Any, shape: tuple, rng: np.random.Generator) -> np.ndarray:
    if len(shape) < 2:
        return keras.ops.convert_to_numpy(initializer(shape))  # says what is wrong
    rows, columns = math.prod(shape[:-1]), shape[-1]
    q, r = np.linalg.qr(rng.normal(size=(max(rows, columns), min(rows, columns))))
    q = q * np.sign(np.diag(r))  # makes the distribution uniform
    return initializer.gain * (q.T if rows < columns else q).reshape(shape)


_DRAWS: dict[type, Callable] = {
    keras.initializers.RandomNormal: _normal,
    keras.initializers.RandomUniform: _uniform,
    keras.initializers.TruncatedNormal: _truncated_normal,
    keras.initializers.VarianceScaling: _variance_scaling,
    keras.initializers.GlorotNormal: _variance_scaling,
    keras.initializers.GlorotUniform: _variance_scaling,
    keras.initializers.HeNormal: _variance_scaling,
    keras.initializers.HeUniform: _variance_scaling,
    keras.initializers.LecunNormal: _variance_scaling,
    keras.initializers.LecunUniform: _variance_scaling,
    keras.initializers.OrthogonalInitializer: _orthogonal,
}
