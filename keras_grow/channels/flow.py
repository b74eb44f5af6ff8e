"""What layers do to the channels that come in: one small function per kind of layer.

Each takes a walk, a call and the channels of its inputs, and returns those of its outputs. Whatever
it doesn't understand freezes the groups that it touches, with a reason to read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import keras

from keras_grow.channels.walk import Channels, Walk, attribute_at
from keras_grow.core.index_maps import Segment
from keras_grow.core.keras_private import Call

Inputs = list[Channels | None]


def last_axis(layer: Any, rank: int) -> int:
    """Returns the channel axis of a layer that always takes the last one."""
    return rank - 1


def format_axis(layer: Any, rank: int) -> int:
    """Returns the channel axis of a layer with a data format."""
    return 1 if getattr(layer, "data_format", "channels_last") == "channels_first" else rank - 1


def argument_axis(layer: Any, rank: int) -> int:
    """Returns the channel axis of a layer with an `axis` argument."""
    return layer.axis % rank


def dense(walk: Walk, call: Call, inputs: Inputs) -> Channels:
    """Sums over the channels that come in, and puts out new ones along the last axis."""
    layer = call.operation
    return walk.produce(layer, layer.units, last_axis(layer, _rank(call)))


def produce_as(variables: Mapping[str, Any]) -> Callable[[Walk, Call, Inputs], Channels]:
    """Returns the flow of a layer that puts out as many channels as its variables hold.

    Args:
        variables: Path of each variable -> its axes.
    """
    name, axis = next((name, a.output) for name, a in variables.items() if a.output is not None)

    def flow(walk: Walk, call: Call, inputs: Inputs) -> Channels:
        width = attribute_at(call.operation, name).shape[axis]
        return walk.produce(call.operation, width, format_axis(call.operation, _rank(call)))

    return flow


def convolve(walk: Walk, call: Call, inputs: Inputs) -> Channels:
    """Sums over the channels that come in, and puts out new ones along the axis of the format."""
    layer = call.operation
    outputs = walk.produce(layer, layer.filters, format_axis(layer, _rank(call)))
    if getattr(layer, "groups", 1) > 1:
        walk.freeze([*inputs, outputs], f"`{layer.name}` is a grouped convolution")
    return outputs


def depthwise(walk: Walk, call: Call, inputs: Inputs) -> Channels | None:
    """A depthwise convolution: `depth_multiplier` channels out for each one in."""
    channels, times = carry(walk, call, inputs), call.operation.depth_multiplier
    if channels is None:
        return None
    segments = (s._replace(repeat=s.repeat * times) for s in channels.segments)
    return Channels(channels.axis, tuple(segments))


def carry(walk: Walk, call: Call, inputs: Inputs) -> Channels | None:
    """Does the same to every channel, whatever their number."""
    if len(inputs) > 1:
        return unknown(walk, call, inputs)
    walk.carry(call.operation, inputs[0])
    return inputs[0]


def drop(walk: Walk, call: Call, inputs: Inputs) -> Channels | None:
    """Dropout: the number of channels may be written in its noise shape."""
    channels, layer = inputs[0], call.operation
    if channels and layer.noise_shape:
        index = channels.axis - _rank(call)
        noise = layer.noise_shape[index] if len(layer.noise_shape) >= -index else None
        if noise == channels.width == 1:
            reason = f"the `noise_shape` of `{layer.name}` may mean one channel, or all of them"
            walk.freeze(inputs, reason)
    return carry(walk, call, inputs)


def rescale(walk: Walk, call: Call, inputs: Inputs) -> Channels | None:
    """Rescaling: by one number, or by an array of fixed shape."""
    layer = call.operation
    if any(is_fixed_array(value) for value in (layer.scale, layer.offset)):
        return walk.refuse(layer, inputs, f"`{layer.name}` holds a number for each of them")
    return carry(walk, call, inputs)


def slope(walk: Walk, call: Call, inputs: Inputs) -> Channels | None:
    """PReLU: a slope per channel, unless the channel axis is shared."""
    channels, layer = inputs[0], call.operation
    if channels and channels.axis in (layer.shared_axes or ()):
        return walk.refuse(layer, inputs, f"`{layer.name}` shares its slope between them")
    return carry(walk, call, inputs)


def pool_globally(walk: Walk, call: Call, inputs: Inputs) -> Channels | None:
    """Leaves nothing but the channels."""
    channels = carry(walk, call, inputs)
    if channels is None or call.operation.keepdims:
        return channels
    return Channels(1, channels.segments)


def mix(walk: Walk, call: Call, inputs: Inputs) -> None:
    """Makes each channel depend on all of them."""
    layer = call.operation
    return walk.refuse(layer, inputs, f"`{layer.name}` ({type(layer).__name__}) mixes channels")


def unknown(walk: Walk, call: Call, inputs: Inputs) -> None:
    """Does what isn't known here."""
    return walk.refuse(call.operation, inputs, reason_unknown(call.operation))


