"""The table: what each layer type does to the channels that come in, and which axis of which of
its variables carries them. A new layer is a row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
from keras import layers as kl

from keras_grow import layers as growable
from keras_grow.channels.walk import Channels, Walk
from keras_grow.core.keras_private import Call
from keras_grow.core.widening import Segment

# Activations that act on each channel alone; softmax and its kin mix them.
ELEMENTWISE = frozenset(
    "celu elu exponential gelu hard_shrink hard_sigmoid hard_silu hard_swish hard_tanh leaky_relu "
    "linear log_sigmoid mish relu relu6 selu sigmoid silu soft_shrink softplus softsign "
    "sparse_plus sparse_sigmoid squareplus swish tanh tanh_shrink threshold".split()
)
# The same as symbolic operations (`keras.ops.relu(x)` in a Functional model).
_ELEMENTWISE_OPERATIONS = frozenset(
    "Celu Elu Gelu HardShrink HardSigmoid HardSilu HardTanh LeakyRelu LogSigmoid Mish Relu Relu6 "
    "Selu Sigmoid Silu SoftShrink Softplus Softsign Squareplus Tanh TanhShrink Threshold Abs "
    "Negative Square Exp Cast".split()
)
_JOINING_OPERATIONS = frozenset("Add Subtract Multiply Maximum Minimum".split())

Visit = Callable[[Walk, Call, list], "Channels | None"]


@dataclass(frozen=True)
class Axes:
    """Which axis of a variable carries which channels of its layer.

    Attributes:
        output: Axis of the channels that the layer puts out.
        input: Axis of the channels that the layer takes in, and sums over.
        through: Axis of the channels that the layer takes in and treats one by one.
        fresh: Value that stands for "no effect" in a fresh channel.
    """

    output: int | None = None
    input: int | None = None
    through: int | None = None
    fresh: float = 0.0


@dataclass(frozen=True)
class Role:
    """What a layer type does to channels.

    Attributes:
        visit: Maps the channels that come in to those that go out.
        variables: Name of each variable that channels run through -> its axes.
        size: The attribute that holds the width that the layer puts out, if any.
    """

    visit: Visit
    variables: Mapping[str, Axes] = field(default_factory=dict)
    size: str | None = None


def visit(walk: Walk, call: Call, inputs: list) -> Channels | None:
    """Takes one call into a walk, and returns the channels of its outputs."""
    operation = call.operation
    role = role_of(operation)
    if role is None:
        return _refuse(walk, call, inputs, _not_understood(operation))
    if not role.variables:
        return _note_size(walk, operation, role, role.visit(walk, call, inputs))
    if id(operation) in walk.seen:  # a shared layer: the same channels come in each time
        before, outputs = walk.seen[id(operation)]
        for first, again in zip(before, inputs, strict=True):
            walk.tie([first, again], f"`{operation.name}` is shared by inputs that differ")
        return outputs
    outputs = role.visit(walk, call, inputs)
    walk.seen[id(operation)] = (inputs, _note_size(walk, operation, role, outputs))
    for name, axes in role.variables.items():
        walk.add_variable(operation, name, _along(axes, inputs[0], outputs))
    _freeze_untouchable(walk, operation, [*inputs, outputs])
    return outputs


def _note_size(walk: Walk, layer: Any, role: Role, outputs: Channels | None) -> Channels | None:
    if role.size and outputs is not None:
        walk.sizes.append((layer, role.size, outputs))
    return outputs


def role_of(operation: Any) -> Role | None:
    """Returns the row of an operation's type, or `None` where the table has none."""
    if not isinstance(operation, kl.Layer):
        name = type(operation).__name__
        if name in _ELEMENTWISE_OPERATIONS:
            return Role(_carry)
        return Role(_join) if name in _JOINING_OPERATIONS else None
    return ROLES.get(type(operation))


