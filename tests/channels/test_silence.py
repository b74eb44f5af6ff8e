"""Streams on which fresh channels don't stay silent freeze; where they do, a growth is exact."""

import keras
import numpy as np
import pytest
from keras import layers as kl
from keras import ops

import keras_grow
from keras_grow import GrowableModel, methods
from keras_grow.channels.layer_table import ROWS

LN, RMS, Unit = kl.LayerNormalization, kl.RMSNormalization, kl.UnitNormalization


class Positions(kl.Layer):
    def build(self, shape):
        self.table = self.add_weight(shape=shape[1:], initializer="normal", name="table")

    def call(self, inputs):
        return inputs + self.table


@pytest.fixture(autouse=True)
def _registered():
    keras_grow.register_layer(Positions, through={"table": -1}, linear=True)
    yield
    del ROWS[Positions]


def einsum(equation, **arguments):
    return kl.EinsumDense(equation, output_shape=(5, 4), **arguments)


def attended(x):
    y = LN()(x)
    return LN()(x + kl.GroupQueryAttention(2, 4, 2, name="att")(y, y))


# What lies between the stream "s" and the layers behind it, and whether the stream grows.
STREAMS = {
    "normalised": (lambda x: LN()(x), True),
    "with positions": (lambda x: LN()(Positions()(x)), True),
    "a residual block": (
        lambda x: LN()(x + kl.Dense(4)(kl.Dense(5, activation="relu")(LN()(x)))),
        True,
    ),
    "grouped queries": (attended, True),
    "normalised at each step": (
        lambda x: LN()(x + kl.Dense(4)(kl.TimeDistributed(LN())(x))),
        True,
    ),
    "what is normalised, added": (lambda x: LN()(x + kl.TimeDistributed(LN())(x)), False),
    "twice": (lambda x: LN()(LN()(x)), False),
    "twice, an activation between": (lambda x: LN()(kl.ReLU()(LN()(x))), False),
    "twice, a sum between": (lambda x: LN()(LN()(x) + LN()(x)), False),
    "twice, pooled between": (lambda x: LN()(kl.GlobalAveragePooling1D()(LN()(x))), False),
    "positions behind": (lambda x: Positions()(LN()(x)), False),
    "a number behind": (lambda x: LN()(x) + 1.0, False),
    "a number, then a root": (lambda x: RMS()(x + 1.0), False),
    "from a number, then a norm": (lambda x: Unit()(1.0 - x), False),
    "over positions first": (lambda x: LN()(LN(axis=1)(x)), False),
    "norms of positions first": (lambda x: LN()(Unit(axis=1)(x)), False),
    "a softmax of positions first": (lambda x: LN()(kl.Softmax(axis=1)(x)), False),
    "weighed one by one": (lambda x: LN()(einsum("abc,c->abc")(x)), False),
    "positions mixed behind": (lambda x: einsum("abc,bd->adc", bias_axes="d")(LN()(x)), False),
    "mixed behind, a bias each": (lambda x: einsum("abc,bd->adc", bias_axes="c")(LN()(x)), False),
    "mixed, then a root": (lambda x: RMS()(einsum("abc,bd->adc", bias_axes="d")(x)), False),
    "mixed without a bias": (lambda x: LN()(einsum("abc,bd->adc")(x)), True),
}


def randomised(model):
    rng = np.random.default_rng(0)
    model.set_weights([w + rng.normal(scale=0.3, size=w.shape) for w in model.get_weights()])
    growable = GrowableModel.from_keras(model)
    growable.compile("sgd", "mse")
    return growable


def change(model, method):
    """Grows a model, and returns by how much its outputs have changed, relative to the largest."""
    x = np.random.default_rng(1).normal(size=(6, *model.input_shape[1:])).astype("float32")
    before = np.asarray(model(x))
    model.grow(0.6, method)
    return np.abs(np.asarray(model(x)) - before).max() / np.abs(before).max()


@pytest.mark.parametrize("method", [methods.Net2Wider(noise=0, seed=1), methods.Random(seed=1)])
@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.quick(22)
def test_what_grows_is_exact(name, method):
    between, grows = STREAMS[name]
    inputs = keras.Input((5, 3))
    x = between(kl.Dense(4, name="s")(inputs))
    outputs = kl.Dense(2)(kl.Dense(3, activation="tanh", name="behind")(x))
    model = randomised(keras.Model(inputs, outputs))
    assert ("s" in model.widths) is grows
    assert change(model, method) < 1e-5


@pytest.mark.parametrize("join", [lambda a, b: kl.Add()([a, b]), ops.add, ops.multiply])
def test_a_residual_block_within_a_model_within_the_model(join):
    outer = keras.Input((4,))
    block = kl.Dense(4)(kl.Dense(3, activation="relu", name="hidden")(outer))
    inner = keras.Model(outer, join(outer, block), name="inner")
    inputs = keras.Input((3,))
    x = inner(kl.Dense(4, name="a")(inputs))
    model = randomised(keras.Model(inputs, kl.Dense(2)(x)))
    assert model.widths == {"a": 4, "inner/hidden": 3}
    assert change(model, methods.Net2Wider(noise=0, seed=1)) < 1e-5


def test_a_normalised_kernel_whose_last_axis_is_not_the_layers_output():
    """Also where both axes are as long at first."""
    inputs = keras.Input((4, 4, 2))
    x = kl.Conv2D(6, 3, padding="same", name="c")(inputs)
    x = kl.SpectralNormalization(kl.Conv2DTranspose(6, 3, padding="same"), name="sn")(x)
    outputs = kl.Dense(2)(kl.GlobalAveragePooling2D()(x))
    model = GrowableModel.from_keras(keras.Model(inputs, outputs))
    assert model.widths == {}
