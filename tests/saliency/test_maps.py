"""Maps are checked against Grad-CAM's formula, and against what growth must not change."""

import keras
import numpy as np
import pytest
from figures import growable, images, network

import keras_grow
from keras_grow.saliency.gradcam import gradcam
from keras_grow.saliency.maps import SALIENCY_METHODS, feature_layer, saliency_maps


def test_gradcam_agrees_with_its_formula():
    import tensorflow as tf

    model = network(4)
    features = keras.Model(model.inputs[0], [model.get_layer("relu2").output, model.output])
    with tf.GradientTape() as tape:
        activations, logits = features(images())
        score = tf.linalg.diag_part(logits)
    weights = tf.reduce_mean(tape.gradient(score, activations), axis=(1, 2), keepdims=True)
    coarse = tf.nn.relu(tf.reduce_sum(weights * activations, axis=-1)).numpy()
    assert coarse.max(axis=(1, 2)).min() > 1e-4  # each image has something to show
    # Linear interpolation from 4 to 8 points, first on first and last on last.
    to_fine = np.stack([np.interp(np.linspace(0, 3, 8), range(4), row) for row in np.eye(4)], 1)
    fine = to_fine @ coarse @ to_fine.T
    low, high = (f(fine, axis=(1, 2), keepdims=True) for f in (np.min, np.max))
    maps = saliency_maps(model, images(), [0, 1, 2], "gradcam", None)
    np.testing.assert_allclose(maps, (fine - low) / (high - low), atol=2e-3)


def vgg(size=32):
    return keras_grow.models.VGG16(width=2, classes=3, input_shape=(size, size, 3))


@pytest.mark.parametrize(
    "model, layer, name",
    [
        (network(), None, "relu2"),  # conv3 has one position
        (network(), 1, "relu1"),
        (network(), "bn1", "bn1"),
        (vgg(), None, "conv10_activation"),  # the last with 4 x 4 positions
        (vgg(), 13, "conv13_activation"),
        (vgg(), 2, "conv2_activation"),
    ],
)
def test_where_to_look(model, layer, name):
    assert feature_layer(model, layer).name == name


def test_features_of_a_residual_network_are_taken_after_the_addition():
    inputs = keras.Input((8, 8, 1))
    x = y = keras.layers.Conv2D(2, 3, padding="same")(inputs)
    y = keras.layers.Conv2D(2, 3, padding="same")(y)
    x = keras.layers.ReLU(name="sum")(keras.layers.Add()([x, y]))
    x = keras.layers.GlobalAveragePooling2D()(x)
    assert feature_layer(keras.Model(inputs, keras.layers.Dense(3)(x))).name == "sum"


@pytest.mark.parametrize("layer", ["nothing", "head", "pool3", 0, 3, -1])
def test_a_layer_that_does_not_exist(layer):
    with pytest.raises(ValueError, match=r"'net' has no such `layer`.*1 'conv1', 2 'conv2'\."):
        saliency_maps(network(), images(), [0, 1, 2], layer=layer)


@pytest.mark.parametrize("method", SALIENCY_METHODS)
def test_batches_make_no_difference(method, monkeypatch):
    model, classes = network(4), [0, 1, 2]
    together = saliency_maps(model, images(), classes, method)
    monkeypatch.setattr("keras_grow.saliency.maps.MASKED_VALUES", 1)
    apart = [saliency_maps(model, images()[i : i + 1], [i], method)[0] for i in range(3)]
    np.testing.assert_allclose(together, apart, atol=1e-4)
    np.testing.assert_allclose(saliency_maps(model, images(), classes, method), apart, atol=1e-4)


