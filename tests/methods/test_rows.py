"""The methods on layers whose channels lie in blocks, in parts, or beside others'."""

import keras
import numpy as np
import pytest
from keras import layers as kl
from keras import ops
from networks import randomise
from problems import eager
from quick_methods import METHODS

from keras_grow import GrowableModel, SimilarityPenalty
from keras_grow.channels.graph import find_groups
from keras_grow.methods.splitting.curvature import find_scorable_layers
from keras_grow.penalty.window import penalised_kernels


def text():
    inputs = keras.Input((6,), dtype="int32")
    x = kl.Embedding(7, 4, name="embedding")(inputs)
    x = kl.Conv1D(4, 2, activation="tanh", name="conv")(x)
    x = kl.EinsumDense("btc,cde->btde", (5, 2, 3), activation="gelu", bias_axes="de", name="e")(x)
    x = ops.mean(x, axis=1)
    return inputs, ops.max(ops.abs(x), axis=1)


def blocks():
    inputs = keras.Input((5,))
    x = kl.Reshape((2, 2, 4))(kl.Dense(16, activation="tanh", name="dense")(inputs))
    x = kl.Conv2DTranspose(6, 2, 2, activation="tanh", name="up")(x)
    x = kl.GroupNormalization(3)(kl.Conv2D(6, 2, groups=3, activation="tanh")(x))
    x = kl.SeparableConv2D(4, 2, activation="relu", name="separable")(x)
    return inputs, kl.GlobalAveragePooling2D()(x)


def beside():
    inputs = keras.Input((4, 4, 2))
    one, two = (kl.Conv2D(3, 2, activation="relu", name=name)(inputs) for name in ("one", "two"))
    x = kl.Concatenate()([one, two]) + kl.BatchNormalization()(kl.Conv2D(6, 2)(inputs))
    a, b = ops.split(kl.Conv2D(6, 1, name="halves")(x), 2, axis=-1)
    x = kl.BatchNormalization()(a * ops.sigmoid(b))
    return inputs, kl.Flatten()(x)


NETWORKS = {"text": text, "blocks": blocks, "beside": beside}


def made(name):
    inputs, x = NETWORKS[name]()
    model = randomise(GrowableModel(inputs, kl.Dense(2, name="head")(x)))
    return eager(model, optimizer=keras.optimizers.SGD(0.01, momentum=0.9))


def data(model):
    rng = np.random.default_rng(0)
    shape = (8, *model.input_shape[1:])
    numbers = model.inputs[0].dtype == "int32"
    x = rng.integers(0, 7, shape) if numbers else rng.normal(size=shape).astype("float32")
    return x, rng.normal(size=(8, 2)).astype("float32")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.quick(5)
def test_every_method_grows_it(name, method):
    model = made(name)
    x, y = data(model)
    model.train_on_batch(x, y)
    before = model.neurons
    event = model.grow(0.6, METHODS[method](seed=0), data=(x, y))
    assert event.neurons_after - before == int(0.6 * before + 1e-9)
    assert np.isfinite(model.train_on_batch(x, y))
    for item in find_groups(model).variables:
        for axis in item.axes:
            assert item.variable.shape[axis.axis] == sum(s.width * s.repeat for s in axis.segments)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_penalty_counts_every_kernel_once(name):
    model = made(name)
    kernels = penalised_kernels(find_groups(model))
    assert len({id(kernel) for kernel, _ in kernels}) == len(kernels)
    model.arm(SimilarityPenalty(epochs=1))
    assert np.isfinite(model.train_on_batch(*data(model)))


def test_what_is_scored_by_splitting():
    graphs = {name: find_groups(made(name)) for name in NETWORKS}
    scored = {name: set(find_scorable_layers(g.model, g)) for name, g in graphs.items()}
    assert scored == {"text": {"conv", "e"}, "blocks": set(), "beside": set()}
