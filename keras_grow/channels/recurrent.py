"""What recurrent layers and wrappers do to channels: what the layers within them do.

A unit of a cell is a channel. Its gates lie side by side in the kernels, and the recurrent kernel
sums over the same units that it makes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import keras

from keras_grow.channels.flow import Inputs, format_axis
from keras_grow.channels.walk import Channels, Walk
from keras_grow.core.keras_private import Call, count_states, inner_calls, states_passed


def cell(walk: Walk, call: Call, inputs: Inputs) -> Channels | None:
    """Puts out its units, which are also its states: those that come in are the same channels."""
    layer, rank = call.operation, len(call.outputs[0].shape)
    width = layer.filters if hasattr(layer, "filters") else layer.units
    outputs = walk.produce(layer, width, format_axis(layer, rank))
    if len(inputs) == 1:
        return outputs
    return walk.tie([outputs, *inputs[1:]], f"`{call.name}` starts from states of fixed width")


def stacked(walk: Walk, call: Call, inputs: Inputs) -> list[Channels | None]:
    """Calls one cell after the other. Puts out what the last does, then the states of each."""
    channels, states, all_states = inputs[0], inputs[1:], []
    for each in inner_calls(call):
        count = count_states(each.operation)
        own, states = states[:count], states[count:]
        (channels,) = walk.visit(walk, each, [channels, *own])
        walk.carry(call.operation, channels)
        all_states += [channels] * count
    return [channels, *all_states]


def recurrent(walk: Walk, call: Call, inputs: Inputs) -> list[Channels | None] | None:
    """Calls its cell at each step: puts out its last output or all of them, and its states."""
    layer = call.operation
    if layer.stateful:
        walk.reasons[call.name] = f"`{call.name}` keeps its states between batches"
        return walk.freeze(inputs, walk.reasons[call.name])
    step = _within_step(walk, call, inputs[0])
    known = {id(t): each for t, each in zip(call.inputs, inputs, strict=True)}
    (inner,) = inner_calls(call)
    states = [known[id(tensor)] for tensor in states_passed(call)]
    found = walk.visit(walk, inner, [step, *states])
    # A cell of which nothing more is known has states like its output.
    outputs, of_states = found[0], found[1:] or found * count_states(layer.cell)
    for channels in (outputs, *of_states):
        walk.carry(layer, channels)
    if layer.return_sequences:
        outputs = _at_each_step(outputs)
    return [outputs, *(of_states if layer.return_state else ())]


def bidirectional(walk: Walk, call: Call, inputs: Inputs) -> list[Channels | None]:
    """Calls two layers. Keras takes both for equally wide: unit i of one is tied to that of other.

    Side by side ("concat") each unit lies twice along the channel axis.
    """
    layer = call.operation
    known = {id(t): each for t, each in zip(call.inputs, inputs, strict=True)}
    forward, backward = (
        walk.visit(walk, each, [known[id(tensor)] for tensor in each.inputs])
        for each in inner_calls(call)
    )
    reason = f"`{call.name}` joins its directions"
    tied = [walk.tie(list(pair), reason) for pair in zip(forward, backward, strict=True)]
    outputs, states = tied[0], tied[1:]
    walk.carry(layer, outputs)
    if layer.merge_mode is None:
        return [outputs, outputs, *states, *states]
    last = len(call.outputs[0].shape) - 1
    if outputs is not None and layer.merge_mode == "concat":
        if outputs.axis != last:
            walk.freeze([outputs], f"{reason} along another axis")
            outputs = None
        else:
            outputs = Channels(outputs.axis, outputs.segments * 2)
    return [outputs, *states, *states]


def distributed(walk: Walk, call: Call, inputs: Inputs) -> list[Channels | None]:
    """Calls a layer at each step."""
    step = _within_step(walk, call, inputs[0])
    (inner,) = inner_calls(call)
    found = walk.visit(walk, inner, [step])
    for channels in found:
        walk.carry(call.operation, channels)
    return [_at_each_step(channels) for channels in found]


def _within_step(walk: Walk, call: Call, channels: Channels | None) -> Channels | None:
    """Returns channels of a sequence as they lie in one step of it."""
    if channels is None:
        return None
    if channels.axis == 1:
        reason = f"`{call.name}` takes them for the steps of a sequence"
        return walk.refuse(call.operation, [channels], reason)
    return replace(channels, axis=channels.axis - 1)


def _at_each_step(channels: Channels | None) -> Channels | None:
    return channels and replace(channels, axis=channels.axis + 1)


def forget_bias(bias_initializer: Any) -> Any:
    """Returns what draws the bias of a cell whose second gate forgets less at first."""

    def draw(shape: tuple, dtype: Any = None) -> Any:
        units = shape[-1] // 4
        own = [bias_initializer((n * units,), dtype=dtype) for n in (1, 2)]
        return keras.ops.concatenate([own[0], keras.ops.ones((units,), dtype), own[1]])

    return draw
