"""Functions that were traced before a block was put in: they fail, rather than go on without it."""

import keras
import numpy as np
import pytest
from blocks import branch, compiled, data_of, outputs, train
from networks import batch
from states import assert_same_arrays

from keras_grow import GrowableModel


@pytest.mark.tensorflow
@pytest.mark.parametrize("after", ["hidden0", "relu"])
@pytest.mark.quick(1)
def test_a_step_that_was_traced_before_fails(after):
    import tensorflow as tf

    x = inputs = keras.Input((5,))
    x = keras.layers.Dense(4, name="hidden0")(x)
    x = keras.layers.ReLU(name="relu")(x)
    x = keras.layers.Dropout(0.5, name="dropout")(x)  # reads it, and has no weights
    model = compiled(GrowableModel(inputs, keras.layers.Dense(2, name="head")(x)), "adam")
    x, y = data_of(train(model))

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x, training=True) - y))
        variables = model.trainable_variables
        model.optimizer.apply(tape.gradient(loss, [v.value for v in variables]), variables)

    step()
    before = outputs(model)
    model.deepen(after, branch)
    weights = model.get_weights()
    with pytest.raises(tf.errors.InvalidArgumentError):
        step()
    assert_same_arrays(model.get_weights(), weights)
    np.testing.assert_allclose(outputs(model), before, atol=1e-6)
    tf.function(step.python_function)()  # traced anew
    assert np.any(model.get_weights()[0] != weights[0])


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("first", "between"),
    [
        (keras.layers.Dense, keras.layers.Dropout),
        (keras.layers.Rescaling, keras.layers.Activation),  # no weights come before the block
    ],
)
def test_an_inference_that_was_traced_before_fails(first, between):
    import tensorflow as tf

    x = inputs = keras.Input((5,))
    x = first(4, name="first")(x)
    x = between(0.5 if between is keras.layers.Dropout else "tanh")(x)
    model = compiled(GrowableModel(inputs, keras.layers.Dense(2, name="head")(x)))
    infer, x = tf.function(lambda x: model(x, training=False)), batch(model)
    infer(x)
    model.deepen("first", branch)
    with pytest.raises(tf.errors.InvalidArgumentError):
        infer(x)
