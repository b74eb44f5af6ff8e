"""Optimizers that treat matrices specially, on kernels of rank 3, whatever axis grows."""

import keras
import numpy as np
import pytest
from keras import layers as kl

from keras_grow import GrowableModel
from keras_grow.channels.graph import find_groups
from keras_grow.core import keras_private
from keras_grow.core.widening import Widening
from keras_grow.growing.resizing import widen_model

# The last label is the one that grows.
EQUATIONS = {"btc,cde->btde": -1, "btc,ced->btde": -2, "btc,ecd->btde": -3}


def trained(equation, optimizer):
    inputs = keras.Input((4,), dtype="int32")
    x = kl.Embedding(5, 3, name="words")(inputs)
    x = kl.EinsumDense(equation, (4, 2, 3), bias_axes="de", activation="tanh", name="e")(x)
    outputs = kl.Dense(1)(kl.Flatten()(x))
    model = GrowableModel(inputs, outputs)
    model.compile(optimizer, "mse", run_eagerly=True)
    x = np.random.default_rng(0).integers(0, 5, (6, 4))
    for _ in range(2):
        model.train_on_batch(x, np.ones((6, 1)))
    return model, x


def slots_of(model, path):
    index = [v.path for v in model.trainable_variables].index(path)
    slots = keras_private.slots_of(model.optimizer)
    return {name: None if v[index] is None else v[index].numpy() for name, v in slots.items()}


def split_first(model):
    widen_model(model, find_groups(model), [Widening("e", [0, 1, 2, 0], [0.5, 1, 1, 0.5])])


def split_array(array, axis, power):
    scale = np.array([0.5, 1, 1, 0.5]) ** power
    shape = [1] * array.ndim
    shape[axis] = -1
    return np.take(array, [0, 1, 2, 0], axis) * scale.reshape(shape)


@pytest.mark.parametrize("equation", EQUATIONS)
def test_adafactors_factors_stand_for_the_widened_kernel(equation):
    model, x = trained(equation, keras.optimizers.Adafactor(0.01))

    def whole():
        slots = slots_of(model, "e/kernel")
        r, c = slots["_r"], slots["_c"]
        return (r / r.mean(-1, keepdims=True))[..., None] * c[..., None, :]

    before = whole()
    split_first(model)
    expected = split_array(before, EQUATIONS[equation], power=2)
    slots = slots_of(model, "e/kernel")
    np.testing.assert_allclose(slots["_r"], expected.mean(-1), rtol=1e-5)
    np.testing.assert_allclose(slots["_c"], expected.mean(-2), rtol=1e-5)
    assert np.isfinite(model.train_on_batch(x, np.ones((6, 1))))


@pytest.mark.parametrize("equation", EQUATIONS)
@pytest.mark.skipif(not hasattr(keras.optimizers, "Muon"), reason="not in this Keras")
def test_muons_slots(equation):
    model, x = trained(equation, keras.optimizers.Muon(0.01))
    before = slots_of(model, "e/kernel")
    split_first(model)
    after, axis = slots_of(model, "e/kernel"), EQUATIONS[equation]
    for name, power in {"momentums": 1, "adam_velocities": 2}.items():
        expected = split_array(before[name], axis, power)
        np.testing.assert_allclose(after[name], expected, rtol=1e-5)
    assert np.isfinite(model.train_on_batch(x, np.ones((6, 1))))
