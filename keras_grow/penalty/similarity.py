"""How much alike the neurons of a layer are, and by how much its weights have changed.

Pure functions of arrays (Eq. 1, 2 and 4), all computed in float32, whatever the kernel's own type.
The equations are those of Sakai and Hotta, "Growing Deep Neural Network Considering with Similarity
between Neurons".
"""

from __future__ import annotations

import math
import numbers
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_grow.utils.checks import check_choice

FORMS = ("absolute", "signed")

# A row of a smaller L2 norm than this counts as a zero row: it has no direction. The gradient of a
# cosine goes as 1 / norm, and must be finite in the kernel's own type.
SMALLEST_NORM = 1e-12
SMALLEST_NORM_FLOAT16 = 1e-4

# The least |sum of weights| that Eq. 4 tells apart: relative to the sum of |W|, and absolute. The
# second bounds the gradient by 1e4, which float16 can hold.
RELATIVE_FLOOR = 1e-3
ABSOLUTE_FLOOR = 1e-4
# By what two compiled functions were seen to differ in a sum of float32 weights, relative to the
# sum of |W|.
ROUNDING = 3e-7


def neuron_rows(kernel: Any, axis: int = -1, blocks: int = 1) -> Any:
    """Returns a kernel as one row per neuron.

    Args:
        kernel: Array, tensor or `keras.Variable` of any shape.
        axis: The axis of the neurons: -1 for the kernel of a dense layer or a convolution, -2 for
            that of a depthwise convolution.
        blocks: How many times the neurons lie side by side along it: 4 for the gates of an LSTM.

    Returns:
        Tensor of shape `(neurons, rest)`, in the kernel's type.

    Raises:
        ValueError: if the kernel has no such axis.

    Example:

    >>> import numpy as np
    >>> neuron_rows(np.ones((3, 3, 4, 8), "float32")).shape
    TensorShape([8, 36])
    >>> neuron_rows(np.ones((3, 3, 4, 1), "float32"), axis=-2).shape
    TensorShape([4, 9])
    """
    return ops.transpose(neuron_columns(kernel, axis, blocks))


def similarity_map(kernel: Any, axis: int = -1, blocks: int = 1) -> Any:
    """Computes the cosine similarity of each pair of neurons (Eq. 1).

    Args:
        kernel: Array, tensor or `keras.Variable` of any shape.
        axis: The axis of the neurons. Defaults to the last.
        blocks: How many times the neurons lie side by side along it.

    Returns:
        float32 tensor of shape `(neurons, neurons)`, values from -1 to 1. The row and the column of
        a neuron whose weights are all zero are zero, on the diagonal too.

    Raises:
        ValueError: if the kernel has no such axis.

    Example:

    >>> import numpy as np
    >>> kernel = np.array([[1.0, 2.0, 0.0], [1.0, 0.0, 0.0]])  # 2 inputs, 3 neurons
    >>> ops.convert_to_numpy(similarity_map(kernel)).round(3)
    array([[1.   , 0.707, 0.   ],
           [0.707, 1.   , 0.   ],
           [0.   , 0.   , 0.   ]], dtype=float32)

    Reference: Sakai and Hotta, Eq. 1.
    """
    columns = neuron_columns(kernel, axis, blocks)
    unit, _ = unit_columns(ops.cast(columns, "float32"), smallest_square(columns))
    return ops.matmul(ops.transpose(unit), unit)


def mean_similarity(kernel: Any, axis: int = -1, blocks: int = 1) -> Any:
    """Computes the mean |cosine similarity| over the pairs of different neurons (Eq. 2).

    Args:
        kernel: Array, tensor or `keras.Variable` of any shape.
        axis: The axis of the neurons. Defaults to the last.
        blocks: How many times the neurons lie side by side along it.

    Returns:
        float32 scalar from 0 (all orthogonal) to 1 (all parallel). One neuron gives 0.

    Raises:
        ValueError: if the kernel has no such axis.

    Example:

    >>> import numpy as np
    >>> kernel = np.array([[1.0, 2.0, 0.0], [1.0, 0.0, 0.0]])  # 2 inputs, 3 neurons
    >>> round(float(mean_similarity(kernel)), 4)
    0.2357

    Reference: Sakai and Hotta, Eq. 2.
    """
    return mean_over_pairs(ops.abs(off_diagonal(similarity_map(kernel, axis, blocks))))


