"""Where channels go when a tensor is laid out anew: reshaped, transposed, sliced, put side by side.

What can't be followed freezes the groups that it touches, with a reason to read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras
import numpy as np

from keras_grow.channels.joins import Inputs, is_fixed_array
from keras_grow.channels.walk import Channels, Walk
from keras_grow.core.index_maps import Segment
from keras_grow.core.keras_private import Call

# Stands for a number of entries that isn't known before the batch is there.
_UNKNOWN = 2**31 - 1


def flatten(walk: Walk, call: Call, inputs: Inputs) -> Channels | None:
    """Flatten: the channels of "channels_first" are moved to the end before."""
    channels, layer = inputs[0], call.operation
    shape = call.inputs[0].shape
    if channels and layer.data_format == "channels_first" and len(shape) > 1:
        shape = (shape[0], *shape[2:], shape[1])
        axis = len(shape) - 1 if channels.axis == 1 else channels.axis - 1
        channels = Channels(axis, channels.segments)
    return _reshape(walk, call, channels, shape)


def reshape(walk: Walk, call: Call, inputs: Inputs) -> Channels | None:
    """Joins the channel axis with others, or splits it, in blocks."""
    return _reshape(walk, call, inputs[0], call.inputs[0].shape)


def _reshape(walk: Walk, call: Call, channels: Channels | None, before: tuple) -> Channels | None:
    layer, after = call.operation, call.outputs[0].shape
    if channels is None:
        return None
    blocks = _blocks(before, after)
    old, new = next(pair for pair in blocks if channels.axis in pair[0])
    if None in [before[axis] for axis in old if axis != channels.axis]:
        return walk.refuse(layer, [channels], f"`{layer.name}` reshapes a shape that is not known")
    ahead = math.prod(before[axis] for axis in old if axis < channels.axis)
    behind = math.prod(before[axis] for axis in old if axis > channels.axis)
    segments = tuple(s._replace(repeat=s.repeat * behind) for s in channels.segments) * ahead
    outputs = _split(walk, Channels(0, segments), [(axis, after[axis]) for axis in new], before)
    if outputs is None:
        return walk.refuse(layer, [channels], f"`{layer.name}` reshapes the channel axis")
    walk.carry(layer, outputs)
    return outputs


def _blocks(before: Sequence, after: Sequence) -> list[tuple[list[int], list[int]]]:
    """Pairs axes of two shapes, from the last on, that hold the same entries."""
    sizes = [[_UNKNOWN if size is None else size for size in shape] for shape in (before, after)]
    left = [len(before), len(after)]
    pairs = []
    while left[0]:
        ends = list(left)
        left[0] -= 1
        left[1] -= left[1] > 0
        while True:
            one, two = (math.prod(sizes[n][left[n] : ends[n]]) for n in (0, 1))
            if one == two or (not left[0] and not left[1]):
                break
            shorter = 0 if (one < two and left[0]) or not left[1] else 1
            left[shorter] -= 1
        pairs.append((list(range(left[0], ends[0])), list(range(left[1], ends[1]))))
    return pairs


def _split(
    walk: Walk, channels: Channels, axes: list[tuple[int, int | None]], before: tuple
) -> Channels | None:
    """Lays channels out along one of several axes, whose entries hold them together.

    Where they could lie along several, a vector becomes positions with channels, and the channels
    at a position become groups of them, as the heads of an attention are.
    """
    sizes = [size for _, size in axes]
    if None in sizes:
        return None
    places = []
    for number, (axis, size) in enumerate(axes):
        ahead, behind = math.prod(sizes[:number]), math.prod(sizes[number + 1 :])
        if size > 1 or len(axes) == 1:
            places.append((axis, ahead, behind))
    if len(before) == 2 and keras.config.image_data_format() == "channels_last":
        places.reverse()
    segments = walk.resolved(channels).segments
    # Those that need no channels to grow together come first.
    places.sort(key=lambda place: not _lie_so(segments, *place[1:]))
    for axis, ahead, behind in places:
        part = walk.in_parts(channels, ahead)
        outputs = part and walk.in_blocks(Channels(axis, part), behind)
        if outputs:
            return outputs
    return None


def _lie_so(segments: tuple[Segment, ...], ahead: int, behind: int) -> bool:
    """Tells whether channels are the same several times, each with some positions in a row."""
    length, rest = divmod(len(segments), ahead)
    return (
        not rest
        and segments == segments[:length] * ahead
        and all(segment.repeat % behind == 0 for segment in segments)
    )


# Operation -> the order of the axes that it puts out, given it and an array.
_MOVES = {
    "Permute": lambda op, x: np.transpose(x, (0, *op.dims)),
    "Transpose": lambda op, x: np.transpose(x, op.axes),
    "Swapaxes": lambda op, x: np.swapaxes(x, op.axis1, op.axis2),
    "Moveaxis": lambda op, x: np.moveaxis(x, op.source, op.destination),
}


def move(walk: Walk, call: Call, inputs: Inputs) -> Channels | None:
    """Moves the channels to another axis."""
    channels, operation = inputs[0], call.operation
    if channels is None:
        return None
    # An array whose shape says which axis is which.
    marked = np.empty(range(len(call.inputs[0].shape)))
    order = _MOVES[type(operation).__name__](operation, marked).shape
    walk.carry(operation, channels)
    return Channels(order.index(channels.axis), channels.segments)


def expand(walk: Walk, call: Call, inputs: Inputs) -> Channels | None:
    """Puts axes of one entry in."""
    channels, operation = inputs[0], call.operation
    if channels is None:
        return None
    rank = len(call.outputs[0].shape)
    new = set(np.ravel(operation.axis) % rank)
    walk.carry(operation, channels)
    old = [axis for axis in range(rank) if axis not in new]
    return Channels(old[channels.axis], channels.segments)


def squeeze(walk: Walk, call: Call, inputs: Inputs) -> Channels | None:
    """Takes axes of one entry out."""
    channels, operation = inputs[0], call.operation
    if channels is None:
        return None
    shape = call.inputs[0].shape
    if operation.axis is None:
        gone = {axis for axis, size in enumerate(shape) if size == 1}
    else:
        gone = set(np.ravel(operation.axis) % len(shape))
    if channels.axis in gone:
        return walk.refuse(operation, inputs, f"`{operation.name}` takes their axis for single")
    walk.carry(operation, channels)
    return Channels(channels.axis - sum(a < channels.axis for a in gone), channels.segments)


def repeat_vector(walk: Walk, call: Call, inputs: Inputs) -> Channels | None:
    """RepeatVector: the same vector at each step."""
    walk.carry(call.operation, inputs[0])
    return inputs[0] and Channels(2, inputs[0].segments)


def select(walk: Walk, call: Call, inputs: Inputs) -> Channels | None:
    """Subscripts (`x[:, 1:]`): all channels have to stay."""
    channels, operation = inputs[0], call.operation
    if channels is None:
        return None
    key = call.named["key"]
    keys = list(key) if isinstance(key, (tuple, list)) else [key]
    if not all(k is None or k is Ellipsis or isinstance(k, (int, slice)) for k in keys):
        return walk.refuse(operation, inputs, f"`{operation.name}` takes entries by a tensor")
    taken = sum(k is not None and k is not Ellipsis for k in keys)
    rest = [slice(None)] * (len(call.inputs[0].shape) - taken)
    dots = keys.index(Ellipsis) if Ellipsis in keys else len(keys)
    keys = [*keys[:dots], *rest, *keys[dots + 1 :]]
    place = [number for number, k in enumerate(keys) if k is not None][channels.axis]
    if keys[place] not in (slice(None), slice(0, None), slice(None, None, 1)):
        return walk.refuse(operation, inputs, f"`{operation.name}` takes some of them")
    walk.carry(operation, channels)
    axis = sum(not isinstance(k, int) for k in keys[:place])
    return Channels(axis, channels.segments)


def split(walk: Walk, call: Call, inputs: Inputs) -> list[Channels | None]:
    """Splits along other axes, or the channels in equal parts, which then grow alike."""
    channels, operation = inputs[0], call.operation
    count = len(call.outputs)
    axis = operation.axis % len(call.inputs[0].shape)
    if channels is None or channels.axis != axis:
        walk.carry(operation, channels)
        return [channels] * count
    equal = isinstance(operation.indices_or_sections, int)
    part = walk.in_parts(channels, count) if equal else None
    if part is None:
        walk.refuse(operation, inputs, f"`{operation.name}` splits them at fixed places")
        return [None] * count
    walk.carry(operation, channels)
    return [Channels(axis, part)] * count


def gate(walk: Walk, call: Call, inputs: Inputs) -> Channels | None:
    """A gated linear unit: one half of the channels times what becomes of the other."""
    channels, operation = inputs[0], call.operation
    if channels is None or channels.axis != operation.axis % len(call.inputs[0].shape):
        walk.carry(operation, channels)
        return channels
    part = walk.in_parts(channels, 2)
    if part is None:
        return walk.refuse(operation, inputs, f"`{operation.name}` splits them at fixed places")
    walk.carry(operation, channels)
    return Channels(channels.axis, part)


def unstack(walk: Walk, call: Call, inputs: Inputs) -> Channels | None:
    """Takes an axis apart into one tensor per entry."""
    channels, operation = inputs[0], call.operation
    if channels is None:
        return None
    axis = operation.axis % len(call.inputs[0].shape)
    if axis == channels.axis:
        return walk.refuse(operation, inputs, f"`{operation.name}` takes them apart")
    walk.carry(operation, channels)
    return Channels(channels.axis - (axis < channels.axis), channels.segments)


def stack(walk: Walk, call: Call, inputs: Inputs) -> Channels | None:
    """Puts tensors beside each other along a new axis: their channels are the same."""
    operation = call.operation
    if any(is_fixed_array(value) for value in call.arguments):
        reason = f"`{operation.name}` joins them with an array of fixed shape"
        return walk.refuse(operation, inputs, reason)
    tied = walk.tie(inputs, f"`{operation.name}` joins them with channels that can't grow alike")
    if tied is None:
        return None
    walk.carry(operation, tied)
    axis = operation.axis % len(call.outputs[0].shape)
    return Channels(tied.axis + (axis <= tied.axis), tied.segments)


def concatenate(walk: Walk, call: Call, inputs: Inputs) -> Channels | None:
    """Lays the channels side by side."""
    known = [channels for channels in inputs if channels is not None]
    if not known:
        return None
    layer = call.operation
    if any(is_fixed_array(value) for value in call.arguments):
        reason = f"`{layer.name}` joins them with an array of fixed shape"
        return walk.refuse(layer, inputs, reason)
    axis = layer.axis % len(call.outputs[0].shape)
    if any(channels.axis != axis for channels in known):
        tied = walk.tie(inputs, f"`{layer.name}` joins them along another axis")
        walk.carry(layer, tied)
        return tied
    segments: tuple[Segment, ...] = ()
    for tensor, channels in zip(call.inputs, inputs, strict=True):
        fixed = (Segment(None, tensor.shape[axis]),)
        segments += fixed if channels is None else channels.segments
    outputs = Channels(axis, segments)
    walk.carry(layer, outputs)
    return outputs


def repeat(walk: Walk, call: Call, inputs: Inputs) -> Channels | None:
    """`keras.ops.repeat`: each entry several times in a row."""
    channels, operation = inputs[0], call.operation
    if channels is None:
        return None
    if operation.axis is None or not isinstance(operation.repeats, int):
        return walk.refuse(operation, inputs, f"`{operation.name}` repeats them unevenly")
    walk.carry(operation, channels)
    if channels.axis != operation.axis % len(call.inputs[0].shape):
        return channels
    segments = (s._replace(repeat=s.repeat * operation.repeats) for s in channels.segments)
    return Channels(channels.axis, tuple(segments))


def tile(walk: Walk, call: Call, inputs: Inputs) -> Channels | None:
    """`keras.ops.tile`: all entries several times, one after the other."""
    channels, operation = inputs[0], call.operation
    if channels is None:
        return None
    axis = channels.axis - len(call.inputs[0].shape)
    repeats = np.ravel(operation.repeats).tolist()
    times = repeats[axis] if len(repeats) >= -axis else 1
    walk.carry(operation, channels)
    return Channels(axis + len(call.outputs[0].shape), channels.segments * times)


def pad(walk: Walk, call: Call, inputs: Inputs) -> Channels | None:
    """`keras.ops.pad`: positions, not channels."""
    channels, operation = inputs[0], call.operation
    if channels is None:
        return None
    widths = np.broadcast_to(operation.pad_width, (len(call.inputs[0].shape), 2))
    if np.any(widths[channels.axis]):
        return walk.refuse(operation, inputs, f"`{operation.name}` pads them")
    walk.carry(operation, channels)
    return channels


def take(walk: Walk, call: Call, inputs: Inputs) -> Channels | None:
    """`keras.ops.take`: entries along an axis beside that of the channels."""
    channels, operation = inputs[0], call.operation
    if len(inputs) > 1 or operation.axis is None or call.named["x"] is not call.inputs[0]:
        return walk.refuse(operation, inputs, f"`{operation.name}` takes entries by a tensor")
    if channels is None:
        return None
    axis = operation.axis % len(call.inputs[0].shape)
    if axis == channels.axis:
        return walk.refuse(operation, inputs, f"`{operation.name}` takes some of them")
    walk.carry(operation, channels)
    added = np.ndim(call.named["indices"]) - 1 if axis < channels.axis else 0
    return Channels(channels.axis + added, channels.segments)
