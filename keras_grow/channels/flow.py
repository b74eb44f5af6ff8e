"""What layers do to the channels that come in: one small function per kind of layer.

Each takes a walk, a call and the channels of its inputs, and returns those of its outputs. Whatever
it doesn't understand freezes the groups that it touches, with a reason to read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import keras

from keras_grow.channels.joins import Inputs, spans, spelled_out
from keras_grow.channels.walk import Channels, Walk, attribute_at
from keras_grow.core.keras_private import Call, inner_calls


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
    return walk.produce(layer, layer.filters, format_axis(layer, _rank(call)))


def convolve_groups(walk: Walk, call: Call, inputs: Inputs) -> Channels | None:
    """A grouped convolution: whole groups grow, of what comes in and of what goes out.

    So the number of groups grows, each as wide as before. A depthwise convolution that is written
    as a grouped one is the case of groups of one channel.
    """
    layer, groups = call.operation, _in_groups(walk, call, inputs)
    if inputs[0] is None:
        walk.reasons[walk.name_of(layer)] = (
            f"what comes into the groups of `{layer.name}` can't grow"
        )
    return groups and _several(groups, layer.filters // layer.groups)


def _in_groups(walk: Walk, call: Call, inputs: Inputs) -> Channels | None:
    """Makes whole groups grow together, and returns the groups as channels."""
    channels, layer = inputs[0], call.operation
    if channels is None:
        return None
    groups = walk.in_blocks(channels, channels.width // layer.groups)
    if groups is None:
        reason = f"`{layer.name}` takes them in groups that are no whole channels of theirs"
        return walk.refuse(layer, inputs, reason)
    walk.carry(layer, groups)
    walk.sizes.append((layer, "groups", None, groups))
    return groups


def depthwise(walk: Walk, call: Call, inputs: Inputs) -> Channels | None:
    """A depthwise convolution: `depth_multiplier` channels out for each one in."""
    channels = carry(walk, call, inputs)
    return channels and _several(channels, call.operation.depth_multiplier)


def separable(walk: Walk, call: Call, inputs: Inputs) -> Channels:
    """A depthwise convolution, and one of single positions that sums over what it puts out."""
    layer = call.operation
    between = inputs[0] and _several(inputs[0], layer.depth_multiplier)
    outputs = convolve(walk, call, inputs)
    # The depthwise kernel of a channel that is zero at first is zero, too.
    between = between and replace(between, flat=True)
    axes = [(-2, between, "input", 0.0), (-1, outputs, "output", 0.0)]
    walk.add_variable(layer, "pointwise_kernel", axes, True)
    return outputs


def einsum_dense(walk: Walk, call: Call, inputs: Inputs) -> Channels | None:
    """EinsumDense: channels that come in are summed over, or go through, along one axis.

    New channels lie along the last axis that the equation brings in, unless those that come in go
    on: channels grow along one axis of a tensor.
    """
    channels, layer = inputs[0], call.operation
    terms, output = layer.equation.replace(" ", "").split("->")
    before, kernel = terms.split(",")
    labels_in = spelled_out(before, len(call.inputs[0].shape))
    labels_out = spelled_out(output, _rank(call))
    label = None if channels is None else labels_in[channels.axis]
    if label is not None and label not in (*kernel, *labels_out):
        reason = f"`{layer.name}` sums over them, and nothing weighs them there"
        return walk.refuse(layer, inputs, reason)
    new = [each for each in labels_out if each not in labels_in]
    axes = []
    if label in labels_out:
        made, role = label, "through"
        outputs = Channels(labels_out.index(label), channels.segments)
        walk.carry(layer, outputs)
        if label in (*kernel,):
            walk.unsettle([outputs], f"`{layer.name}` weighs each of them")
    else:
        made, role, outputs = new[-1] if new else None, "output", None
        axes = [(kernel.find(label) - len(kernel), channels, "input", 0.0)] if label else []
        if new:
            axis = labels_out.index(made)
            outputs = walk.produce(layer, call.outputs[0].shape[axis], axis)
    if made is not None and made in (*kernel,):
        axes.append((kernel.find(made) - len(kernel), outputs, role, 0.0))
    walk.add_variable(layer, "kernel", axes, True)
    if label in labels_out and layer.bias_axes and label not in (*layer.bias_axes,):
        walk.unsettle([outputs], f"`{layer.name}` adds the same to all of them")
    if made is not None and made in (*(layer.bias_axes or ""),):
        axis = labels_out.index(made) - _rank(call)
        walk.add_variable(layer, "bias", [(axis, outputs, "output", 0.0)])
    _note_einsum_size(walk, layer, output.replace("...", ""), made, outputs)
    return outputs


def _note_einsum_size(
    walk: Walk, layer: Any, output: str, label: Any, outputs: Channels | None
) -> None:
    """Notes where a width is written in the shape that an EinsumDense was given."""
    if label is not None and label in (*output,):
        index = output.index(label) - len(output)
        if layer.partial_output_shape[index] is not None:
            walk.sizes.append((layer, "partial_output_shape", index, outputs))


def embed(walk: Walk, call: Call, inputs: Inputs) -> Channels | None:
    """Embedding: a vector for each number that comes in."""
    layer = call.operation
    walk.refuse(layer, inputs, f"`{layer.name}` takes them for numbers of rows")
    return walk.produce(layer, layer.output_dim, last_axis(layer, _rank(call)))


def unembed(walk: Walk, call: Call, inputs: Inputs) -> None:
    """ReversibleEmbedding, in reverse: channels are multiplied with what the layer puts out.

    With a matrix of its own for that it is a Dense. With one for both, a copied channel would count
    twice, with nothing to weigh it; what a normalisation makes of a silent one counts nothing.
    """
    layer, channels = call.operation, inputs[0]
    rank = len(call.inputs[0].shape)
    own = [
        Channels(rank + axis, along.segments)
        for holder, name, axes, _ in walk.variables
        if holder is layer and name == "embeddings"
        for axis, along, *_ in axes
        if along is not None
    ]
    tied = layer.tie_weights
    if tied and channels is not None and not channels.normalised:
        reason = f"`{layer.name}` also multiplies them with its embeddings"
        walk.freeze([channels, *own], reason)
    weighed = channels and Channels(channels.axis, channels.segments)
    walk.tie([weighed, *own], f"`{layer.name}` multiplies its embeddings with others")


def normalise_groups(walk: Walk, call: Call, inputs: Inputs) -> Channels | None:
    """GroupNormalization: whole groups grow, each with statistics of its own."""
    return _in_groups(walk, call, inputs) and walk.resolved(inputs[0])


def spectral(walk: Walk, call: Call, inputs: Inputs) -> Channels | None:
    """SpectralNormalization: as the layer within, with a vector of what that one puts out."""
    layer = call.operation
    (inner,) = inner_calls(call)
    (outputs,) = walk.visit(walk, inner, inputs)
    walk.carry(layer, outputs)
    kernels = [
        axes for each, name, axes, _ in walk.variables if (each, name) == (layer.layer, "kernel")
    ]
    made = [
        channels
        for axes in kernels
        for axis, channels, role, *_ in axes
        if (axis, role) == (-1, "output")
    ]
    if outputs is None or not any(made):
        reason = f"`{layer.name}` normalises a kernel whose last axis isn't theirs"
        return walk.refuse(layer, [*inputs, outputs], reason)
    walk.add_variable(layer, "vector_u", [(-1, outputs, "output", 0.0)])
    for index, channels in ((-1, outputs), (-2, inputs[0])):
        if channels is not None:
            walk.sizes.append((layer, "kernel_shape", index, channels))
    return outputs


def carry(walk: Walk, call: Call, inputs: Inputs) -> Channels | None:
    """Does the same to every channel, whatever their number."""
    if len(inputs) > 1:
        return unknown(walk, call, inputs)
    walk.carry(call.operation, inputs[0])
    return inputs[0]


def drop(walk: Walk, call: Call, inputs: Inputs) -> Channels | None:
    """Dropout: the number of channels may be written in its noise shape."""
    channels, layer = inputs[0], call.operation
    shape = getattr(layer, "noise_shape", None)  # a layer of one's own that is like it has none
    if channels and shape:
        index = channels.axis - _rank(call)
        noise = shape[index] if len(shape) >= -index else None
        if noise == channels.width == 1:
            reason = f"the `noise_shape` of `{layer.name}` may mean one channel, or all of them"
            walk.freeze(inputs, reason)
    return carry(walk, call, inputs)


def rescale(walk: Walk, call: Call, inputs: Inputs) -> Channels | None:
    """Rescaling: by one number, or by an array of fixed shape."""
    layer = call.operation
    channels = inputs[0]
    if channels and any(
        spans(value, channels.axis - _rank(call)) for value in (layer.scale, layer.offset)
    ):
        return walk.refuse(layer, inputs, f"`{layer.name}` holds a number for each of them")
    return carry(walk, call, inputs)


def standardise(walk: Walk, call: Call, inputs: Inputs) -> Channels | None:
    """Normalization: by statistics of fixed shape, of each channel or of all of them."""
    channels, layer = inputs[0], call.operation
    mean = getattr(layer, "mean", None)
    if channels and (mean is None or spans(mean, channels.axis - _rank(call))):
        return walk.refuse(layer, inputs, f"`{layer.name}` holds fixed statistics of each of them")
    return carry(walk, call, inputs)


def slope(walk: Walk, call: Call, inputs: Inputs) -> Channels | None:
    """PReLU: a slope per channel, or one for all where the channel axis is shared."""
    channels, layer = inputs[0], call.operation
    if channels and channels.axis in (layer.shared_axes or ()) and channels.width == 1:
        return walk.refuse(layer, inputs, f"`{layer.name}` shares its slope between them")
    return carry(walk, call, inputs)


def pool_globally(walk: Walk, call: Call, inputs: Inputs) -> Channels | None:
    """Leaves nothing but the channels."""
    channels = carry(walk, call, inputs)
    if channels is None or call.operation.keepdims:
        return channels
    return Channels(1, channels.segments)


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


def _several(channels: Channels, times: int) -> Channels:
    """Returns channels of which each has so many times as many positions in a row."""
    segments = (s._replace(repeat=s.repeat * times) for s in channels.segments)
    return Channels(channels.axis, tuple(segments))


def _rank(call: Call) -> int:
    return len(call.outputs[0].shape)
