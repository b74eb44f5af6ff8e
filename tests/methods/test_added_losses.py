"""Scoring where the loss is what layers add, and `compile` was given none."""

import keras
import numpy as np
import pytest
from networks import batch
from problems import eager
from quick_methods import METHODS, SCORING
from states import assert_same_arrays

from keras_grow import GrowableModel, GrowthCallback
from keras_grow.layers import GrowableDense


@keras.saving.register_keras_serializable()
class Distance(keras.layers.Layer):
    """Adds the mean squared error of its input and ones."""

    def __init__(self, in_training_only=False, **kwargs):
        super().__init__(**kwargs)
        self.in_training_only = in_training_only

    def call(self, inputs, training=False):
        if training or not self.in_training_only:
            self.add_loss(keras.ops.mean(keras.ops.square(inputs - 1)))
        return inputs

    def get_config(self):
        return {**super().get_config(), "in_training_only": self.in_training_only}


def network(loss=None, end=None):
    inputs = keras.Input((5,))
    x = GrowableDense(4, activation="tanh", kernel_regularizer="l2", name="a")(inputs)
    x = GrowableDense(3, activation="tanh", name="b")(x)
    x = keras.layers.Dense(2, name="head")(x)
    return eager(GrowableModel(inputs, end(x) if end else x), loss)


def grown(model, start, method):
    model.set_weights(start)
    x = batch(model, 24)
    event = model.grow(0.5, METHODS[method](seed=1), data=(x, np.ones((24, 2), "float32")))
    return event, model.get_weights()


@pytest.mark.parametrize("method", SCORING)
@pytest.mark.quick(1)
def test_an_added_loss_is_scored_as_that_of_compile(method):
    """The same loss, said in two ways, chooses the same neurons."""
    given, added = network("mse"), network(end=Distance(name="distance"))
    start = given.get_weights()
    (one, weights), (other, expected) = (grown(m, start, method) for m in (given, added))
    assert one.sources == other.sources and one.unhelpful == other.unhelpful
    for value, wanted in zip(weights, expected, strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-3, atol=1e-5)


def test_beside_the_loss_of_compile_an_added_one_is_not_scored():
    given, both = network("mse"), network("mse", end=Distance(name="distance"))
    start = given.get_weights()
    assert_same_arrays(grown(given, start, "firefly")[1], grown(both, start, "firefly")[1])


def test_it_trains_and_grows():
    model = network(end=Distance(name="distance"))
    growth = GrowthCallback(0.5, every=1, method=METHODS["firefly"](seed=1), verbose=0)
    history = model.fit(batch(model, 24), epochs=3, callbacks=[growth], verbose=0)
    assert len(model.growth_history) == 2 and np.all(np.isfinite(history.history["loss"]))


def test_without_any_loss_the_remedy_is_said_and_nothing_changes():
    model = network(end=Distance(in_training_only=True))
    x, before = batch(model, 24), model.get_weights()
    with pytest.raises(ValueError, match=r"compiled without a loss.*Pass a loss to `compile`, or"):
        model.grow(0.5, METHODS["firefly"](seed=1), data=(x, x[:, :2]))
    assert_same_arrays(before, model.get_weights())
    model.grow(0.5, "net2wider")