def weight_drift(
    current_sum: Any, previous_sum: Any, current_abs_sum: Any, form: str = "absolute"
) -> Any:
    """Computes by how much the sum of a layer's weights has changed (Eq. 4).

    With r = sum(W_current) / sum(W_previous): |log |r||, or log |r| as the paper prints it, which
    is unbounded below without the guard. |log |r|| is zero where nothing changed, or the sum by no
    more than 3e-7 * sum(|W_current|): it has a kink there, and how a sum is rounded differs from
    one compiled function to another. A change of sign alone counts as no change.

    The guard: where |sum| is less than `floor = 1e-3 * sum(|W_current|) + 1e-4`, the floor takes
    its place, for both sums: `log(max(|current|, floor)) - log(max(|previous|, floor))`. Sums above
    the floor give Eq. 4 exactly; a sum that crosses zero gives a finite value, and no gradient
    while it is below the floor. Only `current_sum` has a gradient, of at most 1 / floor.

    Args:
        current_sum: Sums of the present weights, of any shape.
        previous_sum: Sums of the weights to compare with, of the same shape.
        current_abs_sum: Sums of the present weights' absolute values, of the same shape.
        form: "absolute" for |log |r||, "signed" for log |r|.

    Returns:
        float32 tensor of the shape of the sums.

    Raises:
        ValueError: if `form` is neither.

    Example:

    >>> round(float(weight_drift(2.0, 4.0, 10.0)), 4)
    0.6931
    >>> round(float(weight_drift(2.0, 4.0, 10.0, form="signed")), 4)
    -0.6931
    >>> round(float(weight_drift(0.0, 1.0, 100.0)), 4)  # log(1 / 0.1001)
    2.3016

    Reference: Sakai and Hotta, Eq. 4.
    """
    check_choice("form", form, FORMS)
    current, previous, scale = (
        ops.cast(value, "float32") for value in (current_sum, previous_sum, current_abs_sum)
    )
    floor = RELATIVE_FLOOR * ops.stop_gradient(scale) + ABSOLUTE_FLOOR
    # A difference of logarithms: the ratio itself could overflow.
    before = ops.log(ops.maximum(ops.abs(ops.stop_gradient(previous)), floor))
    drift = ops.log(ops.maximum(ops.abs(current), floor)) - before
    if form == "signed":
        return drift
    still = ops.abs(current - previous) <= ROUNDING * scale
    return ops.where(still, 0.0, ops.abs(drift))


def neuron_columns(kernel: Any, axis: int, blocks: int = 1) -> Any:
    """Returns a kernel as one column per neuron, which is how Keras stores most of them."""
    if not hasattr(kernel, "shape") and not isinstance(kernel, list):
        raise TypeError(
            f"`kernel` must be an array, a tensor or a variable. Received: kernel={kernel!r:.200}"
        )
    kernel = ops.convert_to_tensor(kernel)
    if not isinstance(axis, numbers.Integral) or not -kernel.ndim <= axis < kernel.ndim:
        raise ValueError(
            "`axis` must be an axis of the kernel, that of its neurons. Received: "
            f"axis={axis}, kernel of shape {tuple(kernel.shape)}"
        )
    neurons = kernel.shape[axis] // blocks
    return ops.reshape(
        ops.moveaxis(kernel, axis, -1), (math.prod(kernel.shape) // max(neurons, 1), neurons)
    )


def smallest_square(kernel: Any) -> float:
    """Returns the square of the norm below which a row of this kernel counts as zero."""
    is_float16 = keras.backend.standardize_dtype(kernel.dtype) == "float16"
    return (SMALLEST_NORM_FLOAT16 if is_float16 else SMALLEST_NORM) ** 2


def unit_columns(columns: Any, smallest_square: float) -> tuple[Any, Any]:
    """Returns columns over their L2 norms, and one over the norms: zero for a zero column."""
    square = ops.sum(ops.square(columns), axis=-2, keepdims=True)
    # The maximum is for the gradient: that of rsqrt at zero would be infinite.
    inverse = ops.rsqrt(ops.maximum(square, smallest_square))
    inverse = ops.where(square > smallest_square, inverse, 0.0)
    return columns * inverse, inverse


def off_diagonal(cosines: Any) -> Any:
    """Returns cosines of neurons (the last two axes), with zero for those with themselves.

    Rounding may have left them just outside of what a cosine can be.
    """
    return ops.clip(cosines, -1.0, 1.0) * (1.0 - ops.eye(cosines.shape[-1], dtype="float32"))


def mean_over_pairs(values: Any) -> Any:
    """Returns the mean over i != j of values that are zero for i = j, over the last two axes."""
    neurons = values.shape[-1]
    return ops.sum(values, (-2, -1)) / max(neurons * (neurons - 1), 1)


def pair_similarities(kernel: Any, axis: int = -1, blocks: int = 1) -> np.ndarray:
    """Computes the cosine similarities of a kernel's neurons, each pair once, `(pairs,)`."""
    if len(kernel.shape) < 2:
        raise ValueError(f"A kernel must have 2 axes or more. Received: shape {kernel.shape}")
    similarities = keras.ops.convert_to_numpy(similarity_map(kernel, axis, blocks))
    similarities = similarities.astype("float64")
    pairs = similarities[np.triu_indices_from(similarities, k=1)]
    return np.clip(pairs, -1.0, 1.0)  # rounding puts equal neurons at 1.0000001
