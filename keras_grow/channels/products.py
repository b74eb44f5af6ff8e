"""How many multiply-adds a call of a layer takes, per example, of the layers with matrix products.

Each function takes the layer and the numbers of elements that go in and come out.
"""

from __future__ import annotations

import math
from typing import Any


def dense(layer: Any, inputs: int, outputs: int) -> int:
    """Each output is a sum over the inputs."""
    return layer.kernel.shape[0] * outputs


def convolution(layer: Any, inputs: int, outputs: int) -> int:
    """Each output is a sum over a window."""
    return math.prod(layer.kernel.shape[:-1]) * outputs


def transposed_convolution(layer: Any, inputs: int, outputs: int) -> int:
    """Each input goes to a window."""
    return math.prod(layer.kernel.shape[:-1]) * inputs


def depthwise_convolution(layer: Any, inputs: int, outputs: int) -> int:
    """Each output is a sum over a window of one channel."""
    return math.prod(layer.kernel.shape[:-2]) * outputs


def separable_convolution(layer: Any, inputs: int, outputs: int) -> int:
    """A depthwise convolution, and a dense layer at each position."""
    positions = outputs // layer.pointwise_kernel.shape[-1]
    weights = math.prod(layer.depthwise_kernel.shape) + math.prod(layer.pointwise_kernel.shape)
    return weights * positions


def einsum_dense(layer: Any, inputs: int, outputs: int) -> int:
    """Each output is a sum over the axes of the kernel that it doesn't have."""
    terms, output = layer.equation.replace(" ", "").split("->")
    sizes = zip(terms.split(",")[1], layer.kernel.shape, strict=True)
    return math.prod(size for label, size in sizes if label not in output) * outputs


def recurrent(layer: Any, inputs: int, outputs: int) -> int:
    """One step of a cell: each weight is used once, or once per position of a convolution."""
    weights = math.prod(layer.kernel.shape) + math.prod(layer.recurrent_kernel.shape)
    if len(layer.kernel.shape) == 2:
        return weights
    return weights * (outputs // layer.recurrent_kernel.shape[-2])


def unembed(layer: Any, inputs: int, outputs: int) -> int:
    """Each output is a sum over the channels of an embedding."""
    return layer.embeddings.shape[-1] * outputs


def none(layer: Any, inputs: int, outputs: int) -> int:
    """Weights with several axes, but one use of each per element; a look-up."""
    return 0