def _along(axes: Axes, inputs: Channels | None, outputs: Channels | None) -> list[tuple]:
    """Lists (axis, channels, role, fresh value) of one variable."""
    return [
        (axis, channels, role, axes.fresh)
        for axis, channels, role in (
            (axes.output, outputs, "output"),
            (axes.input, inputs, "input"),
            (axes.through, inputs, "through"),
        )
        if axis is not None
    ]


def _not_understood(operation: Any) -> str:
    kind = type(operation).__name__
    if isinstance(operation, keras.Model):
        return f"`{operation.name}` is a model inside the model: call its layers one by one instead"
    return f"what `{operation.name}` ({kind}) does to its channels isn't known"


def _refuse(walk: Walk, call: Call, inputs: list, reason: str) -> None:
    """Freezes what goes in; what comes out is of fixed width."""
    walk.freeze(inputs, reason)
    walk.reasons[call.operation.name] = reason


def _freeze_untouchable(walk: Walk, layer: kl.Layer, maps: list) -> None:
    """Freezes the groups around a layer whose variables must not be resized."""
    if not layer.trainable:
        walk.freeze(maps, f"`{layer.name}` is not trainable")
    if getattr(layer, "lora_enabled", False) or getattr(layer, "quantization_mode", None):
        walk.freeze(maps, f"`{layer.name}` is quantized or has LoRA weights")


def _channel_axis(layer: kl.Layer, rank: int) -> int:
    """Returns the channel axis of a layer with a data format."""
    return 1 if getattr(layer, "data_format", "channels_last") == "channels_first" else rank - 1


def _rank(call: Call) -> int:
    return len(call.outputs[0].shape)


def _activation_reason(layer: kl.Layer) -> str | None:
    """Says why a layer's activation keeps its channels from growing, if it does."""
    activation = getattr(layer, "activation", None)
    name = getattr(activation, "__name__", type(activation).__name__)
    known = activation is None or isinstance(activation, kl.Layer)
    if known or (name in ELEMENTWISE and activation is getattr(keras.activations, name, None)):
        return None
    return f"the activation '{name}' of `{layer.name}` isn't known to act on each channel alone"


def _produce(walk: Walk, call: Call, inputs: list, width: int, axis: int) -> Channels:
    """A layer that sums over the channels that come in, and puts out new ones."""
    layer = call.operation
    if inputs[0] is not None and inputs[0].axis != axis:
        walk.freeze(inputs, f"`{layer.name}` does not sum over their axis")
    outputs = walk.produce(layer, width, axis)
    reason = _activation_reason(layer)
    if reason:
        walk.freeze([outputs], reason)
    return outputs


def _dense(walk: Walk, call: Call, inputs: list) -> Channels:
    return _produce(walk, call, inputs, call.operation.units, _rank(call) - 1)


def _convolve(walk: Walk, call: Call, inputs: list) -> Channels:
    layer = call.operation
    outputs = _produce(walk, call, inputs, layer.filters, _channel_axis(layer, _rank(call)))
    if getattr(layer, "groups", 1) > 1:
        walk.freeze([*inputs, outputs], f"`{layer.name}` is a grouped convolution")
    return outputs


def _carry(walk: Walk, call: Call, inputs: list) -> Channels | None:
    """A layer that does the same to every channel, whatever their number."""
    channels = inputs[0]
    if len(inputs) > 1:
        return _refuse(walk, call, inputs, _not_understood(call.operation))
    reason = _activation_reason(call.operation)
    if reason:
        walk.freeze(inputs, reason)
    walk.carry(call.operation, channels)
    return channels


def _carry_in_format(walk: Walk, call: Call, inputs: list) -> Channels | None:
    """A layer that works on the axes beside the channel axis: pooling, padding, upsampling."""
    channels, layer = inputs[0], call.operation
    if channels and channels.axis != _channel_axis(layer, len(call.inputs[0].shape)):
        return _refuse(walk, call, inputs, f"`{layer.name}` works along their axis")
    return _carry(walk, call, inputs)


