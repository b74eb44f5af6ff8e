import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers as kl
from keras.src.testing import TestCase
from numpy.testing import assert_allclose

import keras_grow.backend.tensorflow.batch_norm as batch_norm
from keras_grow.layers import (
    Growable,
    GrowableBatchNormalization,
    GrowableConv2D,
    GrowableDense,
    GrowableDepthwiseConv2D,
)

pytestmark = [
    pytest.mark.filterwarnings("error"),
    # Keras 3.15 hands its variables to numpy 2 without the `copy` argument.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't:DeprecationWarning"),
    # Keras's own checks train on a generator, which `fit` does not shuffle.
    pytest.mark.filterwarnings("ignore:`shuffle=True` was passed:UserWarning"),
]

FUSED = "FusedBatchNormV3"

PLAIN = {
    GrowableDense: kl.Dense,
    GrowableConv2D: kl.Conv2D,
    GrowableDepthwiseConv2D: kl.DepthwiseConv2D,
    GrowableBatchNormalization: kl.BatchNormalization,
}

# Kind, arguments, input shape, output shape: what Keras's own checks run on.
CASES = [
    (GrowableDense, {"units": 4}, (2, 3), (2, 4)),
    (
        GrowableDense,
        {"units": 4, "activation": "relu", "use_bias": False, "kernel_regularizer": "l2"},
        (2, 5, 3),
        (2, 5, 4),
    ),
    (GrowableConv2D, {"filters": 4, "kernel_size": 3}, (2, 6, 6, 3), (2, 4, 4, 4)),
    (
        GrowableConv2D,
        {
            "filters": 5,
            "kernel_size": (1, 3),
            "strides": (2, 1),
            "padding": "same",
            "activation": "tanh",
            "kernel_constraint": "max_norm",
        },
        (2, 6, 6, 3),
        (2, 3, 6, 5),
    ),
    (
        GrowableConv2D,
        {"filters": 4, "kernel_size": 2, "dilation_rate": 2, "use_bias": False},
        (2, 6, 6, 3),
        (2, 4, 4, 4),
    ),
    (GrowableConv2D, {"filters": 4, "kernel_size": 3, "groups": 2}, (2, 6, 6, 4), (2, 4, 4, 4)),
    (GrowableDepthwiseConv2D, {"kernel_size": 3}, (2, 6, 6, 3), (2, 4, 4, 3)),
    (
        GrowableDepthwiseConv2D,
        {"kernel_size": 3, "strides": 2, "padding": "same", "depth_multiplier": 2},
        (2, 6, 6, 3),
        (2, 3, 3, 6),
    ),
    (GrowableBatchNormalization, {}, (2, 6, 6, 3), (2, 6, 6, 3)),
    (GrowableBatchNormalization, {"scale": False}, (2, 6, 6, 3), (2, 6, 6, 3)),
    (GrowableBatchNormalization, {"axis": 1, "momentum": 0.5}, (2, 3, 6), (2, 3, 6)),
]


def fresh(kind, **arguments):
    """Makes an unbuilt layer. Another maker with this signature is another row of `MAKERS`."""
    return kind(**arguments)


MAKERS = [fresh]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(("kind", "arguments", "inputs", "outputs"), CASES)
def test_passes_keras_own_checks(make, kind, arguments, inputs, outputs):
    TestCase().run_layer_test(
        lambda **received: make(kind, **received),
        arguments,
        input_shape=inputs,
        expected_output_shape=outputs,
        supports_masking=kind in (GrowableDense, GrowableBatchNormalization),
    )


@pytest.mark.parametrize("kind", PLAIN)
def test_is_its_keras_layer_under_a_registered_name(kind):
    assert issubclass(kind, Growable) and issubclass(kind, PLAIN[kind])
    assert keras.saving.get_registered_name(kind) == f"keras_grow>{kind.__name__}"


