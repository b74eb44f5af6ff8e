"""Keras's own layer checks on layers that have grown, and quantizing them."""

import keras
import numpy as np
import pytest
from keras.src.testing import TestCase
from networks import depthwise_cnn, mlp

from keras_grow import GrowableModel
from keras_grow.layers import GrowableDense

MASKING = {"GrowableDense", "GrowableBatchNormalization"}


def grown(make, name):
    model = make()
    model.compile("sgd", "mse")
    width = model.get_layer(name).output.shape[-1]
    model.grow(0.6, "random")
    layer = model.get_layer(name)
    assert layer.output.shape[-1] > width
    return layer


@pytest.mark.quick(3)
@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed:UserWarning")
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (mlp, "hidden1"),
        (depthwise_cnn, "stem"),
        (depthwise_cnn, "stem_bn"),
        (depthwise_cnn, "dw"),
        (depthwise_cnn, "dw_bn"),
        (depthwise_cnn, "pw"),
    ],
)
def test_keras_own_checks_pass(make, name):
    layer = grown(make, name)
    kind, config = type(layer), layer.get_config()
    TestCase().run_layer_test(
        lambda **given: kind.from_config({**config, **given}),
        {},
        input_shape=(2, *layer.input.shape[1:]),
        expected_output_shape=(2, *layer.output.shape[1:]),
        supports_masking=kind.__name__ in MASKING,
    )
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert [v.shape for v in again.weights] == [v.shape for v in layer.weights]


@pytest.mark.parametrize("mode", ["int8", "int4", "float8"])
def test_a_quantized_layer_is_keras_own_at_the_grown_width_and_stays_there(mode, tmp_path):
    layer = grown(mlp, "hidden0")
    x = np.random.default_rng(0).normal(size=(8, 5)).astype("float32")
    exact = keras.layers.Dense(layer.units, activation="tanh")
    exact.build((None, 5))
    exact.set_weights(layer.get_weights())
    for each in (layer, exact):
        each.quantize(mode)
    np.testing.assert_array_equal(layer(x), exact(x))
    assert [v.dtype for v in layer.variables] == [v.dtype for v in exact.variables]


@pytest.mark.parametrize("mode", ["int8", "int4", "float8"])
@pytest.mark.quick(1)
def test_a_model_grows_around_a_quantized_layer(mode, tmp_path):
    model = mlp(hidden=(6, 4))
    x = np.random.default_rng(0).normal(size=(8, 5)).astype("float32")
    before = np.array(model(x))
    model.get_layer("hidden0").quantize(mode)
    np.testing.assert_allclose(model(x), before, atol=0.3)
    model.compile("sgd", "mse")
    reason = model.growth_report().rows[0].reason
    assert reason == "`hidden0` is quantized"
    assert model.grow(0.5, "random").widths_after == {"hidden1": 6}
    model.fit(x, x[:, :2], verbose=0)
    model.save(tmp_path / "m.keras")
    copies = [
        keras.models.load_model(tmp_path / "m.keras"),
        model.to_keras(),
        GrowableModel.from_keras(model.to_keras()),
    ]
    for copy in copies:
        np.testing.assert_allclose(copy(x), model(x), atol=1e-6)


def test_quantizing_refuses_a_class_of_ones_own():
    class Own(GrowableDense):
        pass

    layer = Own(3)
    layer.build((None, 2))
    with pytest.raises(NotImplementedError):
        layer.quantize("int8")
    layer.quantize("int8", type_check=False)
    assert layer.quantization_mode == "int8"
