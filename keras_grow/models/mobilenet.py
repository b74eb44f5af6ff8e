"""MobileNetV1 for small images: the stem and the pointwise layers grow, the depthwise follow."""

from __future__ import annotations

import keras

from keras_grow.model import GrowableModel
from keras_grow.models import blocks
from keras_grow.utils.checks import check_positive_int

_BLOCKS = tuple(f"block{number}" for number in range(1, 14))
_STRIDED = ("block2", "block4", "block6", "block12")


def MobileNetV1(
    width: int = 32,
    classes: int = 10,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    activation: blocks.Activation = "relu",
    name: str = "mobilenet_v1",
    widths: blocks.Widths = None,
) -> GrowableModel:
    """Builds a MobileNetV1 whose layers all start equally narrow, and all grow.

    A 3x3 stem of stride 1, then 13 blocks: depthwise 3x3 convolution (stride 2 in blocks 2, 4, 6
    and 12) and pointwise 1x1 convolution, without bias, each with batch normalisation and
    activation; the average over all positions (2 x 2 of them, for 32 x 32 images); one linear
    head, which puts out logits. Kernels are drawn by `he_normal`, depthwise ones from a normal
    distribution with the same rule; moving statistics have momentum 0.9. Weight decay is the
    optimizer's.

    Args:
        width: Number of channels of the stem and of each block. Defaults to 32.
        classes: Number of logits. Defaults to 10.
        input_shape: Height, width and channels of an image; at least 16 x 16.
        activation: Activation after each normalisation. Defaults to "relu".
        name: Name of the model.
        widths: Where the layers are to differ, as in a grown network: a sequence of 14 widths
            (the stem's first), or a dictionary such as `model.widths` of a grown one, from layer
            name ("stem", "block1_pointwise" to "block13_pointwise") to width; `width` holds for
            names that it leaves out.

    Returns:
        A `GrowableModel`, not compiled.

    Raises:
        TypeError: if `width`, `classes` or a width isn't an integer.
        ValueError: if one of them isn't positive, `input_shape` is too small, or `widths` names
            other layers or has another length.

    Example:

    >>> import keras_grow
    >>> model = keras_grow.models.MobileNetV1(width=32, classes=10)
    >>> model.count_params()
    21706
    >>> list(model.widths)[:3]
    ['stem', 'block1_pointwise', 'block2_pointwise']

    Reference:
        Howard et al., MobileNets: Efficient Convolutional Neural Networks for Mobile Vision
        Applications, 2017.
    """
    check_positive_int("classes", classes)
    growable = ("stem", *(f"{block}_pointwise" for block in _BLOCKS))
    filters = blocks.check_widths(width, widths, growable)
    x = inputs = blocks.images(input_shape, smallest=16)
    x = blocks.conv(x, filters["stem"], 3, "stem", activation)
    for block in _BLOCKS:
        strides = 2 if block in _STRIDED else 1
        x = blocks.depthwise(x, 3, f"{block}_depthwise", activation, strides)
        pointwise = f"{block}_pointwise"
        x = blocks.conv(x, filters[pointwise], 1, pointwise, activation)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return GrowableModel(inputs, blocks.head(x, classes), name=name)
