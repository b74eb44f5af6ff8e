"""Where tensors meet: additions and products, matrix products of activations, reductions.

Tensors that meet are named by labels, one per axis, as in an einsum: axes of the same label meet.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_grow.channels.walk import Channels, Walk
from keras_grow.core.keras_private import Call

Inputs = list[Channels | None]


# Axes of queries, keys and values.
_OF_ATTENTION = (
    ("batch", "to", "head", "key"),
    ("batch", "from", "head", "key"),
    ("batch", "from", "head", "value"),
)


class Operand(NamedTuple):
    """A tensor that meets others.

    Attributes:
        labels: What its axes are called.
        shape: Its shape.
        channels: Its channels, or `None`.
        constant: Whether it is an array of fixed shape.
    """

    labels: tuple[Hashable, ...]
    shape: Sequence[int | None]
    channels: Channels | None
    constant: bool

    @property
    def label(self) -> Hashable | None:
        """What the channel axis is called."""
        return None if self.channels is None else self.labels[self.channels.axis]

    def spans(self, label: Hashable) -> bool:
        """Whether it has more than one entry along an axis."""
        return label in self.labels and self.shape[self.labels.index(label)] != 1


def join(walk: Walk, call: Call, inputs: Inputs) -> Channels | None:
    """Addition and its kin, with broadcasting: channel i of one input meets channel i of another.

    An input with one entry along the channel axis, or without that axis, meets all channels alike.
    """
    rank = len(call.outputs[0].shape)
    labels = tuple(range(rank))
    operands = operands_of(call, inputs, lambda _, value: labels[rank - len(value.shape) :])
    outputs = meet(walk, call, operands, labels)
    if any(isinstance(value, (int, float)) for value in call.arguments):
        walk.unsettle([outputs], f"`{call.operation.name}` joins all of them with a number")
    return outputs


def meet(
    walk: Walk, call: Call, operands: Sequence[Operand], outputs: tuple[Hashable, ...]
) -> Channels | None:
    """Takes tensors together along the axes of the same labels.

    Args:
        walk: The walk.
        call: The call.
        operands: The tensors, constants included.
        outputs: The labels of what comes out. What is summed over is missing there.

    Returns:
        The channels of what comes out: along the last axis that has any, the others are frozen.
    """
    name, layer = call.operation.name, call.operation
    labels = list(dict.fromkeys(o.label for o in operands if o.label is not None))
    # Layers take their channels from the last axis.
    kept = sorted((label for label in labels if label in outputs), key=outputs.index, reverse=True)
    for label in labels:
        channels = [o.channels for o in operands if o.label == label]
        if any(operand.labels.count(label) > 1 for operand in operands):
            walk.refuse(layer, channels, f"`{name}` takes their axis together with another")
            kept = [each for each in kept if each != label]
        elif label not in outputs:
            walk.refuse(layer, channels, f"`{name}` sums over them, and nothing weighs them there")
        elif label != kept[0]:
            walk.refuse(layer, channels, f"`{name}` puts them out beside other channels")
    if not kept:
        return None
    tied = _tie_along(walk, call, operands, kept[0], outputs.index(kept[0]))
    walk.carry(layer, tied)
    return tied


def _tie_along(
    walk: Walk, call: Call, operands: Sequence[Operand], label: Hashable, axis: int
) -> Channels | None:
    """Ties the channels along one label."""
    name = call.operation.name
    along = [operand for operand in operands if operand.spans(label)]
    if not along:  # one channel each
        along = [operand for operand in operands if label in operand.labels]
    thin = [o.channels for o in operands if o.label == label and o not in along]
    walk.freeze(thin, f"`{name}` spreads one channel over those of another")
    maps = [replace(o.channels, axis=axis) if o.label == label else None for o in along]
    fixed = any(o.constant and o.spans(label) for o in operands)
    what = "an array of fixed shape" if fixed else "channels that can't grow alike"
    tied = walk.tie(maps, f"`{name}` joins them with {what}")
    if len(along) < len(operands):
        walk.unsettle([tied], f"`{name}` joins all of them with the same")
    return tied


def operands_of(
    call: Call, inputs: Inputs, labels: Callable[[int, Any], tuple[Hashable, ...]]
) -> list[Operand]:
    """Returns what meets in a call: its inputs, and the constants that it was given.

    Args:
        call: The call.
        inputs: The channels of its inputs.
        labels: Takes the place among all that was passed and a tensor, and returns what its axes
            are called.
    """
    known = {id(t): channels for t, channels in zip(call.inputs, inputs, strict=True)}
    settings = () if isinstance(call.operation, keras.Layer) else vars(call.operation).values()
    given = [v for v in (*call.arguments, *settings) if _is_array(v)]
    return [
        Operand(labels(place, value), value.shape, known.get(id(value)), id(value) not in known)
        for place, value in enumerate(given)
    ]


def multiply_matrices(walk: Walk, call: Call, inputs: Inputs) -> Channels | None:
    """`keras.ops.matmul`: the last axis of one meets the last but one of the other."""
    rank = max(len(value.shape) for value in call.arguments if _is_array(value))
    batch = tuple(range(rank - 2))

    def labels(place: int, value: Any) -> tuple:
        last = ("row", "sum") if place == 0 else ("sum", "column")
        if len(value.shape) == 1:
            return ("sum",)
        return (*batch[rank - len(value.shape) :], *last)

    operands = operands_of(call, inputs, labels)
    outputs = [*batch]
    outputs += [label for o in operands for label in o.labels if label in ("row", "column")]
    return meet(walk, call, operands, tuple(outputs))


def attend(walk: Walk, call: Call, inputs: Inputs) -> Channels | None:
    """`keras.ops.dot_product_attention`: heads are treated one by one, values are weighed."""
    operands = operands_of(call, inputs, lambda place, _: _OF_ATTENTION[min(place, 2)])
    if len(operands) > 3:
        reason = f"`{call.operation.name}` has a mask or a bias, perhaps for each of them"
        return walk.refuse(call.operation, inputs, reason)
    return meet(walk, call, operands, ("batch", "to", "head", "value"))


def dot(walk: Walk, call: Call, inputs: Inputs) -> Channels | None:
    """The layer `Dot`: one axis of each is summed over."""
    axes = call.operation.axes
    axes = (axes, axes) if isinstance(axes, int) else tuple(axes)

    def labels(place: int, value: Any) -> tuple:
        names: list = [(place, axis) for axis in range(len(value.shape))]
        names[axes[place] % len(names)] = "sum"
        names[0] = "batch"
        return tuple(names)

    operands = operands_of(call, inputs, labels)
    outputs = [label for o in operands for label in o.labels if label not in ("sum", "batch")]
    return meet(walk, call, operands, ("batch", *outputs))


def einsum(walk: Walk, call: Call, inputs: Inputs) -> Channels | None:
    """`keras.ops.einsum`: labels as its subscripts say."""
    subscripts = call.operation.subscripts.replace(" ", "")
    if "->" not in subscripts:
        reason = f"`{call.operation.name}` doesn't say which axes it puts out"
        return walk.refuse(call.operation, inputs, reason)
    terms, output = subscripts.split("->")
    parts = terms.split(",")
    operands = operands_of(call, inputs, lambda n, v: spelled_out(parts[n], len(v.shape)))
    rank = len(call.outputs[0].shape)
    return meet(walk, call, operands, spelled_out(output, rank))


def spelled_out(subscripts: str, rank: int) -> tuple[Hashable, ...]:
    """Returns the label of each axis; those that dots stand for are numbered from the last on.

    Example:

    >>> from keras_grow.channels.joins import spelled_out
    >>> spelled_out("a...c", 4)
    ('a', -2, -1, 'c')
    """
    before, dots, after = subscripts.partition("...")
    count = rank - len(before) - len(after) if dots else 0
    return (*before, *range(-count, 0), *after)


def reduce(walk: Walk, call: Call, inputs: Inputs) -> Channels | None:
    """Takes a mean, a sum or the like over axes: channels beside them stay."""
    operation, (channels,) = call.operation, inputs
    axes = getattr(operation, "axis", None)
    axes = getattr(operation, "axes", None) if axes is None else axes
    rank = len(call.inputs[0].shape)
    axes = range(rank) if axes is None else np.ravel(axes) % rank
    if channels is None:
        return None
    if channels.axis in axes:
        return mix(walk, call, inputs)
    walk.carry(operation, channels)
    gone = (
        0 if getattr(operation, "keepdims", False) else sum(axis < channels.axis for axis in axes)
    )
    return Channels(channels.axis - int(gone), channels.segments)


def along_an_axis(walk: Walk, call: Call, inputs: Inputs) -> Channels | None:
    """Does something along axes, as a softmax does: channels beside them are treated alike."""
    operation, (channels,) = call.operation, inputs
    if channels is None:
        return None
    axes = np.ravel([] if operation.axis is None else operation.axis)
    if not len(axes) or channels.axis in axes % len(call.inputs[0].shape):
        return mix(walk, call, inputs)
    walk.carry(operation, channels)
    return channels


def mix(walk: Walk, call: Call, inputs: Inputs) -> None:
    """Makes each channel depend on all of them."""
    layer = call.operation
    return walk.refuse(layer, inputs, f"`{layer.name}` ({type(layer).__name__}) mixes channels")


def is_fixed_array(value: Any) -> bool:
    """Tells whether a value is a constant with more than one entry."""
    if isinstance(value, (list, tuple)):
        return len(value) > 1
    symbolic = isinstance(value, keras.KerasTensor)
    return not symbolic and math.prod(getattr(value, "shape", ())) > 1


def spans(array: Any, axis: int) -> bool:
    """Tells whether an array has more than one entry along an axis, counted from the end."""
    shape = np.shape(array)
    return len(shape) >= -axis and shape[axis] > 1


def _is_array(value: Any) -> bool:
    return getattr(value, "shape", None) is not None
