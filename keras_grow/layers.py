"""Keras layers whose channels can be added to while the network trains.

Each is its Keras layer under another name: it takes the same arguments, and a network computes
the same with either. How a layer grows is written elsewhere, once for all of them: which axes of
its variables carry channels in `roles.py`, what then happens to them in `widening.py`.
"""

from __future__ import annotations

from typing import Any, ClassVar

import keras
from keras import ops

_ON_TENSORFLOW = keras.config.backend() == "tensorflow"
if _ON_TENSORFLOW:
    from keras_grow import tensorflow_ops


class Growable:
    """Marks a Keras layer whose channels can be added to.

    To make another layer growable, derive from this class and from the layer, and give the new
    class its row in `roles.py`.

    Attributes:
        width_argument: The constructor argument that holds the layer's width, or `None` for a
            layer that is as wide as its inputs.

    Example:

    >>> import keras_grow
    >>> layer = keras_grow.layers.GrowableConv2D(filters=8, kernel_size=3)
    >>> isinstance(layer, keras_grow.layers.Growable), layer.width_argument
    (True, 'filters')
    """

    width_argument: ClassVar[str | None] = None


@keras.saving.register_keras_serializable(package="keras_grow")
class GrowableDense(Growable, keras.layers.Dense):
    """A `keras.layers.Dense` whose units can be added to.

    Args:
        units: Positive integer, the number of units at the start.
        **kwargs: See `keras.layers.Dense`.

    Example:

    >>> import keras, keras_grow
    >>> layer = keras_grow.layers.GrowableDense(4, activation="relu")
    >>> tuple(layer(keras.ops.ones((2, 3))).shape)
    (2, 4)
    """

    width_argument = "units"


@keras.saving.register_keras_serializable(package="keras_grow")
class GrowableConv2D(Growable, keras.layers.Conv2D):
    """A `keras.layers.Conv2D` whose filters can be added to.

    Args:
        filters: Positive integer, the number of filters at the start.
        kernel_size: Integer or pair of integers, height and width of the kernel.
        **kwargs: See `keras.layers.Conv2D`. With `groups` above 1 the layer trains as usual, but
            does not grow.

    Example:

    >>> import keras, keras_grow
    >>> layer = keras_grow.layers.GrowableConv2D(4, 3, padding="same", use_bias=False)
    >>> tuple(layer(keras.ops.ones((2, 8, 8, 3))).shape)
    (2, 8, 8, 4)
    """

    width_argument = "filters"


@keras.saving.register_keras_serializable(package="keras_grow")
class GrowableDepthwiseConv2D(Growable, keras.layers.DepthwiseConv2D):
    """A `keras.layers.DepthwiseConv2D` that grows with the channels that come in.

    Args:
        kernel_size: Integer or pair of integers, height and width of the kernel.
        **kwargs: See `keras.layers.DepthwiseConv2D`.

    Example:

    >>> import keras, keras_grow
    >>> layer = keras_grow.layers.GrowableDepthwiseConv2D(3, depth_multiplier=2)
    >>> tuple(layer(keras.ops.ones((2, 8, 8, 3))).shape)
    (2, 6, 6, 6)
    """


@keras.saving.register_keras_serializable(package="keras_grow")
class GrowableBatchNormalization(Growable, keras.layers.BatchNormalization):
    """A `keras.layers.BatchNormalization` that grows with the channels that come in.

    On TensorFlow it runs as one fused operation, with the same results as Keras's own layer and
    faster, for batches of images with their channels last, in float32, float16 or bfloat16.
    Everything else goes through Keras's own layer: masks, `synchronized`, `renorm`, and functions
    compiled with XLA, which fuses by itself.

    Args:
        **kwargs: See `keras.layers.BatchNormalization`.

    Example:

    >>> import keras, keras_grow
    >>> layer = keras_grow.layers.GrowableBatchNormalization(momentum=0.5)
    >>> images = keras.ops.ones((2, 8, 8, 3))
    >>> keras.ops.max(layer(images, training=True)).numpy().item()
    0.0
    >>> layer.moving_mean.numpy().tolist()
    [0.5, 0.5, 0.5]

    Reference:

    - [Ioffe and Szegedy, 2015](https://arxiv.org/abs/1502.03167)
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        if mask is not None or not _can_fuse(self, inputs):
            return super().call(inputs, training=training, mask=mask)
        mean, variance = _float32(self.moving_mean), _float32(self.moving_variance)
        gamma = _float32(self.gamma) if self.scale else ops.ones_like(mean)
        beta = _float32(self.beta) if self.center else ops.zeros_like(mean)
        vectors = (gamma, beta, mean, variance)
        # As in Keras, a frozen layer runs in inference mode.
        if not (training and self.trainable):
            return tensorflow_ops.normalize(inputs, *vectors, self.epsilon)
        outputs, mean, variance = tensorflow_ops.normalize_by_batch(
            inputs, *vectors, self.momentum, self.epsilon
        )
        self.moving_mean.assign(mean)
        self.moving_variance.assign(variance)
        return outputs


def _float32(vector: Any) -> Any:
    """Returns a vector in the precision that the fused kernel asks of all but its inputs."""
    return ops.cast(vector, "float32")


def _can_fuse(layer: keras.layers.BatchNormalization, inputs: Any) -> bool:
    """Tells whether TensorFlow's fused kernel computes what Keras's layer would."""
    dtype = keras.backend.standardize_dtype(inputs.dtype)
    return (
        _ON_TENSORFLOW
        and len(inputs.shape) == 4
        and layer.axis in (-1, 3)
        and dtype in ("float32", "float16", "bfloat16")
        and dtype == layer.compute_dtype
        and not layer.synchronized
        and not getattr(layer, "renorm", False)  # added to Keras after 3.10
        # XLA takes the variance as E[x^2] - E[x]^2, which is off by 1e-4 when the mean is ten
        # times the deviation, and NaN when it is a thousand times.
        and not tensorflow_ops.compiled_by_xla()
    )
