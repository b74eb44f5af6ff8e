"""Small models that call `keras.ops` between their layers: see `zoo.py`."""

from __future__ import annotations

import keras
from keras import layers as kl
from keras import ops
from zoo_parts import Models, classify, image

MODELS = Models()


def convolved(*filters, size=8):
    """Returns inputs, and what convolutions make of them."""
    x = inputs = image(size)
    for each in filters:
        x = kl.Conv2D(each, 3, padding="same", activation="relu")(x)
    return inputs, x


@MODELS.entry("ops: mean")
def mean():
    inputs, x = convolved(6, 8)
    return keras.Model(inputs, kl.Dense(3)(kl.Dense(6, "relu")(ops.mean(x, axis=(1, 2)))))


@MODELS.entry("ops: slicing")
def slicing():
    inputs, x = convolved(6, 8)
    return classify(inputs, kl.Conv2D(6, 3)(x[:, 1:-1, ::2]))


@MODELS.entry("ops: split")
def split():
    inputs, x = convolved(6, 8)
    left, right = ops.split(x, 2, axis=-1)
    return classify(inputs, left * ops.sigmoid(right))


@MODELS.entry("ops: reshape")
def reshape():
    inputs, x = convolved(6, 8)
    return keras.Model(inputs, kl.Dense(3)(kl.GRU(6)(ops.reshape(x, (-1, 64, 8)))))


@MODELS.entry("ops: concatenate")
def concatenate():
    inputs, x = convolved(6, 8)
    return classify(inputs, kl.Conv2D(6, 3)(ops.concatenate([x, kl.Conv2D(5, 1)(x)], axis=-1)))


@MODELS.entry("ops: einsum")
def einsum():
    inputs = keras.Input((6, 3))
    x = kl.Dense(12)(inputs)
    scores = ops.softmax(ops.einsum("bic,bjc->bij", kl.Dense(4)(x), kl.Dense(4)(x)))
    return classify(inputs, kl.Dense(6, "relu")(ops.einsum("bij,bjc->bic", scores, x)))


@MODELS.entry("ops: matmul")
def matmul():
    inputs = keras.Input((6, 3))
    x = kl.Dense(12, "relu")(inputs)
    weights = ops.softmax(kl.Dense(6)(x), axis=1)
    return classify(inputs, kl.Dense(6, "relu")(ops.matmul(ops.transpose(weights, (0, 2, 1)), x)))


@MODELS.entry("ops: expand_dims")
def expand_dims():
    inputs, x = convolved(6, 8)
    y = kl.Dense(8, "sigmoid")(kl.Dense(4, "relu")(ops.mean(x, axis=(1, 2))))
    return classify(inputs, x * ops.expand_dims(ops.expand_dims(y, 1), 1))


@MODELS.entry("ops: abs, division, power")
def elementwise():
    inputs, x = convolved(6, 8)
    y = kl.Conv2D(8, 1)(x)
    return classify(inputs, (ops.abs(x) ** 1.5) / (1 + ops.exp(-y)) - y / 2)