@pytest.mark.parametrize(("kind", "arguments", "inputs", "outputs"), CASES)
def test_computes_what_its_keras_layer_does(kind, arguments, inputs, outputs):
    images = keras.random.normal(inputs)
    layer, plain = kind(**arguments), PLAIN[kind](**arguments)
    layer(images), plain(images)
    randomise(layer, plain)
    assert_allclose(layer(images), plain(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("kind", "arguments", "inputs", "outputs"), CASES)
def test_width_argument_names_the_width_in_the_config(kind, arguments, inputs, outputs):
    layer = kind(**arguments)
    if kind.width_argument is not None:
        assert layer.get_config()[kind.width_argument] == outputs[-1]
        assert getattr(layer, kind.width_argument) == outputs[-1]


def test_a_saved_model_comes_back_with_its_layers_and_weights(tmp_path):
    images = keras.random.normal((3, 8, 8, 3))
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            GrowableConv2D(4, 3, use_bias=False, kernel_regularizer=keras.regularizers.L2(1e-4)),
            GrowableBatchNormalization(momentum=0.9),
            GrowableDepthwiseConv2D(3, depth_multiplier=2),
            GrowableBatchNormalization(scale=False),
            kl.Flatten(),
            GrowableDense(5, activation="relu"),
        ]
    )
    randomise(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for ours, theirs in zip(loaded.layers, model.layers, strict=True):
        assert type(ours) is type(theirs)
        assert ours.get_config() == theirs.get_config()
    for ours, theirs in zip(loaded.get_weights(), model.get_weights(), strict=True):
        assert_allclose(ours, theirs, rtol=0)
    assert_allclose(loaded(images), model(images), rtol=0)


# Batch normalisation, against Keras's own. ---------------------------------------------------


def randomise(*alike, seed=0):
    """Gives layers (or models) of the same variables the same random weights, all positive."""
    generator = np.random.default_rng(seed)
    values = [generator.uniform(0.1, 1.0, variable.shape) for variable in alike[0].weights]
    for item in alike:
        item.set_weights(values)


def pair(shape, seed=0, trainable=True, **arguments):
    """Builds our layer and Keras's, with the same weights."""
    both = [kind(**arguments) for kind in (GrowableBatchNormalization, kl.BatchNormalization)]
    for layer in both:
        layer.build(shape)
        layer.trainable = trainable
    randomise(*both, seed=seed)
    return both


def step(layer, inputs, upstream, training):
    """Returns the outputs, and the gradients of their product with `upstream`."""
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = layer(inputs, training=training)
        loss = tf.reduce_sum(tf.cast(outputs, upstream.dtype) * upstream)
    gradients = tape.gradient(loss, [inputs, *(v.value for v in layer.trainable_variables)])
    return outputs, *gradients


def assert_same(layers, images, training, compile_with=None, rounding=0.0):
    """Checks outputs, gradients and statistics of two layers after one step on the same images.

    `rounding` is the relative precision of the outputs and of the inputs' gradient; the others
    are of float32 in any case.
    """
    upstream = tf.random.stateless_normal(images.shape, (1, 2))
    run = step if compile_with is None else tf.function(step, **compile_with)
    ours, plain = (run(layer, images, upstream, training) for layer in layers)
    for index, (a, b) in enumerate(zip(ours, plain, strict=True)):
        assert a.dtype == b.dtype and a.shape == b.shape
        assert_close(a, b, max(rounding, 1e-5) if index < 2 else 1e-5)
    for a, b in zip(layers[0].weights, layers[1].weights, strict=True):
        assert_close(a.value, b.value, 1e-5)


def assert_close(ours, plain, tolerance):
    ours, plain = (np.asarray(tf.cast(x, "float64")) for x in (ours, plain))
    scale = max(1.0, np.abs(plain).max())
    assert_allclose(ours, plain, rtol=tolerance, atol=tolerance * scale)


def fused_operations(layer, shape, dtype="float32", training=True, **options):
    """Counts the fused operations in the graph of one call."""
    call = tf.function(lambda x: layer(x, training=training), **options)
    graph = call.get_concrete_function(tf.TensorSpec(shape, dtype)).graph
    return sum(operation.type == FUSED for operation in graph.get_operations())


@settings(max_examples=100)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(1, 5)),
    seed=st.integers(0, 999),
    training=st.booleans(),
    trainable=st.booleans(),
    scale=st.booleans(),
    center=st.booleans(),
    momentum=st.sampled_from([0.0, 0.5, 0.9, 0.99, 1.0]),
    axis=st.sampled_from([-1, 3]),
    dtype=st.sampled_from(["float32", "mixed_float16", "mixed_bfloat16", "float16"]),
    compile_with=st.sampled_from([None, {"jit_compile": False}]),
)
@pytest.mark.long
def test_equals_keras_batch_normalization(
    shape, seed, training, trainable, scale, center, momentum, axis, dtype, compile_with
):
    arguments = {"scale": scale, "center": center, "momentum": momentum, "axis": axis}
    layers = pair(shape, seed, trainable, dtype=dtype, **arguments)
    images = tf.random.stateless_normal(shape, (seed, 0), 0.5, 2.0)
    rounding = {"mixed_float16": 2e-3, "mixed_bfloat16": 1.6e-2, "float16": 2e-3}.get(dtype, 0.0)
    images = tf.cast(images, layers[0].compute_dtype)
    assert_same(layers, images, training, compile_with, rounding)


