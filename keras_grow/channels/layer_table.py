"""The table of layers: one row per layer type holds all that the package knows of it.

Everything else reads it: the walk that finds channel groups, the conversion to growable layers
and back, the count of floating-point operations, and splitting, which looks for activations. What
has no row freezes the channel groups that it touches, with a reason to read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from keras import layers as kl

from keras_grow import layers as growable
from keras_grow.channels import attention, flow, joins, moves, products, recurrent, streams
from keras_grow.channels.operations import OPERATIONS
from keras_grow.channels.walk import Channels, Walk
from keras_grow.core import keras_private
from keras_grow.core.keras_private import Call


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
_PICTURE = Row(flow.carry, axis=flow.format_axis)
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
ROWS |= {getattr(kl, name): _PICTURE for name in _PICTURES.split() if hasattr(kl, name)}
for _name, _row in {  # not in every Keras 3
    "ReversibleEmbedding": replace(
        _EMBEDDING,
        reverse=Row(
            flow.unembed,
            axis=flow.last_axis,
            variables={"reverse_embeddings": Axes(input=-2, kernel=True)},
            multiply_adds=products.unembed,
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


def as_called(row: Row, call: Call) -> Row:
    """Returns the row of a layer for one of the ways in which it can be called."""
    return row.reverse if row.reverse and call.named.get("reverse") else row


def acts_as(operation: Any) -> str | None:
    """Returns what an operation is to a neuron: see `Row.acts_as`."""
    row = row_of(operation)
    return None if row is None else row.acts_as


def twins() -> dict[type, type]:
    """Returns plain layer type -> growable layer type."""
    return {kind: row.twin for kind, row in ROWS.items() if row.twin not in (None, kind)}
