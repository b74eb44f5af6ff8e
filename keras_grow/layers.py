"""Keras layers whose channels can be added to while the network trains.

Each is its Keras layer under another name: it takes the same arguments, and a network computes
the same with either. Keras's own grow as well; only the batch normalisation here does more than its
own: it is faster. How a layer grows is written elsewhere, once for all of them: which axes of
its variables carry channels in `channels/layer_table.py`, what then happens to them in
`core/widening.py`.
"""

from __future__ import annotations

from typing import Any, ClassVar

import keras

from keras_grow.backend import fast_batch_norm


class Growable:
    """Marks a Keras layer as one that `GrowableModel.from_keras` takes for Keras's own.

    Keras's own layers grow without it. A class that derives from this one and from a layer of
    Keras's, and is made known by `keras_grow.register_layer`, is taken in its place.

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

    def quantize(self, mode: Any = None, type_check: bool = True, config: Any = None) -> None:
        """Quantizes the layer at its present width, after which it no longer grows.

        Args:
            mode: The mode, as `keras.layers.Dense.quantize` takes it: "int8", "int4", "float8".
            type_check: Whether to refuse classes derived from this one.
            config: A `keras.quantizers.QuantizationConfig`, in place of a mode.
        """
        # Keras refuses classes derived from its own, which could compute something else.
        checks = type_check and type(self) is not GrowableDense
        super().quantize(mode=mode, type_check=checks, config=config)


@keras.saving.register_keras_serializable(package="keras_grow")
class GrowableConv2D(Growable, keras.layers.Conv2D):
    """A `keras.layers.Conv2D` whose filters can be added to.

    Args:
        filters: Positive integer, the number of filters at the start.
        kernel_size: Integer or pair of integers, height and width of the kernel.
        **kwargs: See `keras.layers.Conv2D`. With `groups` above 1, whole groups are added.

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

    On TensorFlow it has the same results as Keras's own layer and is faster, for batches of images
    with their channels last, in float32, float16 or bfloat16: as one fused operation or, where that
    is slow (in training on a CPU, channels that are no multiple of four), by matrix products.
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
        # As in Keras, a frozen layer runs in inference mode.
        trains = bool(training and self.trainable)
        outputs = fast_batch_norm(self, inputs, trains) if mask is None else None
        if outputs is None:
            return super().call(inputs, training=training, mask=mask)
        return outputs
