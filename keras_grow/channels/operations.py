"""The table of operations: what `keras.ops` do to channels where they are called in a model.

By the names of the operations' classes. What has no entry freezes the groups that it touches.
"""

from __future__ import annotations

from typing import Any

from keras_grow.channels import flow, joins, moves

# Functions of one entry, which act on each channel alone: activations.
_ACTIVATIONS = (
    "Abs Absolute Arcsinh Arctan Cast Cbrt Celu Copy Cos Cosh Elu Erf Erfc Exp Exp2 Expm1 Fabs "
    "Gelu HardShrink HardSigmoid HardSilu HardTanh LeakyRelu Log Log1p LogSigmoid Mish Negative "
    "Reciprocal Relu Relu6 Rsqrt Selu Sigmoid Silu Sin Sinh SoftShrink Softplus Softsign "
    "SparsePlus SparseSigmoid Sqrt Square Squareplus Tan Tanh TanhShrink Threshold"
)
# Functions of the entries of one or more tensors at the same place, with broadcasting.
_JOINS = (
    "Add Arctan2 Ceil Clip Divide DivideNoNan Equal Floor FloorDivide Fmax Fmin Fmod "
    "Greater GreaterEqual Hypot Isfinite Isinf Isnan Less LessEqual Log10 Log2 Logaddexp "
    "LogicalAnd LogicalNot LogicalOr LogicalXor Maximum Minimum Mod Multiply NanToNum NotEqual "
    "OnesLike Power Round SaturateCast Sign StopGradient Subtract TrueDivide Trunc Where ZerosLike"
)
_REDUCTIONS = (
    "All Amax Amin Any Argmax Argmin CountNonzero Logsumexp Max Mean Median Min Moments Norm Prod "
    "Std Sum Var"
)
_ALONG_AN_AXIS = "Argsort Cumprod Cumsum Flip LogSoftmax Normalize Roll Softmax Sort"
_POSITIONS = "AveragePool MaxPool Resize"


def _alike(names: str, **fields: Any) -> dict[str, dict[str, Any]]:
    return dict.fromkeys(names.split(), fields)


# Name of an operation -> the fields of its row.
OPERATIONS: dict[str, dict[str, Any]] = {
    **_alike(_ACTIVATIONS, flow=flow.carry, acts_as="activation"),
    **_alike(_JOINS, flow=joins.join),
    **_alike(_REDUCTIONS, flow=joins.reduce),
    **_alike(_ALONG_AN_AXIS, flow=joins.along_an_axis),
    **_alike(_POSITIONS, flow=flow.carry, axis=flow.format_axis),
    "Concatenate": {"flow": moves.concatenate},
    "DotProductAttention": {"flow": joins.attend},
    "Einsum": {"flow": joins.einsum},
    "ExpandDims": {"flow": moves.expand},
    "GetItem": {"flow": moves.select},
    "Glu": {"flow": moves.gate},
    "Matmul": {"flow": joins.multiply_matrices},
    "Moveaxis": {"flow": moves.move},
    "Pad": {"flow": moves.pad},
    "Repeat": {"flow": moves.repeat},
    "Reshape": {"flow": moves.reshape, "size": "newshape"},
    "Split": {"flow": moves.split},
    "Squeeze": {"flow": moves.squeeze},
    "Stack": {"flow": moves.stack},
    "Swapaxes": {"flow": moves.move},
    "Take": {"flow": moves.take},
    "Tile": {"flow": moves.tile},
    "Transpose": {"flow": moves.move},
    "Unstack": {"flow": moves.unstack},
}
