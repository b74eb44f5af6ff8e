"""What the models of `zoo.py` are made of: layers of one's own, registered by a user, and ends."""

from __future__ import annotations

from collections.abc import Callable

import keras
from keras import layers as kl
from keras import ops

import keras_grow

VOCABULARY = 20


class Models(dict):
    """Name of a model -> the function that builds it."""

    def entry(self, name: str) -> Callable:
        """Enters a function that builds a model."""

        def enter(build: Callable[[], keras.Model]) -> Callable[[], keras.Model]:
            self[name] = build
            return build

        return enter


@keras.saving.register_keras_serializable("zoo")
class Positions(kl.Layer):
    """Adds a vector to each position of a sequence."""

    def build(self, shape):
        self.positions = self.add_weight(shape=shape[1:], initializer="uniform", name="positions")

    def call(self, inputs):
        return inputs + self.positions


@keras.saving.register_keras_serializable("zoo")
class ClassToken(kl.Layer):
    """Puts a vector in front of a sequence."""

    def build(self, shape):
        shape = (1, 1, shape[-1])
        self.token = self.add_weight(shape=shape, initializer="uniform", name="token")

    def call(self, inputs):
        tokens = ops.broadcast_to(self.token, (ops.shape(inputs)[0], 1, inputs.shape[-1]))
        return ops.concatenate([tokens, inputs], axis=1)

    def compute_output_shape(self, shape):
        return (shape[0], shape[1] + 1, shape[2])


@keras.saving.register_keras_serializable("zoo")
class TokensAndPositions(kl.Layer):
    """The vector of a token, and the vector of its position."""

    def __init__(self, length, width, **kwargs):
        super().__init__(**kwargs)
        self.length, self.width = length, width
        self.tokens = kl.Embedding(VOCABULARY, width)
        self.positions = kl.Embedding(length, width)

    def build(self, shape):
        self.tokens.build(shape)
        self.positions.build(shape)

    def call(self, inputs):
        return self.tokens(inputs) + self.positions(ops.arange(self.length))

    def compute_output_shape(self, shape):
        return (*shape, self.width)

    def get_config(self):
        return {**super().get_config(), "length": self.length, "width": self.width}


@keras.saving.register_keras_serializable("zoo")
class Scale(kl.Layer):
    """LayerScale: a learned number for each channel."""

    def build(self, shape):
        start = keras.initializers.Constant(0.1)
        self.gamma = self.add_weight(shape=shape[-1:], initializer=start, name="gamma")

    def call(self, inputs):
        return inputs * self.gamma


@keras.saving.register_keras_serializable("zoo")
class DropPath(kl.Layer):
    """StochasticDepth: leaves a branch out at times, in training."""

    def call(self, inputs, training=None):
        kept = ops.floor(keras.random.uniform((1,)) + 0.9)
        return inputs * kept / 0.9 if training else inputs


@keras.saving.register_keras_serializable("zoo")
class Sample(kl.Layer):
    """Draws from a normal distribution of given mean and log variance."""

    def call(self, inputs, training=None):
        mean, log_variance = inputs
        noise = keras.random.normal(ops.shape(mean)) if training else 0.0
        return mean + ops.exp(log_variance / 2) * noise


keras_grow.register_layer(Positions, through={"positions": -1}, linear=True)
keras_grow.register_layer(ClassToken, through={"token": -1}, linear=True)
keras_grow.register_layer(
    TokensAndPositions,
    output={"tokens.embeddings": -1, "positions.embeddings": -1},
    size="width",
    linear=True,
)
keras_grow.register_layer(Scale, through={"gamma": -1})
keras_grow.register_layer(DropPath)
keras_grow.register_layer(Sample, like=kl.Add)


def image(size=8, channels=3):
    return keras.Input((size, size, channels))


def tokens(length=8):
    return keras.Input((length,), dtype="int32")


def classify(inputs, x, classes=3):
    """Pools over what positions there are, and ends."""
    if len(x.shape) > 2:
        x = ops.mean(x, axis=tuple(range(1, len(x.shape) - 1)))
    return keras.Model(inputs, kl.Dense(classes, name="head")(x))
