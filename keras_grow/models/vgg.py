"""VGG16 for small images: thirteen convolutions, all of which grow."""

from __future__ import annotations

import keras

from keras_grow.model import GrowableModel
from keras_grow.models import blocks
from keras_grow.utils.checks import check_positive_int

_CONVS = tuple(f"conv{number}" for number in range(1, 14))
_POOL_AFTER = ("conv2", "conv4", "conv7", "conv10", "conv13")


def VGG16(
    width: int = 16,
    classes: int = 10,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    activation: blocks.Activation = "relu",
    name: str = "vgg16",
    widths: blocks.Widths = None,
) -> GrowableModel:
    """Builds a VGG16 whose layers all start equally narrow, and all grow.

    Thirteen 3x3 convolutions without bias, each with batch normalisation and activation;
    max-pooling after the 2nd, 4th, 7th, 10th and 13th; one linear head, which puts out logits.
    Kernels are drawn by `he_normal`; moving statistics have momentum 0.9. Weight decay is the
    optimizer's.

    Args:
        width: Number of channels of each convolution. Defaults to 16.
        classes: Number of logits. Defaults to 10.
        input_shape: Height, width and channels of an image; at least 32 x 32. Larger images have
            a larger head.
        activation: Activation after each normalisation. Defaults to "relu".
        name: Name of the model.
        widths: Where the convolutions are to differ, as in a grown network: a sequence of 13
            widths, or a dictionary such as `model.widths` of a grown one, from layer name
            ("conv1" to "conv13") to width; `width` holds for names that it leaves out.

    Returns:
        A `GrowableModel`, not compiled.

    Raises:
        TypeError: if `width`, `classes` or a width isn't an integer.
        ValueError: if one of them isn't positive, `input_shape` is too small, or `widths` names
            other layers or has another length.

    Example:

    >>> import keras_grow
    >>> model = keras_grow.models.VGG16(width=16, classes=10)
    >>> model.count_params()
    29082
    >>> model.output_shape
    (None, 10)
    >>> keras_grow.models.VGG16(widths={**model.widths, "conv1": 20}).widths["conv1"]
    20

    Reference:
        Simonyan and Zisserman, Very Deep Convolutional Networks for Large-Scale Image
        Recognition, 2015.
    """
    check_positive_int("classes", classes)
    filters = blocks.check_widths(width, widths, _CONVS)
    x = inputs = blocks.images(input_shape, smallest=32)
    for conv in _CONVS:
        x = blocks.conv(x, filters[conv], 3, conv, activation)
        if conv in _POOL_AFTER:
            x = keras.layers.MaxPooling2D(2, name=f"{conv}_pool")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    return GrowableModel(inputs, blocks.head(x, classes), name=name)
