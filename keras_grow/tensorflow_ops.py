"""What only TensorFlow can do: normalising a batch in one operation, and gradient tapes.

Imported on the TensorFlow backend alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

# Not among TensorFlow's public names, and there is no public way to ask (TensorFlow 2.19 to 2.21).
from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext

from keras_grow.tensorflow_tracing import released_gradients


def compiled_slopes(loss: Callable) -> Callable:
    """Returns a compiled function: `(values, *batch)` -> gradients of a loss.

    Args:
        loss: Takes a list of tensors and the parts of a batch.
    """

    @tf.function(reduce_retracing=True, autograph=False)
    def slopes(values, *batch):
        with released_gradients(), tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            value = loss(values, *batch)
            return tape.gradient(value, values, unconnected_gradients="zero")

    return slopes


def pulled_back(
    make_values: Callable[[], list], slopes: Callable[[list], list], variables: Sequence
) -> list[np.ndarray]:
    """Returns gradients with respect to variables, through values that are made of them.

    Args:
        make_values: Makes tensors of the variables.
        slopes: Takes these tensors, and returns the gradients with respect to them.
        variables: Keras variables.
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        sources = [variable.value for variable in variables]
        tape.watch(sources)
        values = make_values()
    gradients = tape.gradient(values, sources, slopes(values), unconnected_gradients="zero")
    return [tf.convert_to_tensor(gradient).numpy() for gradient in gradients]


def gradient_at(function: Callable, point, upstream: Callable = keras.ops.ones_like):
    """Returns the gradient of a function's outputs with respect to a tensor, at that tensor.

    Args:
        function: Takes the tensor.
        point: The tensor.
        upstream: Takes the outputs, and returns the gradient that comes in at them. Defaults to
            ones, for the gradient of their sum.
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(point)
        outputs = function(point)
        incoming = tf.stop_gradient(upstream(outputs))
    return tape.gradient(outputs, point, incoming, unconnected_gradients="zero")


def gradients_within(function: Callable[[], tuple]) -> tuple:
    """Runs a function of a model, and returns what it taps with the gradients there.

    Args:
        function: Returns a loss, and a structure of tensors on the way from a variable to it.

    Returns:
        The structure, and the gradients of the loss with respect to its tensors.
    """
    with tf.GradientTape() as tape:
        loss, tensors = function()
    return tensors, tape.gradient(loss, tensors, unconnected_gradients="zero")


def compiled_by_xla() -> bool:
    """Returns whether the function being traced is one that XLA will compile."""
    return not tf.executing_eagerly() and GraphOrParentsInXlaContext(
        tf.compat.v1.get_default_graph()
    )


def normalize_by_batch(
    inputs: tf.Tensor,
    gamma: tf.Tensor,
    beta: tf.Tensor,
    moving_mean: tf.Tensor,
    moving_variance: tf.Tensor,
    momentum: float,
    epsilon: float,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Normalises a batch by its own statistics, and moves the moving ones towards them.

    The raw operation rather than `tf.compat.v1.nn.fused_batch_norm`, which raises `epsilon` to
    1.001e-5.

    Args:
        inputs: Tensor of shape `(batch, height, width, channels)`: float32, float16 or bfloat16.
        gamma: Scale, of shape `(channels,)` and float32, as the other vectors.
        beta: Offset.
        moving_mean: Moving mean before the step.
        moving_variance: Moving variance before the step.
        momentum: How much of the moving statistics stays.
        epsilon: Added to the variance.

    Returns:
        The outputs, the new moving mean and the new moving variance, in Keras's convention: the
        variance of a batch is the mean squared deviation.
    """
    count = tf.cast(tf.size(inputs) // inputs.shape[-1], "float32")
    # The kernel averages in the unbiased variance, count / (count - 1) times that of Keras. With
    # the moving variance scaled alike on its way in, one division undoes both.
    bessel = count / tf.maximum(count - 1.0, 1.0)
    outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=inputs,
        scale=gamma,
        offset=beta,
        mean=moving_mean,
        variance=moving_variance * bessel,
        epsilon=epsilon,
        exponential_avg_factor=1.0 - momentum,
        is_training=True,
    )
    # One value has no unbiased variance (cuDNN calls it NaN); its biased one is zero.
    variance = tf.where(count > 1.0, variance / bessel, moving_variance * momentum)
    return outputs, mean, variance


def normalize(
    inputs: tf.Tensor,
    gamma: tf.Tensor,
    beta: tf.Tensor,
    mean: tf.Tensor,
    variance: tf.Tensor,
    epsilon: float,
) -> tf.Tensor:
    """Normalises a batch by given statistics.

    TensorFlow merges this operation into the convolution before it, where it can.

    Args:
        inputs: Tensor of shape `(batch, height, width, channels)`: float32, float16 or bfloat16.
        gamma: Scale, of shape `(channels,)` and float32, as the other vectors.
        beta: Offset.
        mean: Mean of each channel.
        variance: Variance of each channel.
        epsilon: Added to the variance.

    Returns:
        The outputs: the shape and dtype of `inputs`.
    """
    outputs, *_ = tf.raw_ops.FusedBatchNormV3(
        x=inputs,
        scale=gamma,
        offset=beta,
        mean=mean,
        variance=variance,
        epsilon=epsilon,
        is_training=False,
    )
    return outputs