def reason_unknown(operation: Any) -> str:
    """Says that it isn't known what an operation does."""
    kind = type(operation).__name__
    reason = f"what `{operation.name}` ({kind}) does to its channels isn't known"
    if isinstance(operation, keras.layers.Lambda):
        return f"{reason}: make a layer class of its function, and `keras_grow.register_layer` it"
    if isinstance(operation, keras.layers.Layer) and not _is_of_keras(operation):
        return f"{reason}: say so by `keras_grow.register_layer`"
    return reason


def _is_of_keras(layer: keras.layers.Layer) -> bool:
    return type(layer).__module__.split(".")[0] == "keras"


def flatten(walk: Walk, call: Call, inputs: Inputs) -> Channels | None:
    """Lays out the channels once per position, or each of them once for all positions."""
    channels, layer = inputs[0], call.operation
    if channels is None:
        return None
    shape = call.inputs[0].shape
    positions = [size for axis, size in enumerate(shape) if axis not in (0, channels.axis)]
    last = channels.axis == len(shape) - 1
    # Flatten moves the channels of "channels_first" to the end before it flattens.
    moved = getattr(layer, "data_format", None) == "channels_first" and channels.axis == 1
    if None in positions or not (last or moved or channels.axis == 1):
        return walk.refuse(layer, inputs, f"`{layer.name}` flattens a shape that is not known")
    walk.carry(layer, channels)
    count = math.prod(positions)
    if last or moved:
        return Channels(1, channels.segments * count)
    return Channels(1, tuple(s._replace(repeat=s.repeat * count) for s in channels.segments))


def reshape(walk: Walk, call: Call, inputs: Inputs) -> Channels | None:
    """Understood where it flattens everything or keeps the last axis."""
    channels, layer = inputs[0], call.operation
    if channels is None:
        return None
    before, after = call.inputs[0].shape, call.outputs[0].shape
    if len(after) == 2:
        return flatten(walk, call, inputs)
    if channels.axis != len(before) - 1 or before[-1] != after[-1]:
        return walk.refuse(layer, inputs, f"`{layer.name}` reshapes the channel axis")
    walk.carry(layer, channels)
    return Channels(len(after) - 1, channels.segments)


def permute(walk: Walk, call: Call, inputs: Inputs) -> Channels | None:
    """Moves the channels to another axis."""
    channels, layer = inputs[0], call.operation
    if channels is None:
        return None
    walk.carry(layer, channels)
    return Channels(1 + tuple(layer.dims).index(channels.axis), channels.segments)


def join(walk: Walk, call: Call, inputs: Inputs) -> Channels | None:
    """Addition and its kin: channel i of one input meets channel i of the other."""
    layer, name = call.operation, call.operation.name
    ranks = {len(tensor.shape) for tensor in call.inputs}
    if len(ranks) > 1 or any(is_fixed_array(argument) for argument in call.arguments):
        return walk.refuse(layer, inputs, f"`{name}` joins them with an array of fixed shape")
    tied = walk.tie(inputs, f"`{name}` joins them with channels that can't grow alike")
    walk.carry(layer, tied)
    return tied


def concatenate(walk: Walk, call: Call, inputs: Inputs) -> Channels | None:
    """Lays the channels side by side."""
    known = [channels for channels in inputs if channels is not None]
    if not known:
        return None
    layer = call.operation
    axis = argument_axis(layer, _rank(call))
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


def is_fixed_array(value: Any) -> bool:
    """Tells whether a value is a constant with more than one entry."""
    if isinstance(value, (list, tuple)):
        return len(value) > 1
    symbolic = isinstance(value, keras.KerasTensor)
    return not symbolic and math.prod(getattr(value, "shape", ())) > 1


def _rank(call: Call) -> int:
    return len(call.outputs[0].shape)
