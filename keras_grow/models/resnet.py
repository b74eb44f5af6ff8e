"""A small residual network: layers joined by an addition grow as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from keras_grow.model import GrowableModel
from keras_grow.models import blocks as parts
from keras_grow.utils.checks import check_positive_int


def ResNet(
    width: int = 16,
    blocks: Sequence[int] = (3, 3, 3),
    classes: int = 10,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    activation: parts.Activation = "relu",
    name: str = "resnet",
    widths: parts.Widths = None,
) -> GrowableModel:
    """Builds a residual network for small images whose layers all start equally narrow.

    The network of the paper's CIFAR experiments (post-activation): a 3x3 stem, then stages of
    blocks of two 3x3 convolutions, without bias, each with batch normalisation and activation,
    the second activation after the addition of the block's input. From the second stage on, a
    stage's first block has stride 2, and its shortcut is a 1x1 convolution of stride 2 with batch
    normalisation. At the end, the average over all positions and a linear head, which puts out
    logits. All stages start `width` wide. Kernels are drawn by `he_normal`; moving statistics
    have momentum 0.9. Weight decay is the optimizer's.

    What grows: each block's first convolution by itself; and, as one group for each stage, the
    layers whose outputs are added up: stem and blocks, shortcut and blocks.

    Args:
        width: Number of channels of each convolution. Defaults to 16.
        blocks: Number of blocks of each stage. Defaults to (3, 3, 3), a ResNet-20.
        classes: Number of logits. Defaults to 10.
        input_shape: Height, width and channels of an image; at least 2 ** (stages - 1) pixels
            each way.
        activation: Activation after each normalisation. Defaults to "relu".
        name: Name of the model.
        widths: Where the groups are to differ, as in a grown network: a sequence of one width for
            each group, or a dictionary from group name to width, both as in `model.widths` of a
            grown one; `width` holds for names that it leaves out.

    Returns:
        A `GrowableModel`, not compiled.

    Raises:
        TypeError: if `width`, `classes`, a number of blocks or a width isn't an integer.
        ValueError: if one of them isn't positive, `input_shape` is too small, or `widths` names
            other groups or has another length.

    Example:

    >>> import keras_grow
    >>> model = keras_grow.models.ResNet(width=8, blocks=(1, 1))
    >>> model.widths
    {'stem': 8, 'stage1_block1_conv1': 8, 'stage2_block1_conv1': 8, 'stage2_shortcut': 8}

    Reference:
        He et al., Deep Residual Learning for Image Recognition, 2016.
    """
    check_positive_int("classes", classes)
    stages = _stages(blocks)
    filters = parts.check_widths(width, widths, _groups(stages))
    smallest = 2 ** (len(stages) - 1)
    x = inputs = parts.images(input_shape, smallest)
    x = parts.conv(x, filters["stem"], 3, "stem", activation)
    for stage, names in stages.items():
        for block in names:
            first = stage != "stage1" and block == names[0]
            x = _block(x, stage, block, filters, activation, strides=2 if first else 1)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return GrowableModel(inputs, parts.head(x, classes), name=name)


def _stages(blocks: Any) -> dict[str, list[str]]:
    """Returns the names of the stages' blocks."""
    if isinstance(blocks, str) or not isinstance(blocks, Sequence) or not blocks:
        raise ValueError(
            "`blocks` must be a sequence with the number of blocks of each stage, such as "
            f"(3, 3, 3). Received: blocks={blocks!r}"
        )
    counts = [check_positive_int("blocks", count) for count in blocks]
    return {
        f"stage{i}": [f"stage{i}_block{j}" for j in range(1, count + 1)]
        for i, count in enumerate(counts, start=1)
    }


def _trunk(stage: str) -> str:
    """Returns the name of the group of channels that a stage's blocks add to."""
    return "stem" if stage == "stage1" else f"{stage}_shortcut"


def _groups(stages: dict[str, list[str]]) -> list[str]:
    """Returns the names of the groups, in the order in which they first come up."""
    names = ["stem"]
    for stage, blocks in stages.items():
        convs = [f"{block}_conv1" for block in blocks]
        names += convs if stage == "stage1" else [convs[0], _trunk(stage), *convs[1:]]
    return names


def _block(x, stage: str, block: str, filters: dict[str, int], activation, strides: int):
    """Applies one residual block."""
    trunk, conv1, conv2 = _trunk(stage), f"{block}_conv1", f"{block}_conv2"
    shortcut = x if strides == 1 else parts.conv_bn(x, filters[trunk], 1, trunk, strides)
    x = parts.conv(x, filters[conv1], 3, conv1, activation, strides)
    x = parts.conv_bn(x, filters[trunk], 3, conv2)
    x = keras.layers.Add(name=f"{block}_add")([shortcut, x])
    return parts.activate(x, block, activation)