@pytest.mark.parametrize(("training", "trainable"), [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("dtype", ["float32", "mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("channels", [24, 25])
def test_equals_keras_at_a_realistic_size(channels, dtype, training, trainable):
    layers = pair((8, 16, 16, channels), trainable=trainable, dtype=dtype)
    images = tf.random.stateless_normal((8, 16, 16, channels), (0, 0), 0.5, 2.0)
    rounding = {"float32": 0.0, "mixed_float16": 2e-3, "mixed_bfloat16": 1.6e-2}[dtype]
    images = tf.cast(images, layers[0].compute_dtype)
    assert_same(layers, images, training, {"reduce_retracing": True}, rounding)


def test_keeps_an_epsilon_below_what_the_public_function_allows():
    shape = (4, 5, 5, 3)
    layers = pair(shape, epsilon=1e-7)
    images = 1e-3 * tf.random.stateless_normal(shape, (0, 0))
    for training in (True, False):
        assert_same(layers, images, training)


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("compiled", [True, False])
def test_second_derivatives_equal_those_of_keras(compiled, training, channels):
    shape = (4, 3, 3, channels)
    images = tf.random.stateless_normal(shape, (0, 0))

    def hessian(layer):
        with tf.GradientTape() as outer:
            outer.watch(images)
            with tf.GradientTape() as inner:
                inner.watch(images)
                loss = tf.reduce_sum(layer(images, training=training) ** 3)
            norm = tf.reduce_sum(inner.gradient(loss, images) ** 2)
        return outer.gradient(norm, images)

    run = tf.function(hessian) if compiled else hessian
    assert_close(*(run(layer) for layer in pair(shape)), 1e-5)


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("mean", [10.0, 1000.0])
def test_loses_nothing_where_the_mean_is_far_from_zero(mean, channels):
    """Against float64, where both round: no worse than Keras's own layer."""
    shape = (128, 8, 8, channels)
    images = mean + tf.random.stateless_normal(shape, (0, 0))
    exact = np.asarray(images, "float64")
    exact = (exact - exact.mean((0, 1, 2))) / np.sqrt(exact.var((0, 1, 2)) + 1e-3)
    layers = [kind() for kind in (GrowableBatchNormalization, kl.BatchNormalization)]
    ours, plain = (np.abs(layer(images, training=True) - exact).max() for layer in layers)
    assert ours <= max(2 * plain, 1e-5)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("mean", [0.0, 1000.0])
def test_equals_keras_under_xla(mean, training):
    """A mean far from zero is what XLA's own version of the fused kernel loses."""
    shape = (4, 5, 5, 3)
    layers = pair(shape)
    images = mean + tf.random.stateless_normal(shape, (0, 0))
    assert_same(layers, images, training, {"jit_compile": True})
    assert np.isfinite(layers[0](images, training=training)).all()


def test_one_value_per_channel_leaves_no_nan_where_the_kernel_does(monkeypatch):
    """What cuDNN does: the unbiased variance of one value is NaN."""
    kernel = tf.raw_ops.FusedBatchNormV3

    def as_on_a_gpu(**arguments):
        outputs = list(kernel(**arguments))
        outputs[2] = outputs[2] * np.nan
        return outputs

    layers = pair((1, 1, 1, 4))
    monkeypatch.setattr(batch_norm.tf.raw_ops, FUSED, as_on_a_gpu)
    assert_same(layers, tf.ones((1, 1, 1, 4)), True)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("shape", [(2, 4, 4, 4), (None, None, None, 8)])
def test_fuses_images(shape, dtype, training):
    layer = GrowableBatchNormalization(dtype=dtype)
    assert fused_operations(layer, shape, layer.compute_dtype, training) == 1


def test_the_fused_kernel_trains_on_a_cpu_only_where_it_is_fast(monkeypatch):
    layer, shape = GrowableBatchNormalization(), (2, 4, 4, 6)
    assert fused_operations(layer, shape, training=True) == 0
    assert fused_operations(layer, shape, training=False) == 1
    monkeypatch.setattr(batch_norm.tf.config, "list_physical_devices", lambda kind: [kind])
    assert fused_operations(layer, shape, training=True) == 1


@pytest.mark.parametrize(
    ("arguments", "shape", "dtype"),
    [
        ({}, (4, 3), "float32"),
        ({}, (4, 5, 3), "float32"),
        ({"axis": 1}, (4, 3, 5, 5), "float32"),
        ({"dtype": "float64"}, (4, 5, 5, 3), "float64"),
        ({"autocast": False}, (4, 5, 5, 3), "float16"),
        ({"synchronized": True}, (4, 5, 5, 3), "float32"),
        ({"renorm": True}, (4, 5, 5, 3), "float32"),
    ],
)
def test_leaves_what_does_not_fuse_to_keras(arguments, shape, dtype):
    if "renorm" in arguments and "renorm" not in kl.BatchNormalization().get_config():
        pytest.skip("this Keras has no batch renormalisation")
    layers = pair(shape, **arguments)
    assert fused_operations(layers[0], shape, dtype) == 0
    randomise(*layers)
    images = tf.cast(tf.random.stateless_normal(shape, (0, 0)), dtype)
    for training in (True, False):
        assert_same(layers, images, training)


def test_leaves_functions_compiled_by_xla_to_keras():
    layer = GrowableBatchNormalization()
    assert fused_operations(layer, (4, 5, 5, 4), jit_compile=True) == 0
    assert fused_operations(layer, (4, 5, 5, 4), jit_compile=False) == 1


def test_honours_a_mask():
    layers = pair((2, 2, 2, 3))
    images = tf.random.stateless_normal((2, 2, 2, 3), (0, 0))
    mask = tf.constant([[[True, False], [True, True]], [[False, False], [True, False]]])
    outputs = [layer(images, training=True, mask=mask) for layer in layers]
    assert_close(*outputs, 1e-5)
    assert_close(layers[0].moving_mean.value, layers[1].moving_mean.value, 1e-5)


@pytest.mark.parametrize(
    ("policy", "compiled"),
    [
        ("float32", {}),
        ("float32", {"jit_compile": True}),
        ("float32", {"run_eagerly": True}),
        ("float32", {"steps_per_execution": 2}),
        ("mixed_float16", {}),
        ("mixed_bfloat16", {}),
    ],
    ids=str,
)
@pytest.mark.quick(1)
def test_a_network_trains_as_with_keras_batch_normalization(policy, compiled):
    """Nine images in batches of four: the last batch is of one."""
    images = np.asarray(keras.random.normal((9, 6, 6, 3)))
    labels = np.arange(9) % 3

    def train(normalization):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((6, 6, 3))
        x = kl.Conv2D(4, 3, use_bias=False, dtype=policy)(inputs)
        x = kl.ReLU(dtype=policy)(normalization(dtype=policy)(x))
        x = kl.Conv2D(4, 4, use_bias=False, dtype=policy)(x)
        x = kl.Flatten()(normalization(dtype=policy)(x))
        model = keras.Model(inputs, kl.Dense(3)(x))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.05, momentum=0.9), loss, **compiled)
        model.fit(images, labels, batch_size=4, epochs=2, verbose=0)
        return model.evaluate(images, labels, verbose=0), model.get_weights()

    loss, weights = train(GrowableBatchNormalization)
    expected_loss, expected_weights = train(kl.BatchNormalization)
    tolerance = 1e-4 if policy == "float32" else 3e-2
    assert_close(loss, expected_loss, tolerance)
    for ours, expected in zip(weights, expected_weights, strict=True):
        assert_close(ours, expected, tolerance)
