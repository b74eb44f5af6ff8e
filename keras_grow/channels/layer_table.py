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
from keras_grow.channels import attention, flow, products, streams
from keras_grow.channels.walk import Channels, Walk
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
# The same as symbolic operations (`keras.ops.relu(x)` in a Functional model).
_ELEMENTWISE_OPERATIONS = frozenset(
    "Celu Elu Gelu HardShrink HardSigmoid HardSilu HardTanh LeakyRelu LogSigmoid Mish Relu Relu6 "
    "Selu Sigmoid Silu SoftShrink Softplus Softsign Squareplus Tanh TanhShrink Threshold Abs "
    "Negative Square Exp Cast".split()
)
_JOINING_OPERATIONS = frozenset("Add Subtract Multiply Maximum Minimum".split())


@dataclass(frozen=True)
class Axes:
    """Which axis of a variable carries which channels of its layer.

    Attributes:
        output: Axis of the channels that the layer puts out.
        input: Axis of the channels that the layer takes in, and sums over.
        through: Axis of the channels that the layer takes in and treats one by one.
        fresh: Value that stands for "no effect" in a fresh channel.
        blocks: How many times the channels that the layer puts out lie side by side along their
            axis, as those of the gates of a recurrent layer do.
        kernel: Whether inputs are multiplied with it: each channel that it puts out has its weights
            there, which are compared with those of the others.
    """

    output: int | None = None
    input: int | None = None
    through: int | None = None
    fresh: float = 0.0
    blocks: int = 1
    kernel: bool = False


