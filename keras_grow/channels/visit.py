"""One step of the walk: takes a call into it, by what the table of layers says of the layer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import keras
from keras import layers as kl

from keras_grow.channels import flow
from keras_grow.channels.layer_table import Axes, Row, as_called, row_of
from keras_grow.channels.walk import Channels, Walk
from keras_grow.core import keras_private
from keras_grow.core.keras_private import Call, layers_within

# Activations that act on each channel alone; softmax and its kin mix them.
ELEMENTWISE = frozenset(
    "celu elu exponential gelu hard_shrink hard_sigmoid hard_silu hard_swish hard_tanh leaky_relu "
    "linear log_sigmoid mish relu relu6 selu sigmoid silu soft_shrink softplus softsign "
    "sparse_plus sparse_sigmoid squareplus swish tanh tanh_shrink threshold".split()
)
# Those that are zero at zero: what is silent stays so.
_ZERO_AT_ZERO = frozenset(
    "celu elu gelu hard_shrink hard_silu hard_swish hard_tanh leaky_relu linear mish relu relu6 "
    "selu silu soft_shrink softsign swish tanh tanh_shrink".split()
)
# Normalisations that divide only.
_DIVIDED = tuple(
    getattr(kl, name) for name in ("RMSNormalization", "UnitNormalization") if hasattr(kl, name)
)
# Functions, layers and operations, in lower case.
_FLAT_AT_ZERO = frozenset("hardshrink leakyrelu prelu relu relu6 softshrink tanhshrink".split())


def visit(walk: Walk, call: Call, inputs: flow.Inputs) -> list[Channels | None]:
    """Takes one call into a walk, and returns the channels of each of its outputs."""
    walk.names.setdefault(id(call.operation), call.name)
    walk.operations.setdefault(call.name, call.operation)
    found = _visit(walk, call, inputs)
    return found if isinstance(found, list) else [found] * len(call.outputs)


def _visit(walk: Walk, call: Call, inputs: flow.Inputs) -> Channels | list | None:
    layer, row = call.operation, row_of(call.operation)
    row = row and as_called(row, call)
    graph = keras_private.graph_called(layer, call.inputs)
    if graph is not None:  # within a wrapper, say: elsewhere only its calls are seen
        walk.maps.update(zip(map(id, graph.inputs), inputs, strict=True))
        walk.calls(keras_private.calls_of(graph, call.name))
        return [walk.maps.get(id(tensor)) for tensor in graph.outputs]
    if row is None:
        if getattr(layer, "trainable_weights", ()):  # nothing in it grows, whatever comes in
            walk.reasons[call.name] = flow.reason_unknown(layer)
        return flow.unknown(walk, call, inputs)
    inputs = [channels and walk.resolved(channels) for channels in inputs]
    call, inputs = _without_mask(walk, call, inputs)
    inputs = _entering(walk, row, call, inputs)
    if (id(layer), id(row)) in walk.seen:
        return _visit_again(walk, call, inputs, row)
    spaces = len(walk.spaces)
    outputs = row.flow(walk, call, inputs)
    if isinstance(outputs, list):  # what it holds are layers, which have rows of their own
        return [_settled(walk, row, layer, inputs, each, spaces) for each in outputs]
    for argument in ("activation", "recurrent_activation"):
        reason = _activation_reason(layer, argument)
        if reason:
            walk.freeze([outputs], reason)
    outputs = _settled(walk, row, layer, inputs, outputs, spaces)
    holds = row.variables or id(layer) in walk.holders
    if holds or getattr(layer, row.size or "", None) is not None:
        walk.seen[id(layer), id(row)] = (inputs, outputs, _rank(call))
    _note_size(walk, layer, row, outputs, _rank(call))
    for name, axes in row.variables.items():
        walk.add_variable(layer, name, _along(axes, inputs[0], outputs), axes.kernel)
    if holds or len(walk.spaces) > spaces:
        _freeze_untouchable(walk, layer, [*inputs, outputs, *walk.opened_since(spaces)])
    return outputs


def _without_mask(walk: Walk, call: Call, inputs: flow.Inputs) -> tuple[Call, flow.Inputs]:
    """Returns a call without the mask that Keras passes on to it, and the channels without its."""
    mask = call.named.get("mask")
    if mask is None:
        return call, inputs
    pairs = list(zip(call.inputs, inputs, strict=True))
    reason = f"`{call.operation.name}` takes them for a mask"
    walk.freeze([channels for tensor, channels in pairs if tensor is mask], reason)
    kept = [pair for pair in pairs if pair[0] is not mask]
    return replace(call, inputs=[t for t, _ in kept]), [channels for _, channels in kept]


def _entering(walk: Walk, row: Row, call: Call, inputs: flow.Inputs) -> flow.Inputs:
    """Returns the channels that come in along the axis that a layer takes its channels from."""
    layer, channels = call.operation, inputs[0]
    if row.axis is None or channels is None:
        return inputs
    if channels.axis == row.axis(layer, len(call.inputs[0].shape)):
        return inputs
    walk.refuse(layer, inputs, f"`{layer.name}` takes its channels from another axis than theirs")
    return [None] * len(inputs)


def _visit_again(walk: Walk, call: Call, inputs: flow.Inputs, row: Row) -> Channels | None:
    """A shared layer: the same channels come in each time."""
    layer = call.operation
    before, outputs, rank = walk.seen[id(layer), id(row)]
    reason = f"`{layer.name}` is shared by inputs that differ"
    if len(before) != len(inputs):
        walk.freeze([*before, *inputs, outputs], reason)
        return None
    for first, again in zip(before, inputs, strict=True):
        walk.tie([first, again], reason)
    if _rank(call) == rank:
        return outputs
    walk.freeze([*inputs, outputs], reason)
    return None


def _note_size(walk: Walk, layer: Any, row: Row, outputs: Channels | None, rank: int) -> None:
    """Notes the attribute that holds the width; what is -1 or None follows by itself."""
    size = getattr(layer, row.size, None) if row.size else None
    if outputs is None or size is None:
        return
    if not isinstance(size, (tuple, list)):
        walk.sizes.append((layer, row.size, None, outputs))
        return
    index = outputs.axis - rank
    if len(size) >= -index and size[index] == outputs.width:
        walk.sizes.append((layer, row.size, index, outputs))


def _along(axes: Axes, inputs: Channels | None, outputs: Channels | None) -> list[tuple]:
    """Lists (axis, channels, role, fresh value) of one variable."""
    side_by_side = outputs and Channels(outputs.axis, outputs.segments * axes.blocks)
    return [
        (axis, channels, role, axes.fresh)
        for axis, channels, role in (
            (axes.output, side_by_side, "output"),
            (axes.own, outputs, "input"),
            (axes.input, inputs, "input"),
            (axes.through, inputs, "through"),
            (axes.made, outputs, "through"),
        )
        if axis is not None
    ]


def _freeze_untouchable(walk: Walk, layer: kl.Layer, maps: list) -> None:
    """Freezes the groups around a layer whose variables must not be resized."""
    parts = layers_within(layer) if isinstance(layer, kl.Layer) else []
    if not all(part.trainable for part in parts):
        walk.freeze(maps, f"`{layer.name}` is not trainable")
    if any(getattr(part, "quantization_mode", None) for part in parts):
        walk.freeze(maps, f"`{layer.name}` is quantized")
    if any(getattr(part, "lora_enabled", False) for part in parts):
        walk.freeze(maps, f"`{layer.name}` has LoRA weights")


def _settled(
    walk: Walk,
    row: Row,
    layer: Any,
    inputs: flow.Inputs,
    outputs: Channels | None,
    opened: int,
) -> Channels | None:
    """Returns what goes out, with whether fresh channels are zero there.

    Notes where they are neither zero, as out of a normalisation, nor the mean of the others, as in
    the stream before it.

    Args:
        walk: The walk.
        row: The row of the layer.
        layer: The layer.
        inputs: What came in.
        outputs: What goes out.
        opened: The number of the first space that the layer has opened: what it makes itself isn't
            what came in, also where it is tied to that.
    """
    keeps_mean = row.linear and _is_linear(getattr(layer, "activation", None))
    if outputs is None:
        return None
    through = [m for m in inputs if _spaces(walk, [m]) & _spaces(walk, [outputs])]
    if _is_flat_at_zero(layer) or (through and all(m.flat for m in through)):
        outputs = replace(outputs, flat=True)
    passes = _spaces(walk, inputs, normalised=True) & _spaces(walk, [outputs])
    if passes and not _spaces(walk, walk.opened_since(opened)) & _spaces(walk, [outputs]):
        only_adds = keeps_mean and not row.variables and id(layer) not in walk.holders
        all_zero = all(channels is not None and channels.normalised for channels in inputs)
        if all_zero and (only_adds or _is_zero_at_zero(layer)):
            return replace(outputs, normalised=True)
        kinds = ["mean"] if only_adds else ["mean", "zero"]
        walk.unsettle([outputs], f"`{layer.name}` changes what is normalised", kinds)
    elif not keeps_mean:
        walk.unsettle([outputs], f"`{layer.name}` does not keep their mean")
    return outputs


def _is_linear(activation: Any) -> bool:
    return activation is None or activation is keras.activations.linear


def _is_zero_at_zero(layer: Any) -> bool:
    """Tells whether a layer is known to make zero of what is zero: an activation, or a norm."""
    if isinstance(layer, kl.ReLU):
        return layer.threshold == 0
    if type(layer) is kl.Activation:
        return getattr(layer.activation, "__name__", None) in _ZERO_AT_ZERO
    return isinstance(layer, (kl.LeakyReLU, kl.ELU, kl.PReLU, *_DIVIDED))


def _is_flat_at_zero(layer: Any) -> bool:
    """Tells whether an activation, or that of a layer, lets no gradient through to what is zero."""
    activation = getattr(layer, "activation", layer)
    if getattr(activation, "negative_slope", 0):
        return False
    name = getattr(activation, "__name__", type(activation).__name__)
    return name.lower().replace("_", "") in _FLAT_AT_ZERO


def _spaces(walk: Walk, maps: flow.Inputs, normalised: bool = False) -> set[int]:
    """Returns the `id` of each group along maps: along those that are normalised, if asked so."""
    known = [m for m in maps if m is not None and (m.normalised or not normalised)]
    return {id(space) for channels in known for space in walk.spaces_of(channels)}


def _activation_reason(layer: Any, argument: str = "activation") -> str | None:
    """Says why a layer's activation keeps its channels from growing, if it does."""
    activation = getattr(layer, argument, None)
    if activation is None or _acts_alone(activation):
        return None
    name, row = getattr(activation, "__name__", type(activation).__name__), row_of(activation)
    if getattr(activation, "weights", ()) or (row and row.variables):
        return (
            f"the activation '{name}' of `{layer.name}` has weights, which can't grow inside "
            "another layer: call it as a layer of its own"
        )
    return f"the activation '{name}' of `{layer.name}` isn't known to act on each channel alone"


def _acts_alone(activation: Any) -> bool:
    """Tells whether an activation is known to act on each channel alone, without weights."""
    if not isinstance(activation, kl.Layer):
        name = getattr(activation, "__name__", None)
        return name in ELEMENTWISE and activation is getattr(keras.activations, name, None)
    row = row_of(activation)
    return (
        row is not None
        and row.acts_as in ("activation", "idle")
        and not row.variables
        and not getattr(activation, row.size or "", None)
        and _activation_reason(activation) is None
    )


def _rank(call: Call) -> int:
    return len(call.outputs[0].shape)
