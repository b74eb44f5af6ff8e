"""Batch normalisation, faster than by Keras's layer: fused, or by matrix products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

# Not among TensorFlow's public names, and there is no public way to ask (TensorFlow 2.19 to 2.21).
from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext


def fast_batch_norm(
    layer: keras.layers.BatchNormalization, inputs: tf.Tensor, training: bool
) -> tf.Tensor | None:
    """Normalises a batch as a Keras layer does, faster.

    Args:
        layer: The layer. Its moving statistics are brought up to date where it trains.
        inputs: What it is called on.
        training: Whether it normalises by the statistics of the batch.

    Returns:
        Its outputs; `None` where neither way computes what the layer would.
    """
    if not _can_fuse(layer, inputs):
        return None
    mean, variance = _float32(layer.moving_mean), _float32(layer.moving_variance)
    gamma = _float32(layer.gamma) if layer.scale else tf.ones_like(mean)
    beta = _float32(layer.beta) if layer.center else tf.zeros_like(mean)
    vectors = (gamma, beta, mean, variance)
    if not training:
        return normalize(inputs, *vectors, layer.epsilon)
    outputs, mean, variance = normalize_by_batch(inputs, *vectors, layer.momentum, layer.epsilon)
    layer.moving_mean.assign(mean)
    layer.moving_variance.assign(variance)
    return outputs


def _float32(vector: Any) -> tf.Tensor:
    """Returns a vector in the precision that the fused kernel asks of all but its inputs."""
    return keras.ops.cast(vector, "float32")


def _can_fuse(layer: keras.layers.BatchNormalization, inputs: Any) -> bool:
    """Tells whether TensorFlow's fused kernel computes what Keras's layer would."""
    dtype = keras.backend.standardize_dtype(inputs.dtype)
    return (
        len(inputs.shape) == 4
        and layer.axis in (-1, 3)
        and dtype in ("float32", "float16", "bfloat16")
        and dtype == layer.compute_dtype
        and not layer.synchronized
        and not getattr(layer, "renorm", False)  # added to Keras after 3.10
        # XLA takes the variance as E[x^2] - E[x]^2, which is off by 1e-4 when the mean is ten
        # times the deviation, and NaN when it is a thousand times.
        and not compiled_by_xla()
    )


def _fused_is_faster(inputs: tf.Tensor) -> bool:
    """Tells whether to train by the fused kernel.

    On a CPU its pass over a batch takes two to three times as long where the channels are no
    multiple of four, as they mostly are after a growth (`benchmarks/throughput.py`).
    """
    return inputs.shape[-1] % 4 == 0 or bool(tf.config.list_physical_devices("GPU"))


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
    if not _fused_is_faster(inputs):
        outputs, mean, variance = _normalize_by_products(inputs, gamma, beta, epsilon)
        mean = moving_mean * momentum + mean * (1.0 - momentum)
        return outputs, mean, moving_variance * momentum + variance * (1.0 - momentum)
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


def _normalize_by_products(
    inputs: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Normalises a batch with its sums as products of matrices.

    Returns:
        The outputs, and the mean and the variance of the batch.
    """
    rows = tf.reshape(tf.cast(inputs, "float32"), [-1, inputs.shape[-1]])
    outputs, mean, variance = _normalize_rows(rows, gamma, beta, tf.constant(epsilon))
    outputs = tf.cast(tf.reshape(outputs, tf.shape(inputs)), inputs.dtype)
    outputs.set_shape(inputs.shape)
    return outputs, mean, variance


@tf.custom_gradient
def _normalize_rows(
    rows: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: tf.Tensor
) -> tuple[tuple[tf.Tensor, tf.Tensor, tf.Tensor], Callable[..., tuple[Any, ...]]]:
    """Normalises the columns of a matrix; returns their means and variances too.

    As of the fused kernel, the means and variances have no gradient. That of the rest is written
    out, in fewer passes over the batch than TensorFlow would find.
    """
    count = tf.cast(tf.shape(rows)[0], rows.dtype)
    ones = tf.ones([1, tf.shape(rows)[0]], rows.dtype)

    def total(matrix: tf.Tensor) -> tf.Tensor:
        return tf.squeeze(ones @ matrix, 0)

    mean = total(rows) / count
    deviations = rows - mean
    variance = total(deviations * deviations) / count
    scale = tf.math.rsqrt(variance + epsilon)

    def gradient(upstream: tf.Tensor, *_: tf.Tensor) -> tuple[Any, ...]:
        of_beta = total(upstream)
        of_gamma = total(upstream * deviations) * scale
        along = deviations * (of_gamma * scale / count)
        of_rows = (upstream - of_beta / count - along) * (gamma * scale)
        return of_rows, of_gamma, of_beta, None

    return (deviations * (gamma * scale) + beta, mean, variance), gradient


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
