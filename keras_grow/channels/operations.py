"""The table of operations: what `keras.ops` do to channels where they are called in a model.

By the names of the operations' classes. What has no entry freezes the groups that it touches.
"""

from __future__ import annotations

from typing import Any

from keras_grow.channels import flow, joins, moves

# Functions of one entry, which act on each channel alone: activations.
_ACTIVATIONS = (
    "Abs Absolute Arcsinh Arctan Cast Cbrt Celu Copy Cos Cosh Elu Erf Erfc Exp Exp2 Expm1 Fabs "
    "Gelu HardShrink HardSigmoid HardSilu HardTanh LeakyRelu Log Log1p LogSigmoid Negative "
    "Reciprocal Relu Relu6 Rsqrt Selu Sigmoid Silu Sin Sinh SoftShrink Softplus Softsign "
    "SparsePlus SparseSigmoid Sqrt Square Squareplus Tan Tanh TanhShrink Threshold"
)
# Functions of the entries of one or more tensors at the same place, with broadcasting.
_JOINS = (
    "Arctan2 Ceil Clip Divide DivideNoNan Equal Floor FloorDivide Fmax Fmin Fmod "
    "Greater GreaterEqual Hypot Isfinite Isinf Isnan Less LessEqual Log10 Log2 Logaddexp "
    "LogicalAnd LogicalNot LogicalOr LogicalXor Maximum Minimum Mod Multiply NanToNum NotEqual "
    "OnesLike Power Round SaturateCast Sign StopGradient TrueDivide Trunc Where ZerosLike"
)
_REDUCTIONS = (
    "All Amax Amin Any Argmax Argmin CountNonzero Logsumexp Max Median Min Moments Norm Prod Std "
    "Var"
)
_ALONG_AN_AXIS = "Argsort Cumprod Cumsum Flip LogSoftmax Normalize Roll Softmax Sort"
_POSITIONS = "AveragePool MaxPool Resize"


def _alike(names: str, **fields: Any) -> dict[str, dict[str, Any]]:
    return dict.fromkeys(names.split(), fields)


# Name of an operation -> the fields of its row.
OPERATIONS: dict[str, dict[str, Any]] = {
    **_alike(_ACTIVATIONS, flow=flow.carry, acts_as="activation"),
    **_alike(_JOINS, flow=joins.join),
    **_alike("Add Subtract", flow=joins.join, linear=True),
    **_alike(_REDUCTIONS, flow=joins.reduce),
    **_alike("Mean Sum", flow=joins.reduce, linear=True),
    **_alike(_ALONG_AN_AXIS, flow=joins.along_an_axis),
    **_alike(_POSITIONS, flow=flow.carry, axis=flow.format_axis),
    "Concatenate": {"flow": moves.concatenate, "linear": True},
    "DotProductAttention": {"flow": joins.attend},
    "Einsum": {"flow": joins.einsum},
    "ExpandDims": {"flow": moves.expand, "linear": True},
    "GetItem": {"flow": moves.select, "linear": True},
    "Glu": {"flow": moves.gate},
    "Matmul": {"flow": joins.multiply_matrices},
    "Moveaxis": {"flow": moves.move, "linear": True},
    "Pad": {"flow": moves.pad},
    "Repeat": {"flow": moves.repeat, "linear": True},
    "Reshape": {"flow": moves.reshape, "size": "newshape", "linear": True},
    "Split": {"flow": moves.split, "linear": True},
    "Squeeze": {"flow": moves.squeeze, "linear": True},
    "Stack": {"flow": moves.stack, "linear": True},
    "Swapaxes": {"flow": moves.move, "linear": True},
    "Take": {"flow": moves.take, "linear": True},
    "Tile": {"flow": moves.tile, "linear": True},
    "Transpose": {"flow": moves.move, "linear": True},
    "Unstack": {"flow": moves.unstack, "linear": True},
}
