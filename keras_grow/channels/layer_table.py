"""The table of layers: one row per layer type holds all that the package knows of it.

Everything else reads it: the walk that finds channel groups, the conversion to growable layers
and back, the count of floating-point operations, and splitting, which looks for activations. What
has no row freezes the channel groups that it touches, with a reason to read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import keras
from keras import layers as kl

from keras_grow import layers as growable
from keras_grow.channels import attention, flow, joins, moves, products, recurrent, streams
from keras_grow.channels.operations import OPERATIONS
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


@dataclass(frozen=True)
class Axes:
    """Which axis of a variable carries which channels of its layer.

    Attributes:
        output: Axis of the channels that the layer puts out.
        input: Axis of the channels that the layer takes in, and sums over.
        own: Axis of the channels that the layer puts out, where it sums over them too: the units
            that a recurrent layer reads from the step before.
        through: Axis of the channels that the layer takes in and treats one by one.
        made: Axis of the channels that the layer puts out, where it makes each of some that it
            takes in, and of no others.
        fresh: Value that stands for "no effect" in a fresh channel.
        blocks: How many times the channels that the layer puts out lie side by side along their
            axis, as those of the gates of a recurrent layer do.
        kernel: Whether inputs are multiplied with it: each channel that it puts out has its weights
            there, which are compared with those of the others.
    """

    output: int | None = None
    input: int | None = None
    own: int | None = None
    through: int | None = None
    made: int | None = None
    fresh: float = 0.0
    blocks: int = 1
    kernel: bool = False


@dataclass(frozen=True)
class Row:
    """What is known of a layer type.

    Attributes:
        flow: Maps the channels that come in to those that go out: of all outputs, or a list with
            those of each.
        axis: Which axis of its input the layer takes its channels from, given the layer and the
            rank; `None` where the axis is all one to it.
        variables: Name of each variable that channels run through (or its path of attributes:
            "cell.kernel") -> its axes.
        size: The attribute that holds how many channels the layer puts out, as a number or as an
            entry of a shape.
        multiply_adds: How many multiply-adds a call takes per example, given the layer and the
            numbers of elements that go in and come out; `None` for a layer without matrices.
        grouped: The row of the layer where its `groups` are several.
        reverse: The row of a call with `reverse=True`, which is that of another layer.
        between_inputs: The same beside them, given the layer and the shapes of what was passed, by
            name: of what is multiplied with each other.
        twin: The layer's growable kind.
        acts_as: What the layer is to a neuron: "linear" (it makes the neuron), "activation" (it
            acts on each channel alone), "normalisation" or "idle" (it changes nothing when the
            network isn't trained).
        linear: Whether the mean over the channels that it puts out is what it makes of that of
            those (or of the weights) that they come from, its activation left out.
    """

    flow: Callable[[Walk, Call, flow.Inputs], Channels | list[Channels | None] | None]
    axis: Callable[[Any, int], int] | None = None
    variables: Mapping[str, Axes] = field(default_factory=dict)
    size: str | None = None
    multiply_adds: Callable[[Any, int, int], int] | None = None
    grouped: Row | None = None
    reverse: Row | None = None
    between_inputs: Callable[[Any, Mapping[str, tuple]], int] | None = None
    twin: type | None = None
    acts_as: Literal["linear", "activation", "normalisation", "idle"] | None = None
    linear: bool = False


_DENSE = Row(
    flow.dense,
    axis=flow.last_axis,
    variables={"kernel": Axes(input=-2, output=-1, kernel=True), "bias": Axes(output=-1)},
    size="units",
    multiply_adds=products.dense,
    acts_as="linear",
    linear=True,
)
_GROUPED_CONVOLUTION = Row(
    flow.convolve_groups,
    axis=flow.format_axis,
    variables={"kernel": Axes(made=-1, kernel=True), "bias": Axes(output=-1)},
    size="filters",
    multiply_adds=products.convolution,
)
_CONVOLUTION = Row(
    flow.convolve,
    axis=flow.format_axis,
    variables={"kernel": Axes(input=-2, output=-1, kernel=True), "bias": Axes(output=-1)},
    size="filters",
    multiply_adds=products.convolution,
    grouped=_GROUPED_CONVOLUTION,
    acts_as="linear",
    linear=True,
)
_TRANSPOSED_CONVOLUTION = Row(
    flow.convolve,
    axis=flow.format_axis,
    variables={"kernel": Axes(input=-1, output=-2, kernel=True), "bias": Axes(output=-1)},
    size="filters",
    multiply_adds=products.transposed_convolution,
    linear=True,
)
_DEPTHWISE_CONVOLUTION = Row(
    flow.depthwise,
    axis=flow.format_axis,
    variables={"kernel": Axes(through=-2, kernel=True), "bias": Axes(output=-1)},
    multiply_adds=products.depthwise_convolution,
)
_SEPARABLE_CONVOLUTION = Row(
    flow.separable,
    axis=flow.format_axis,
    variables={"depthwise_kernel": Axes(through=-2, kernel=True), "bias": Axes(output=-1)},
    size="filters",
    multiply_adds=products.separable_convolution,
)
_EMBEDDING = Row(
    flow.embed,
    variables={"embeddings": Axes(output=-1, kernel=True)},
    size="output_dim",
    multiply_adds=products.none,
    linear=True,
)
_BATCH_NORMALIZATION = Row(
    flow.carry,
    axis=flow.argument_axis,
    variables={
        "gamma": Axes(through=-1, fresh=1.0),
        "beta": Axes(through=-1),
        "moving_mean": Axes(through=-1),
        "moving_variance": Axes(through=-1, fresh=1.0),
        # With batch renormalisation:
        "moving_stddev": Axes(through=-1, fresh=1.0),
        "renorm_mean": Axes(through=-1),
        "renorm_stddev": Axes(through=-1, fresh=1.0),
    },
    acts_as="normalisation",
)


def _cell(gates: int, size: str = "units") -> Row:
    """Returns the row of a recurrent cell: its units make its gates, side by side, from its inputs
    and from themselves.
    """
    return Row(
        recurrent.cell,
        axis=flow.format_axis,
        variables={
            "kernel": Axes(input=-2, output=-1, blocks=gates, kernel=True),
            "recurrent_kernel": Axes(own=-2, output=-1, blocks=gates, kernel=True),
            "bias": Axes(output=-1, blocks=gates),
        },
        size=size,
        multiply_adds=products.recurrent,
    )


_ACTIVATION = Row(flow.carry, acts_as="activation")
_IDLE = Row(flow.carry, acts_as="idle", linear=True)
_DROPOUT = Row(flow.drop, size="noise_shape", acts_as="idle", linear=True)
_SPATIAL_DROPOUT = Row(flow.carry, axis=flow.format_axis, acts_as="idle", linear=True)
_POSITIONS = Row(flow.carry, axis=flow.format_axis, linear=True)
_MAX_POOLING = Row(flow.carry, axis=flow.format_axis)
_GLOBAL_POOLING = Row(flow.pool_globally, axis=flow.format_axis, linear=True)
_GLOBAL_MAX_POOLING = Row(flow.pool_globally, axis=flow.format_axis)
_RECURRENT = Row(recurrent.recurrent)
_ALONG_AN_AXIS = Row(joins.along_an_axis, multiply_adds=products.none)
_JOIN = Row(joins.join)
_SUM = Row(joins.join, linear=True)
_ATTENTION = Row(
    attention.attend, multiply_adds=products.none, between_inputs=attention.products, linear=True
)
# Of these there is one for each number of dimensions: `MaxPooling1D`, `2D`, `3D`. Some are not in
# every Keras 3.
_OF_EACH_RANK = {
    "SpatialDropout": _SPATIAL_DROPOUT,
    "MaxPooling": _MAX_POOLING,
    "AveragePooling": _POSITIONS,
    "AdaptiveMaxPooling": _MAX_POOLING,
    "AdaptiveAveragePooling": _POSITIONS,
    "ZeroPadding": _POSITIONS,
    "UpSampling": _POSITIONS,
    "Cropping": _POSITIONS,
    "GlobalAveragePooling": _GLOBAL_POOLING,
    "GlobalMaxPooling": _GLOBAL_MAX_POOLING,
}
# Preprocessing that does the same to each channel. Not in every Keras 3.
_PICTURES = (
    "CenterCrop RandomBrightness RandomContrast RandomCrop RandomElasticTransform RandomErasing "
    "RandomFlip RandomGaussianBlur RandomInvert RandomPerspective RandomPosterization "
    "RandomRotation RandomSharpness RandomShear RandomTranslation RandomZoom Resizing Solarization"
)

ROWS: dict[type, Row] = {
    kl.Dense: replace(_DENSE, twin=growable.GrowableDense),
    kl.Conv1D: _CONVOLUTION,
    kl.Conv2D: replace(_CONVOLUTION, twin=growable.GrowableConv2D),
    kl.Conv3D: _CONVOLUTION,
    kl.Conv1DTranspose: _TRANSPOSED_CONVOLUTION,
    kl.Conv2DTranspose: _TRANSPOSED_CONVOLUTION,
    kl.Conv3DTranspose: _TRANSPOSED_CONVOLUTION,
    kl.DepthwiseConv1D: _DEPTHWISE_CONVOLUTION,
    kl.DepthwiseConv2D: replace(_DEPTHWISE_CONVOLUTION, twin=growable.GrowableDepthwiseConv2D),
    kl.SeparableConv1D: _SEPARABLE_CONVOLUTION,
    kl.SeparableConv2D: _SEPARABLE_CONVOLUTION,
    kl.BatchNormalization: replace(_BATCH_NORMALIZATION, twin=growable.GrowableBatchNormalization),
    kl.Activation: _ACTIVATION,
    kl.ReLU: _ACTIVATION,
    kl.LeakyReLU: _ACTIVATION,
    kl.ELU: _ACTIVATION,
    kl.PReLU: Row(
        flow.slope,
        axis=flow.last_axis,
        variables={"alpha": Axes(through=-1)},
        multiply_adds=products.none,
        acts_as="activation",
    ),
    kl.Identity: _IDLE,
    kl.ActivityRegularization: _IDLE,
    kl.GaussianDropout: _IDLE,
    kl.GaussianNoise: _IDLE,
    kl.Dropout: _DROPOUT,
    kl.AlphaDropout: _DROPOUT,
    kl.Rescaling: Row(flow.rescale),
    kl.Flatten: Row(moves.flatten, linear=True),
    kl.Reshape: Row(moves.reshape, size="target_shape", linear=True),
    kl.Permute: Row(moves.move, linear=True),
    kl.RepeatVector: Row(moves.repeat_vector, linear=True),
    kl.Add: _SUM,
    kl.Subtract: _SUM,
    kl.Multiply: _JOIN,
    kl.Average: _SUM,
    kl.Maximum: _JOIN,
    kl.Minimum: _JOIN,
    kl.Concatenate: Row(moves.concatenate, linear=True),
    kl.Dot: Row(joins.dot),
    kl.LayerNormalization: Row(streams.centred, multiply_adds=products.none, linear=True),
    kl.GroupNormalization: Row(
        flow.normalise_groups,
        axis=flow.argument_axis,
        variables={"gamma": Axes(through=-1, fresh=1.0), "beta": Axes(through=-1)},
        multiply_adds=products.none,
    ),
    kl.UnitNormalization: Row(streams.unit, multiply_adds=products.none, linear=True),
    kl.SpectralNormalization: Row(flow.spectral, linear=True),
    kl.Softmax: _ALONG_AN_AXIS,
    kl.Masking: Row(joins.mix),
    kl.Normalization: Row(flow.standardise, multiply_adds=products.none),
    kl.EinsumDense: Row(
        flow.einsum_dense,
        multiply_adds=products.einsum_dense,
        acts_as="linear",
        linear=True,
    ),
    kl.Embedding: _EMBEDDING,
    kl.MultiHeadAttention: _ATTENTION,
    kl.GroupQueryAttention: _ATTENTION,
    kl.SimpleRNNCell: _cell(1),
    kl.GRUCell: _cell(3),
    kl.LSTMCell: _cell(4),
    keras_private.ConvLSTMCell: _cell(4, "filters"),
    kl.StackedRNNCells: Row(recurrent.stacked),
    kl.RNN: _RECURRENT,
    kl.SimpleRNN: _RECURRENT,
    kl.GRU: _RECURRENT,
    kl.LSTM: _RECURRENT,
    kl.ConvLSTM1D: _RECURRENT,
    kl.ConvLSTM2D: _RECURRENT,
    kl.ConvLSTM3D: _RECURRENT,
    kl.Bidirectional: Row(recurrent.bidirectional),
    kl.TimeDistributed: Row(recurrent.distributed, linear=True),
    keras_private.LayerScale: Row(
        flow.carry,
        axis=flow.last_axis,
        variables={"gamma": Axes(through=-1)},
        size="projection_dim",
        multiply_adds=products.none,
    ),
    keras_private.StochasticDepth: _IDLE,
    keras_private.CustomScaleLayer: _JOIN,
}
ROWS |= {
    getattr(kl, f"{name}{n}D"): row
    for name, row in _OF_EACH_RANK.items()
    for n in (1, 2, 3)
    if hasattr(kl, f"{name}{n}D")
}
ROWS |= {getattr(kl, name): _POSITIONS for name in _PICTURES.split() if hasattr(kl, name)}
for _name, _row in {  # not in every Keras 3
    # Its cost depends on how it is called.
    "ReversibleEmbedding": replace(
        _EMBEDDING,
        multiply_adds=None,
        reverse=Row(
            flow.unembed,
            axis=flow.last_axis,
            variables={"reverse_embeddings": Axes(input=-2, kernel=True)},
        ),
    ),
    "RMSNormalization": Row(streams.uncentred, multiply_adds=products.none, linear=True),
}.items():
    if hasattr(kl, _name):
        ROWS[getattr(kl, _name)] = _row
ROWS |= {row.twin: row for row in ROWS.values() if row.twin}
_OPERATION_ROWS = {name: Row(**fields) for name, fields in OPERATIONS.items()}


def row_of(operation: Any) -> Row | None:
    """Returns the row of an operation's type, or `None` where the table has none."""
    if not isinstance(operation, kl.Layer):
        return _OPERATION_ROWS.get(type(operation).__name__)
    row = ROWS.get(type(operation))
    several = row is not None and row.grouped and getattr(operation, "groups", 1) > 1
    return row.grouped if several else row


def acts_as(operation: Any) -> str | None:
    """Returns what an operation is to a neuron: see `Row.acts_as`."""
    row = row_of(operation)
    return None if row is None else row.acts_as


def twins() -> dict[type, type]:
    """Returns plain layer type -> growable layer type."""
    return {kind: row.twin for kind, row in ROWS.items() if row.twin not in (None, kind)}


def visit(walk: Walk, call: Call, inputs: flow.Inputs) -> list[Channels | None]:
    """Takes one call into a walk, and returns the channels of each of its outputs."""
    walk.names.setdefault(id(call.operation), call.name)
    walk.operations.setdefault(call.name, call.operation)
    found = _visit(walk, call, inputs)
    return found if isinstance(found, list) else [found] * len(call.outputs)


def _visit(walk: Walk, call: Call, inputs: flow.Inputs) -> Channels | list | None:
    layer, row = call.operation, row_of(call.operation)
    if row is not None and row.reverse and call.named.get("reverse"):
        row = row.reverse
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
        return [_kept_normalised(walk, row, layer, inputs, each) for each in outputs]
    for argument in ("activation", "recurrent_activation"):
        reason = _activation_reason(layer, argument)
        if reason:
            walk.freeze([outputs], reason)
    outputs = _kept_normalised(walk, row, layer, inputs, outputs)
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


def _kept_normalised(
    walk: Walk, row: Row, layer: Any, inputs: flow.Inputs, outputs: Channels | None
) -> Channels | None:
    """Returns what goes out, with whether it is still normalised or still has the mean it had."""
    keeps_mean = row.linear and _is_linear(getattr(layer, "activation", None))
    stays = outputs is not None and _stays_normalised(walk, inputs, outputs)
    if stays and (keeps_mean or _is_zero_at_zero(layer)):
        return replace(outputs, normalised=True)
    if not keeps_mean:
        walk.unsettle([outputs], f"`{layer.name}` does not keep their mean")
    return outputs


def _is_linear(activation: Any) -> bool:
    return activation is None or activation is keras.activations.linear


def _is_zero_at_zero(layer: Any) -> bool:
    """Tells whether a layer is known to be an activation that is zero at zero."""
    if isinstance(layer, kl.ReLU):
        return layer.threshold == 0
    if type(layer) is kl.Activation:
        return getattr(layer.activation, "__name__", None) in _ZERO_AT_ZERO
    return isinstance(layer, (kl.LeakyReLU, kl.ELU, kl.PReLU))


def _stays_normalised(walk: Walk, inputs: flow.Inputs, outputs: Channels) -> bool:
    """Tells whether the channels that go out are those that came in, normalised all of them."""
    known = [channels for channels in inputs if channels is not None and channels.normalised]
    spaces = {id(space) for channels in known for space in walk.spaces_of(channels)}
    return len(known) == len(inputs) and {id(s) for s in walk.spaces_of(outputs)} <= spaces


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