@pytest.mark.parametrize("method", SALIENCY_METHODS)
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.quick(1)
def test_half_precision_gives_the_maps_of_the_same_weights_in_float32(method, policy):
    single, half = growable(4), None
    keras.config.set_dtype_policy(policy)
    try:
        half = growable(4)
        half.grow(0.5, method="random")
    finally:
        keras.config.set_dtype_policy("float32")
    single.grow(0.5, method="random")
    single.set_weights(half.get_weights())
    want = saliency_maps(single, images(), [0, 1, 2], method)
    np.testing.assert_allclose(saliency_maps(half, images(), [0, 1, 2], method), want, atol=1e-5)
    assert half.get_layer("conv1").compute_dtype == policy.removeprefix("mixed_")


def test_a_growth_that_keeps_the_function_keeps_the_maps(tmp_path):
    model = growable(4)
    before = saliency_maps(model, images(), [0, 1, 2], "gradcam", None)
    model.grow(0.5, method=keras_grow.methods.Net2Wider(noise=0.0))
    after = saliency_maps(model, images(), [0, 1, 2], "gradcam", None)
    np.testing.assert_allclose(after, before, atol=2e-3)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    again = saliency_maps(loaded, images(), [0, 1, 2], "gradcam", None)
    np.testing.assert_allclose(again, after, atol=1e-4)


@pytest.mark.filterwarnings("ignore:Please import `zoom`:DeprecationWarning")
def test_modifiers_of_tf_keras_vis_clone_a_grown_model():
    from tf_keras_vis.gradcam import Gradcam
    from tf_keras_vis.utils.model_modifiers import ReplaceToLinear
    from tf_keras_vis.utils.scores import CategoricalScore

    model = growable(4)
    model.grow(0.5, method="random")
    explain = Gradcam(model, model_modifier=ReplaceToLinear(), clone=True)
    maps = explain(CategoricalScore([0, 1, 2]), images(), penultimate_layer="relu2")
    assert explain.model is not model
    assert explain.model.get_layer("conv2").filters == model.widths["conv2"]
    want = saliency_maps(model, images(), [0, 1, 2], "gradcam", "conv2")
    np.testing.assert_allclose(maps, want, atol=1e-4)


def without_convolutions():
    inputs = keras.Input((8, 8, 1))
    outputs = keras.layers.Dense(3)(keras.layers.Flatten()(inputs))
    return keras.Model(inputs, outputs, name="dense")


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs


def two_inputs():
    inputs = [keras.Input((8, 8, 1)), keras.Input((8, 8, 1))]
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(2, 3)(inputs[0] + inputs[1]))
    return keras.Model(inputs, keras.layers.Dense(3)(x))


@pytest.mark.parametrize(
    "model, count, classes, arguments, message",
    [
        (without_convolutions(), 3, [0, 1, 2], {}, "needs a Conv2D.*'dense' lacks"),
        (network(), 3, [0, 1], {}, "one class an image.*2 classes"),
        (network(), 3, [0, 1, 3], {}, r"from 0 to 2.*Received: classes=\[0, 1, 3\]"),
        (network(), 3, [0, 1, -1], {}, "from 0 to 2"),
        (network(), 0, [], {}, "0 classes"),
        (network(), 3, [0, 1, 2], {"method": "lime"}, "`method` must be one of .*'lime'"),
        (vgg(), 3, [0, 1, 2], {}, r"inputs of shape \(32, 32, 3\). Received: .*\(8, 8, 1\)"),
        (Subclassed(), 3, [0, 1, 2], {}, "must be a Functional or Sequential one"),
        (two_inputs(), 3, [0, 1, 2], {}, "one input and one output. Received: 2 inputs"),
    ],
)
def test_bad_input(model, count, classes, arguments, message):
    with pytest.raises(ValueError, match=message):
        saliency_maps(model, images(count), classes, **arguments)


def test_gradcam_of_ones_own_is_that_of_tf_keras_vis():
    model = growable(4)
    maps = gradcam(model, images(), [0, 1, 2], feature_layer(model))
    assert maps.max() == 1
    np.testing.assert_allclose(maps, saliency_maps(model, images(), [0, 1, 2]), atol=2e-3)
