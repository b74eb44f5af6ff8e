"""A run whose model got deeper is stopped and started again: it ends as one that never stopped."""

from functools import partial

import keras
import numpy as np
import pytest
from resumable import StopAt, Stopped, assert_equal, eager, end_of, growing, train

import keras_grow
from keras_grow.layers import GrowableDense

pytestmark = pytest.mark.long


def branch(x):
    y = keras.layers.Dense(4, activation="tanh")(x)
    return keras.layers.Dense(x.shape[-1])(keras.layers.Dropout(0.2)(y))


deepening = partial(growing, method="net2wider", depth={"a": None, "b": branch})


def network():
    return eager(keras.optimizers.Adam(0.01))


def network_with_other_names():
    """Keras numbers the names that it makes up: this process has made other layers before."""
    keras.layers.ReLU()
    model = network()
    model.layers[3].name = "re_lu_2"  # as a block is called in the other process
    return model


def test_stopped_after_blocks(tmp_path):
    whole, _ = train(None, growth=deepening, model=network)
    assert [event.epoch for event in whole.growth_history] == [1, 1, 1, 3, 3, 3]
    with pytest.raises(Stopped):
        train(tmp_path, [StopAt(2)], growth=deepening, model=network)
    with pytest.raises(Stopped):
        train(tmp_path, [StopAt(3, 1)], growth=deepening, model=network_with_other_names)
    model, _ = train(tmp_path, growth=deepening, model=network_with_other_names)
    # By number: the other process gave the branches' layers other numbers.
    assert_equal(*(dict(enumerate(end_of(each).values())) for each in (whole, model)))
    history = [str(event).split(", ")[0] for event in model.growth_history]
    assert history[1] == "epoch 1: a block up to `re_lu_2_2` follows `re_lu_2`"
    model.set_weights(model.get_weights())
    assert len(model.growth_history) == 6


def test_a_backup_that_does_not_fit_leaves_the_model_as_it_was(tmp_path):
    with pytest.raises(Stopped):
        train(tmp_path, [StopAt(2)], growth=deepening, model=network)
    inputs = keras.Input((6, 6, 2))
    x = keras.layers.Flatten()(inputs)
    x = GrowableDense(4, activation="relu", name="a")(x)
    x = GrowableDense(5, activation="relu", name="b")(x)
    other = keras_grow.GrowableModel(inputs, keras.layers.Dense(3)(x))
    other.compile("adam", "sparse_categorical_crossentropy", run_eagerly=True)
    layers, weights = other.layers, other.get_weights()
    with pytest.raises(ValueError, match="can't be gone on from"):
        train(tmp_path, growth=deepening, model=lambda: other)
    assert other.layers == layers and other.widths == {"a": 4, "b": 5}
    for one, value in zip(other.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(one, value)
