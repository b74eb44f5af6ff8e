"""What the networks share: convolution + normalisation + activation, the head, their checks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras

from keras_grow.layers import (
    GrowableBatchNormalization,
    GrowableConv2D,
    GrowableDepthwiseConv2D,
)
from keras_grow.utils.checks import check_positive_int

Activation = str | Callable[[Any], Any] | None
Widths = Sequence[int] | Mapping[str, int] | None

# Statistics that follow the weights within tens of steps, not hundreds, as in the published code:
# a growth changes the channels that they describe.
_BN_MOMENTUM = 0.9


def images(input_shape: Any, smallest: int):
    """Returns the input of a network for images of at least `smallest` pixels each way."""
    return keras.Input(check_input_shape(input_shape, smallest), name="images")


def conv(x, filters: int, size: int, name: str, activation: Activation, strides: int = 1):
    """Applies convolution, batch normalisation and activation."""
    return activate(conv_bn(x, filters, size, name, strides), name, activation)


def conv_bn(x, filters: int, size: int, name: str, strides: int = 1):
    """Applies convolution and batch normalisation."""
    x = GrowableConv2D(
        filters,
        size,
        strides=strides,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=name,
    )(x)
    return GrowableBatchNormalization(momentum=_BN_MOMENTUM, name=f"{name}_bn")(x)


def depthwise(x, size: int, name: str, activation: Activation, strides: int = 1):
    """Applies depthwise convolution, batch normalisation and activation."""
    x = GrowableDepthwiseConv2D(
        size,
        strides=strides,
        padding="same",
        use_bias=False,
        # He's rule with the fan-in of one channel: Keras's `he_normal` counts every channel of a
        # depthwise kernel, and so draws weights that shrink with the width.
        depthwise_initializer=keras.initializers.RandomNormal(stddev=math.sqrt(2 / size**2)),
        name=name,
    )(x)
    x = GrowableBatchNormalization(momentum=_BN_MOMENTUM, name=f"{name}_bn")(x)
    return activate(x, name, activation)


def activate(x, name: str, activation: Activation):
    """Applies an activation."""
    return keras.layers.Activation(activation, name=f"{name}_activation")(x)


def head(x, classes: int):
    """Applies the linear layer that puts out the logits.

    They are in the precision of the weights: under a mixed policy, in float32.
    """
    dtype = keras.config.dtype_policy().variable_dtype
    return keras.layers.Dense(classes, dtype=dtype, name="head")(x)


def check_input_shape(input_shape: Any, smallest: int) -> tuple[int, int, int]:
    """Returns an image shape, or says what is wrong with it."""
    wanted = (
        f"`input_shape` must be a tuple of three integers (height, width, channels), height and "
        f"width at least {smallest}. Received: input_shape={input_shape!r}"
    )
    if not isinstance(input_shape, Sequence) or len(input_shape) != 3:
        raise ValueError(wanted)
    try:
        height, width, channels = (check_positive_int("input_shape", n) for n in input_shape)
    except (TypeError, ValueError) as error:
        raise ValueError(wanted) from error
    if min(height, width) < smallest:
        raise ValueError(wanted)
    return height, width, channels


def check_widths(width: int, widths: Widths, names: Iterable[str]) -> dict[str, int]:
    """Returns the width of every growable layer by name, or says what is wrong with them.

    Args:
        width: Width of the layers that `widths` leaves open.
        widths: One width per name, in order; or a dictionary name -> width; or `None`.
        names: Names of the growable layers, in order.
    """
    plan = dict.fromkeys(names, check_positive_int("width", width))
    if widths is None:
        return plan
    if not isinstance(widths, Mapping):
        widths = _by_name(widths, tuple(plan))
    unknown = [name for name in widths if name not in plan]
    if unknown:
        raise ValueError(
            f"`widths` must name growable layers of this network: {', '.join(plan)}. "
            f"Received: widths with {unknown}"
        )
    given = {name: check_positive_int(f"widths[{name!r}]", n) for name, n in widths.items()}
    return {**plan, **given}


def _by_name(widths: Any, names: Sequence[str]) -> dict[str, int]:
    if isinstance(widths, str) or not isinstance(widths, Iterable):
        raise TypeError(
            "`widths` must be a sequence of integers or a dictionary from layer name to integer. "
            f"Received: widths={widths!r} of type {type(widths)}"
        )
    widths = list(widths)
    if len(widths) != len(names):
        raise ValueError(
            f"`widths` must have one width for each of the {len(names)} growable layers: "
            f"{', '.join(names)}. Received: {len(widths)} widths"
        )
    return dict(zip(names, widths, strict=True))