def _normalise(walk: Walk, call: Call, inputs: list) -> Channels | None:
    """Batch normalisation: each channel by its own statistics."""
    channels, layer = inputs[0], call.operation
    if channels and layer.axis % _rank(call) != channels.axis:
        return _refuse(walk, call, inputs, f"`{layer.name}` normalises another axis")
    return _carry(walk, call, inputs)


def _depthwise(walk: Walk, call: Call, inputs: list) -> Channels | None:
    """A depthwise convolution: `depth_multiplier` channels out for each one in."""
    layer = call.operation
    channels = _carry_in_format(walk, call, inputs)
    if channels is None or layer.depth_multiplier == 1:
        return channels
    segments = (s._replace(repeat=s.repeat * layer.depth_multiplier) for s in channels.segments)
    return Channels(channels.axis, tuple(segments))


def _parametric(walk: Walk, call: Call, inputs: list) -> Channels | None:
    """PReLU: a slope per channel, unless the channel axis is shared."""
    channels, layer = inputs[0], call.operation
    if channels and (
        channels.axis != _rank(call) - 1 or channels.axis in (layer.shared_axes or ())
    ):
        return _refuse(walk, call, inputs, f"`{layer.name}` shares its slope between them")
    return _carry(walk, call, inputs)


def _pool_globally(walk: Walk, call: Call, inputs: list) -> Channels | None:
    channels = _carry_in_format(walk, call, inputs)
    if channels is None or call.operation.keepdims:
        return channels
    return Channels(1, channels.segments)


def _mixes_channels(walk: Walk, call: Call, inputs: list) -> None:
    layer = call.operation
    return _refuse(walk, call, inputs, f"`{layer.name}` ({type(layer).__name__}) mixes channels")


def _spread(walk: Walk, call: Call, inputs: list) -> Channels | None:
    """Flatten: the channels once per position, or each of them once for all positions."""
    channels, layer = inputs[0], call.operation
    if channels is None:
        return None
    shape = call.inputs[0].shape
    positions = [size for axis, size in enumerate(shape) if axis not in (0, channels.axis)]
    last = channels.axis == len(shape) - 1
    # Flatten moves the channels of "channels_first" to the end before it flattens.
    moved = getattr(layer, "data_format", None) == "channels_first" and channels.axis == 1
    if None in positions or not (last or moved or channels.axis == 1):
        return _refuse(walk, call, inputs, f"`{layer.name}` flattens a shape that is not known")
    walk.carry(layer, channels)
    count = math.prod(positions)
    if last or moved:
        return Channels(1, channels.segments * count)
    return Channels(1, tuple(s._replace(repeat=s.repeat * count) for s in channels.segments))


def _reshape(walk: Walk, call: Call, inputs: list) -> Channels | None:
    """Reshape: understood where it flattens everything or keeps the last axis."""
    channels, layer = inputs[0], call.operation
    if channels is None:
        return None
    before, after = call.inputs[0].shape, call.outputs[0].shape
    if len(after) == 2:
        return _spread(walk, call, inputs)
    if channels.axis != len(before) - 1 or before[-1] != after[-1]:
        return _refuse(walk, call, inputs, f"`{layer.name}` reshapes the channel axis")
    walk.carry(layer, channels)
    return Channels(len(after) - 1, channels.segments)


def _permute(walk: Walk, call: Call, inputs: list) -> Channels | None:
    channels, layer = inputs[0], call.operation
    if channels is None:
        return None
    walk.carry(layer, channels)
    return Channels(1 + tuple(layer.dims).index(channels.axis), channels.segments)


def _join(walk: Walk, call: Call, inputs: list) -> Channels | None:
    """Addition and its kin: channel i of one input meets channel i of the other."""
    name = call.operation.name
    ranks = {len(tensor.shape) for tensor in call.inputs}
    if len(ranks) > 1 or any(_is_fixed_array(argument) for argument in call.arguments):
        return _refuse(walk, call, inputs, f"`{name}` joins them with an array of fixed shape")
    tied = walk.tie(inputs, f"`{name}` joins them with channels that can't grow alike")
    walk.carry(call.operation, tied)
    return tied