@dataclass(frozen=True)
class Row:
    """What is known of a layer type.

    Attributes:
        flow: Maps the channels that come in to those that go out.
        axis: Which axis of its input the layer takes its channels from, given the layer and the
            rank; `None` where the axis is all one to it.
        variables: Name of each variable that channels run through (or its path of attributes:
            "cell.kernel") -> its axes.
        size: The attribute that holds how many channels the layer puts out, as a number or as an
            entry of a shape.
        multiply_adds: How many multiply-adds a call takes per example, given the layer and the
            numbers of elements that go in and come out; `None` for a layer without matrices.
        between_inputs: The same beside them, given the layer and the shapes of what was passed, by
            name: of what is multiplied with each other.
        twin: The layer's growable kind.
        acts_as: What the layer is to a neuron: "linear" (it makes the neuron), "activation" (it
            acts on each channel alone), "normalisation" or "idle" (it changes nothing when the
            network isn't trained).
        linear: Whether the mean over the channels that it puts out is what it makes of that of
            those (or of the weights) that they come from, its activation left out.
    """

    flow: Callable[[Walk, Call, flow.Inputs], Channels | None]
    axis: Callable[[Any, int], int] | None = None
    variables: Mapping[str, Axes] = field(default_factory=dict)
    size: str | None = None
    multiply_adds: Callable[[Any, int, int], int] | None = None
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
_CONVOLUTION = Row(
    flow.convolve,
    axis=flow.format_axis,
    variables={"kernel": Axes(input=-2, output=-1, kernel=True), "bias": Axes(output=-1)},
    size="filters",
    multiply_adds=products.convolution,
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
_SEPARABLE_CONVOLUTION = Row(flow.unknown, multiply_adds=products.separable_convolution)
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
_ACTIVATION = Row(flow.carry, acts_as="activation")
_IDLE = Row(flow.carry, acts_as="idle", linear=True)
_DROPOUT = Row(flow.drop, size="noise_shape", acts_as="idle", linear=True)
_SPATIAL_DROPOUT = Row(flow.carry, axis=flow.format_axis, acts_as="idle", linear=True)
_POSITIONS = Row(flow.carry, axis=flow.format_axis, linear=True)
_MAX_POOLING = Row(flow.carry, axis=flow.format_axis)
_GLOBAL_POOLING = Row(flow.pool_globally, axis=flow.format_axis, linear=True)
_GLOBAL_MAX_POOLING = Row(flow.pool_globally, axis=flow.format_axis)
_MIXING = Row(flow.mix, multiply_adds=products.none)
_JOIN = Row(flow.join)
_SUM = Row(flow.join, linear=True)
_ATTENTION = Row(
    attention.attend, multiply_adds=products.none, between_inputs=attention.products, linear=True
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
    kl.SpatialDropout1D: _SPATIAL_DROPOUT,
    kl.SpatialDropout2D: _SPATIAL_DROPOUT,
    kl.SpatialDropout3D: _SPATIAL_DROPOUT,
    kl.Rescaling: Row(flow.rescale),
    kl.Resizing: _POSITIONS,
    kl.MaxPooling1D: _MAX_POOLING,
    kl.MaxPooling2D: _MAX_POOLING,
    kl.MaxPooling3D: _MAX_POOLING,
    kl.AveragePooling1D: _POSITIONS,
    kl.AveragePooling2D: _POSITIONS,
    kl.AveragePooling3D: _POSITIONS,
    kl.ZeroPadding1D: _POSITIONS,
    kl.ZeroPadding2D: _POSITIONS,
    kl.ZeroPadding3D: _POSITIONS,
    kl.UpSampling1D: _POSITIONS,
    kl.UpSampling2D: _POSITIONS,
    kl.UpSampling3D: _POSITIONS,
    kl.Cropping1D: _POSITIONS,
    kl.Cropping2D: _POSITIONS,
    kl.Cropping3D: _POSITIONS,
    kl.GlobalAveragePooling1D: _GLOBAL_POOLING,
    kl.GlobalAveragePooling2D: _GLOBAL_POOLING,
    kl.GlobalAveragePooling3D: _GLOBAL_POOLING,
    kl.GlobalMaxPooling1D: _GLOBAL_MAX_POOLING,
    kl.GlobalMaxPooling2D: _GLOBAL_MAX_POOLING,
    kl.GlobalMaxPooling3D: _GLOBAL_MAX_POOLING,
    kl.Flatten: Row(flow.flatten, linear=True),
    kl.Reshape: Row(flow.reshape, size="target_shape", linear=True),
    kl.Permute: Row(flow.permute, linear=True),
    kl.Add: _SUM,
    kl.Subtract: _SUM,
    kl.Multiply: _JOIN,
    kl.Average: _SUM,
    kl.Maximum: _JOIN,
    kl.Minimum: _JOIN,
    kl.Concatenate: Row(flow.concatenate, linear=True),
    kl.MultiHeadAttention: _ATTENTION,
    kl.GroupQueryAttention: _ATTENTION,
    kl.LayerNormalization: Row(streams.centred, multiply_adds=products.none, linear=True),
    kl.RMSNormalization: Row(streams.uncentred, multiply_adds=products.none, linear=True),
    kl.GroupNormalization: _MIXING,
    kl.UnitNormalization: Row(streams.unit, multiply_adds=products.none, linear=True),
    kl.Softmax: _MIXING,
    kl.Normalization: Row(flow.unknown, multiply_adds=products.none),
    kl.Embedding: Row(flow.unknown, multiply_adds=products.none),
}
ROWS |= {row.twin: row for row in ROWS.values() if row.twin}


def row_of(operation: Any) -> Row | None:
    """Returns the row of an operation's type, or `None` where the table has none."""
    if isinstance(operation, kl.Layer):
        return ROWS.get(type(operation))
    name = type(operation).__name__
    if name in _ELEMENTWISE_OPERATIONS:
        return _ACTIVATION
    if name in ("Add", "Subtract"):
        return _SUM
    return _JOIN if name in _JOINING_OPERATIONS else None


def acts_as(operation: Any) -> str | None:
    """Returns what an operation is to a neuron: see `Row.acts_as`."""
    row = row_of(operation)
    return None if row is None else row.acts_as


def twins() -> dict[type, type]:
    """Returns plain layer type -> growable layer type."""
    return {kind: row.twin for kind, row in ROWS.items() if row.twin not in (None, kind)}


def register_layer(kind: type, like: type) -> None:
    """Says that a layer type of one's own does to its channels what a known one does.

    What has the same name in both must mean the same: the variables that channels run through
    (`kernel`, `bias`, `gamma`), and the width (`units`, `filters`). A layer that acts on each
    channel alone, without weights, is like `keras.layers.ReLU`. A class that derives from
    `keras_grow.layers.Growable` and from `like` becomes its growable kind, for
    `GrowableModel.from_keras` and `to_keras` too, where it has none yet.

    Args:
        kind: The class of the layer.
        like: The class of a layer that the package knows.

    Raises:
        TypeError: if `kind` is no class of layers.
        ValueError: if `like` is not known.

    Example:

    >>> import keras, keras_grow
    >>> class Sine(keras.layers.Layer):
    ...     def call(self, inputs):
    ...         return keras.ops.sin(inputs)
    >>> keras_grow.register_layer(Sine, like=keras.layers.ReLU)
    >>> inputs = keras.Input((8,))
    >>> x = Sine()(keras_grow.layers.GrowableDense(4, name="hidden")(inputs))
    >>> keras_grow.GrowableModel(inputs, keras.layers.Dense(3)(x)).widths
    {'hidden': 4}
    """
    if not (isinstance(kind, type) and issubclass(kind, kl.Layer)):
        raise TypeError(f"`kind` must be a class of Keras layers. Received: kind={kind!r}")
    if like not in ROWS:
        raise ValueError(
            "`like` must be the class of a layer whose channels are understood: "
            f"{', '.join(known.__name__ for known in ROWS)}. Received: like={like!r}"
        )
    row = ROWS[like]
    grows = issubclass(kind, growable.Growable)
    if row.twin is None and grows and issubclass(kind, like):
        ROWS[like] = replace(row, twin=kind)
    # Another class than the twin of `like` has none, or is its own.
    ROWS[kind] = replace(row, twin=kind if grows else None)


def visit(walk: Walk, call: Call, inputs: flow.Inputs) -> Channels | None:
    """Takes one call into a walk, and returns the channels of its outputs."""
    layer, row = call.operation, row_of(call.operation)
    if row is None:
        if getattr(layer, "trainable_weights", ()):  # nothing in it grows, whatever comes in
            walk.reasons[layer.name] = flow.reason_unknown(layer)
        return flow.unknown(walk, call, inputs)
    inputs = _entering(walk, row, call, inputs)
    if id(layer) in walk.seen:
        return _visit_again(walk, call, inputs)
    spaces, variables = len(walk.spaces), len(walk.variables)
    outputs = row.flow(walk, call, inputs)
    reason = _activation_reason(layer)
    if reason:
        walk.freeze([outputs], reason)
    keeps_mean = row.linear and _is_linear(getattr(layer, "activation", None))
    stays = outputs is not None and _stays_normalised(walk, inputs, outputs)
    if stays and (keeps_mean or _is_zero_at_zero(layer)):
        outputs = replace(outputs, normalised=True)
    elif not keeps_mean:
        walk.unsettle([outputs], f"`{layer.name}` does not keep their mean")
    holds = row.variables or len(walk.variables) > variables
    if holds or getattr(layer, row.size or "", None) is not None:
        walk.seen[id(layer)] = (inputs, outputs, _rank(call))
    _note_size(walk, layer, row, outputs, _rank(call))
    for name, axes in row.variables.items():
        walk.add_variable(layer, name, _along(axes, inputs[0], outputs), axes.kernel)
    if holds or len(walk.spaces) > spaces:
        _freeze_untouchable(walk, layer, [*inputs, outputs, *walk.opened_since(spaces)])
    return outputs


def _entering(walk: Walk, row: Row, call: Call, inputs: flow.Inputs) -> flow.Inputs:
    """Returns the channels that come in along the axis that a layer takes its channels from."""
    layer, channels = call.operation, inputs[0]
    if row.axis is None or channels is None:
        return inputs
    if channels.axis == row.axis(layer, len(call.inputs[0].shape)):
        return inputs
    walk.refuse(layer, inputs, f"`{layer.name}` takes its channels from another axis than theirs")
    return [None] * len(inputs)


def _visit_again(walk: Walk, call: Call, inputs: flow.Inputs) -> Channels | None:
    """A shared layer: the same channels come in each time."""
    layer = call.operation
    before, outputs, rank = walk.seen[id(layer)]
    reason = f"`{layer.name}` is shared by inputs that differ"
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
    if outputs is not None:
        outputs = Channels(outputs.axis, outputs.segments * axes.blocks)
    return [
        (axis, channels, role, axes.fresh)
        for axis, channels, role in (
            (axes.output, outputs, "output"),
            (axes.input, inputs, "input"),
            (axes.through, inputs, "through"),
        )
        if axis is not None
    ]


def _freeze_untouchable(walk: Walk, layer: kl.Layer, maps: list) -> None:
    """Freezes the groups around a layer whose variables must not be resized."""
    parts = layers_within(layer)
    if not all(part.trainable for part in parts):
        walk.freeze(maps, f"`{layer.name}` is not trainable")
    if any(getattr(part, "quantization_mode", None) for part in parts):
        walk.freeze(maps, f"`{layer.name}` is quantized")
    if any(getattr(part, "lora_enabled", False) for part in parts):
        walk.freeze(maps, f"`{layer.name}` has LoRA weights")


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


def _activation_reason(layer: Any) -> str | None:
    """Says why a layer's activation keeps its channels from growing, if it does."""
    activation = getattr(layer, "activation", None)
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
