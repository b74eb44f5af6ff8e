"""What was built or traced on a model's variables before a growth follows it, or fails."""

import gc

import keras
import numpy as np
import pytest
from networks import batch, mlp

from keras_grow import GrowableModel, GrowthBackup, GrowthCallback, methods
from keras_grow.layers import GrowableDense


def compiled(model):
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "mse")
    return model


def grow(model):
    return model.grow(0.5, method=methods.Net2Wider(noise=0, seed=1))


def test_a_feature_extractor_that_has_predicted_follows():
    model = compiled(mlp(hidden=(4, 3)))
    extractor = keras.Model(model.input, model.get_layer("hidden1").output)
    x = batch(model)
    assert extractor.predict(x, verbose=0).shape == (8, 3)
    grow(model)
    fresh = keras.Model(model.input, model.get_layer("hidden1").output)
    features = extractor.predict(x, verbose=0)
    assert features.shape == (8, model.widths["hidden1"]) and extractor.output_shape[1] > 3
    np.testing.assert_allclose(features, keras.ops.convert_to_numpy(fresh(x)), atol=1e-6)


def test_a_network_around_a_growable_one_trains_on():
    """Its optimizer holds slots of the trunk's variables, which grow along."""
    trunk = compiled(mlp(hidden=(4, 3)))
    inputs = keras.Input((5,))
    whole = compiled(keras.Model(inputs, keras.layers.Dense(2)(trunk(inputs))))
    x, y = batch(trunk), np.zeros((8, 2))
    whole.fit(x, y, verbose=0)
    before = whole.predict(x, verbose=0)
    grow(trunk)
    kernel = trunk.get_layer("hidden0").kernel
    np.testing.assert_allclose(whole.predict(x, verbose=0), before, atol=1e-5)
    old = keras.ops.convert_to_numpy(kernel)
    whole.fit(x, y, verbose=0)
    assert np.all(np.any(keras.ops.convert_to_numpy(kernel) != old, axis=0))


def test_a_trunk_with_another_head_is_not_widened_behind_its_back():
    inputs = keras.Input((5,))
    trunk = GrowableDense(4, activation="relu", name="trunk")
    model = compiled(GrowableModel(inputs, keras.layers.Dense(2, name="head")(trunk(inputs))))
    other_inputs = keras.Input((5,))
    other = keras.Model(other_inputs, keras.layers.Dense(3)(trunk(other_inputs)), name="other")
    x = batch(model)
    outputs = [m.predict(x, verbose=0) for m in (model, other)]
    with pytest.raises(ValueError, match=r"Model `other` shares layers.*Delete it"):
        grow(model)
    for m, before in zip((model, other), outputs, strict=True):
        np.testing.assert_array_equal(m.predict(x, verbose=0), before)
    assert model.widths == {"trunk": 4} and other.input_shape == (None, 5)


def test_a_model_that_nobody_holds_any_more_is_no_hindrance():
    inputs = keras.Input((5,))
    trunk = GrowableDense(4, activation="relu", name="trunk")
    model = compiled(GrowableModel(inputs, keras.layers.Dense(2, name="head")(trunk(inputs))))
    other_inputs = keras.Input((5,))
    gc.collect()
    gc.disable()
    try:
        keras.Model(other_inputs, keras.layers.Dense(3)(trunk(other_inputs)))
        grow(model)
    finally:
        gc.enable()
    assert model.widths == {"trunk": 6}


@pytest.mark.tensorflow
def test_a_step_that_was_traced_before_fails():
    import tensorflow as tf

    model = compiled(mlp(hidden=(4, 3)))
    x, y = batch(model), np.zeros((8, 2), "float32")

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x, training=True) - y))
        variables = model.trainable_variables
        gradients = tape.gradient(loss, [v.value for v in variables])
        model.optimizer.apply(gradients, variables)

    step(x, y)
    model.grow(0.25, method="net2wider")
    weights = model.get_weights()
    with pytest.raises(tf.errors.InvalidArgumentError):
        step(x, y)
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    step = tf.function(step.python_function)  # traced anew
    step(x, y)
    assert np.any(model.get_weights()[0] != weights[0])


@pytest.mark.long
def test_a_feature_extractor_follows_a_run_that_goes_on(tmp_path):
    def train(model):
        growth = GrowthCallback(0.5, every=1, method="net2wider", verbose=0)
        backup = GrowthBackup(tmp_path, delete_checkpoint=False, verbose=0)
        model.fit(batch(model), np.zeros((8, 2)), epochs=2, verbose=0, callbacks=[growth, backup])
        return model

    trained = train(compiled(mlp(hidden=(4, 3))))
    model = compiled(mlp(hidden=(4, 3)))
    extractor = keras.Model(model.input, model.get_layer("hidden1").output)
    x = batch(model)
    extractor.predict(x, verbose=0)
    train(model)
    expected = keras.Model(trained.input, trained.get_layer("hidden1").output)
    np.testing.assert_allclose(
        extractor.predict(x, verbose=0), expected.predict(x, verbose=0), atol=1e-6
    )
