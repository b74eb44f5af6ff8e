"""Keras's own layer checks on layers that have grown."""

import keras
import pytest
from keras.src.testing import TestCase
from networks import depthwise_cnn, mlp

MASKING = {"GrowableDense", "GrowableBatchNormalization"}


def grown(make, name):
    model = make()
    model.compile("sgd", "mse")
    width = model.get_layer(name).output.shape[-1]
    model.grow(0.6, "random")
    layer = model.get_layer(name)
    assert layer.output.shape[-1] > width
    return layer


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