def _is_fixed_array(argument: Any) -> bool:
    """Tells whether an argument of a call is a constant with a shape of its own."""
    symbolic = isinstance(argument, keras.KerasTensor)
    return not symbolic and math.prod(getattr(argument, "shape", ())) > 1


def _concatenate(walk: Walk, call: Call, inputs: list) -> Channels | None:
    """Concatenation: the channels side by side."""
    known = [channels for channels in inputs if channels is not None]
    if not known:
        return None
    rank, layer = _rank(call), call.operation
    axis = layer.axis % rank
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


_KERNEL = {"kernel": Axes(input=-2, output=-1), "bias": Axes(output=-1)}
_TRANSPOSED = {"kernel": Axes(input=-1, output=-2), "bias": Axes(output=-1)}
_DEPTHWISE = {"kernel": Axes(through=-2), "bias": Axes(output=-1)}
_STATISTICS = {
    "gamma": Axes(through=-1, fresh=1.0),
    "beta": Axes(through=-1),
    "moving_mean": Axes(through=-1),
    "moving_variance": Axes(through=-1, fresh=1.0),
    # With batch renormalisation:
    "moving_stddev": Axes(through=-1, fresh=1.0),
    "renorm_mean": Axes(through=-1),
    "renorm_stddev": Axes(through=-1, fresh=1.0),
}


def _named(names: str) -> tuple[type, ...]:
    """Returns Keras layers by their names."""
    return tuple(getattr(kl, name) for name in names.split())


_DIMENSIONS = ("1D", "2D", "3D")
_PER_POSITION = "MaxPooling AveragePooling ZeroPadding UpSampling Cropping SpatialDropout".split()

_ROWS: list[tuple[tuple[type, ...], Role]] = [
    (
        (*_named("Dense"), growable.GrowableDense),
        Role(_dense, _KERNEL, "units"),
    ),
    (
        (*_named("Conv1D Conv2D Conv3D"), growable.GrowableConv2D),
        Role(_convolve, _KERNEL, "filters"),
    ),
    (
        _named("Conv1DTranspose Conv2DTranspose Conv3DTranspose"),
        Role(_convolve, _TRANSPOSED, "filters"),
    ),
    (
        (*_named("DepthwiseConv1D DepthwiseConv2D"), growable.GrowableDepthwiseConv2D),
        Role(_depthwise, _DEPTHWISE),
    ),
    (
        (*_named("BatchNormalization"), growable.GrowableBatchNormalization),
        Role(_normalise, _STATISTICS),
    ),
    (_named("PReLU"), Role(_parametric, {"alpha": Axes(through=-1)})),
    (
        _named(
            "Activation ReLU LeakyReLU ELU Identity ActivityRegularization Dropout AlphaDropout "
            "GaussianDropout GaussianNoise"
        ),
        Role(_carry),
    ),
    (
        _named("Resizing " + " ".join(name + n for name in _PER_POSITION for n in _DIMENSIONS)),
        Role(_carry_in_format),
    ),
    (
        _named(
            " ".join(f"Global{kind}Pooling{n}" for kind in ("Average", "Max") for n in _DIMENSIONS)
        ),
        Role(_pool_globally),
    ),
    (_named("Flatten"), Role(_spread)),
    (_named("Reshape"), Role(_reshape, size="target_shape")),
    (_named("Permute"), Role(_permute)),
    (_named("Add Subtract Multiply Average Maximum Minimum"), Role(_join)),
    (_named("Concatenate"), Role(_concatenate)),
    (
        _named("LayerNormalization GroupNormalization UnitNormalization Softmax"),
        Role(_mixes_channels),
    ),
]

ROLES: dict[type, Role] = {kind: role for kinds, role in _ROWS for kind in kinds}
