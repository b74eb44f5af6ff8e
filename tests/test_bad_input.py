"""Bad input to the callback: a clear error at once, the model unchanged."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import batch, mlp

from keras_grow import At, Every, GrowableModel, GrowthCallback, OnPlateau

BAD_ARGUMENTS = [
    ({"rate": 0}, ValueError, "`rate` must be a positive number.*Received: rate=0"),
    ({"rate": -0.35}, ValueError, "Received: rate=-0.35"),
    ({"rate": float("nan")}, ValueError, "Received: rate=nan"),
    ({"rate": "0.35"}, TypeError, "`rate` must be a number.*'0.35'"),
    ({"rate": None}, TypeError, "`rate` must be a number"),
    ({"every": 0}, ValueError, "`every` must be a positive integer. Received: every=0"),
    ({"every": -3}, ValueError, "Received: every=-3"),
    ({"every": 2.5}, TypeError, "`every` must be a positive integer"),
    ({"every": "often"}, TypeError, "`every` must be a positive integer"),
    ({"every": True}, TypeError, "`every` must be a positive integer"),
    ({"method": "fire"}, ValueError, "Known methods: .*'firefly'.*Received: method='fire'"),
    ({"method": None}, TypeError, "`method` must be the name of a growth method"),
    ({"penalty": 0.5}, TypeError, "`penalty` must be a `keras_grow.SimilarityPenalty`"),
    ({"penalty": "none"}, TypeError, "None or 'default'"),
    ({"max_params": -1}, ValueError, "`max_params` must be a positive integer"),
    ({"max_params": 1e6}, TypeError, "`max_params` must be a positive integer"),
    ({"max_widths": 0}, ValueError, "`max_widths` must be a positive integer"),
    ({"max_widths": {"a": 1.5}}, TypeError, "max_widths"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD_ARGUMENTS)
def test_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        GrowthCallback(**{"rate": 0.35, **arguments})


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Every(0), ValueError, "`every` must be"),
        (lambda: Every(5, until=0), ValueError, "`until` must be"),
        (lambda: At([]), ValueError, "at least one epoch"),
        (lambda: At([0]), ValueError, "`epochs` must be a positive integer"),
        (lambda: At("10"), TypeError, "sequence of positive integers"),
        (lambda: At(10), TypeError, "sequence of positive integers"),
        (lambda: OnPlateau(mode="up"), ValueError, "`mode` must be 'min' or 'max'"),
        (lambda: OnPlateau(patience=0), ValueError, "`patience` must be"),
        (lambda: OnPlateau(max_growths=0), ValueError, "`max_growths` must be"),
    ],
)
def test_schedules(make, error, message):
    with pytest.raises(error, match=message):
        make()


def callback():
    return GrowthCallback(0.5, every=1, method="random", verbose=0)


def test_a_plain_model():
    plain = keras.Sequential([keras.Input((5,)), keras.layers.Dense(2)])
    plain.compile("sgd", "mse")
    with pytest.raises(TypeError, match=r"GrowableModel.from_keras\(model\)"):
        plain.fit(np.ones((4, 5)), np.ones((4, 2)), callbacks=[callback()], verbose=0)


def test_a_model_with_nothing_to_grow():
    inputs = keras.Input((5,))
    model = GrowableModel(inputs, keras.layers.Dense(2, name="head")(inputs))
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="has nothing to grow"):
        model.fit(np.ones((4, 5)), np.ones((4, 2)), callbacks=[callback()], verbose=0)


@pytest.mark.filterwarnings("ignore:Your input ran out of data")  # Keras's own remark
@pytest.mark.parametrize(
    "make_data",
    [
        lambda: tf.data.Dataset.from_tensor_slices((np.ones((0, 5)), np.ones((0, 2)))).batch(4),
        lambda: (
            tf.data.Dataset.from_tensor_slices((np.ones((4, 5)), np.ones((4, 2)))).batch(4).take(0)
        ),
    ],
)
def test_a_data_set_that_yields_nothing(make_data):
    model = mlp()
    model.compile("sgd", "mse")
    weights = model.get_weights()
    with pytest.raises(ValueError, match="yielded no batch"):
        model.fit(make_data(), epochs=3, callbacks=[callback()], verbose=0, shuffle=False)
    for a, b in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_ceiling_on_a_group_that_does_not_exist():
    model = mlp()
    model.compile("sgd", "mse")
    grow = GrowthCallback(0.5, every=1, method="random", max_widths={"nowhere": 5}, verbose=0)
    with pytest.raises(ValueError, match="no group named 'nowhere'"):
        model.fit(batch(model), np.ones((8, 2)), epochs=2, callbacks=[grow], verbose=0)
    assert model.growth_history == []
