"""How much alike the neurons of a layer are, and the penalty that keeps new neurons different.

Pure functions of arrays (Eq. 1, 2 and 4), and `SimilarityPenalty`, which adds them up (Eq. 5), all
computed in float32, whatever the kernel's own type. The equations are those of Sakai and Hotta,
"Growing Deep Neural Network Considering with Similarity between Neurons".
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_grow.utils.checks import check_positive_int

FORMS = ("absolute", "signed")
REFERENCES = ("step", "growth")

# A row of a smaller L2 norm than this counts as a zero row: it has no direction. The gradient of a
# cosine goes as 1 / norm, and must be finite in the kernel's own type.
SMALLEST_NORM = 1e-12
SMALLEST_NORM_FLOAT16 = 1e-4

# The least |sum of weights| that Eq. 4 tells apart: relative to the sum of |W|, and absolute. The
# second bounds the gradient by 1e4, which float16 can hold.
RELATIVE_FLOOR = 1e-3
ABSOLUTE_FLOOR = 1e-4


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
    return ops.transpose(_neuron_columns(kernel, axis, blocks))


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
    columns = _neuron_columns(kernel, axis, blocks)
    unit, _ = _unit_columns(ops.cast(columns, "float32"), _smallest_square(columns))
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
    return _mean_over_pairs(similarity_map(kernel, axis, blocks))


def weight_drift(
    current_sum: Any, previous_sum: Any, current_abs_sum: Any, form: str = "absolute"
) -> Any:
    """Computes by how much the sum of a layer's weights has changed (Eq. 4).

    With r = sum(W_current) / sum(W_previous): |log |r||, or log |r| as the paper prints it, which
    is unbounded below without the guard. Zero where nothing changed; a change of sign alone counts
    as no change.

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
    _check_choice("form", form, FORMS)
    current, previous, scale = (
        ops.cast(value, "float32") for value in (current_sum, previous_sum, current_abs_sum)
    )
    floor = RELATIVE_FLOOR * ops.stop_gradient(scale) + ABSOLUTE_FLOOR
    # A difference of logarithms: the ratio itself could overflow.
    before = ops.log(ops.maximum(ops.abs(ops.stop_gradient(previous)), floor))
    drift = ops.log(ops.maximum(ops.abs(current), floor)) - before
    return ops.abs(drift) if form == "absolute" else drift


class PenaltyTerms(NamedTuple):
    """What `SimilarityPenalty` returns.

    Args:
        loss: The penalty (Eq. 5), to be added to the task loss. float32 scalar.
        similarity: Mean over the layers of Eq. 2, without its weight. float32 scalar.
        drift: Mean over the layers of Eq. 4, without its weight. float32 scalar.
        sums: Sum of the weights of each layer, to compare the next ones with. float32, shape
            `(layers,)`, constant for the gradient.
    """

    loss: Any
    similarity: Any
    drift: Any
    sums: Any


@keras.saving.register_keras_serializable(package="keras_grow")
@dataclasses.dataclass(frozen=True)
class SimilarityPenalty:
    """The similarity penalty of a growing network (Eq. 5).

    `weight * (mean over the layers of Eq. 2) + weight_sum * (mean over the layers of Eq. 4)`, added
    to the task loss for some epochs after each growth: neurons that have just been copied or split
    are pushed apart, while the sum of each layer's weights changes slowly.

    Args:
        weight: Weight of the mean |cosine similarity| (Eq. 2), at least 0.
        weight_sum: Weight of the change of the sum of weights (Eq. 4), lambda in the paper, at
            least 0.
        epochs: Number of epochs after each growth in which the penalty is part of the loss, N in
            the paper. The next growth ends it early.
        form: "absolute" for |log |r|| in Eq. 4, "signed" for log |r| as printed.
        reference: What the sum of weights is compared with: "step" for the weights before the last
            update, "growth" for those just after the growth.

    Raises:
        TypeError: if a weight is not a number or `epochs` not an integer.
        ValueError: if a weight is negative or not finite, `epochs` is not positive, or `form` or
            `reference` is unknown.

    Example:

    >>> import numpy as np
    >>> import keras_grow
    >>> penalty = keras_grow.SimilarityPenalty(weight=1.0, weight_sum=0.01)
    >>> kernel = np.array([[1.0, 2.0, 0.0], [1.0, 0.0, 0.0]])  # 2 inputs, 3 neurons
    >>> terms = penalty([kernel], axes=[-1], reference_sums=[2.0])
    >>> round(float(terms.similarity), 4), round(float(terms.drift), 4)
    (0.2357, 0.6931)
    >>> round(float(terms.loss), 4)  # 0.2357 + 0.01 * 0.6931
    0.2426
    >>> [float(value) for value in terms.sums]
    [4.0]

    Reference: Sakai and Hotta, Eq. 5.
    """

    weight: float = 1.0
    weight_sum: float = 0.01
    epochs: int = 15
    form: str = "absolute"
    reference: str = "step"

    def __post_init__(self):
        _check_weight("weight", self.weight)
        _check_weight("weight_sum", self.weight_sum)
        check_positive_int("epochs", self.epochs)
        _check_choice("form", self.form, FORMS)
        _check_choice("reference", self.reference, REFERENCES)

    def __call__(
        self,
        kernels: Sequence[Any],
        axes: Sequence[int],
        reference_sums: Any,
        blocks: Sequence[int] | None = None,
    ) -> PenaltyTerms:
        """Computes the penalty.

        Its second derivatives are not those of Eq. 2: the first ones are computed in closed form.

        Args:
            kernels: Arrays, tensors or variables, one per layer.
            axes: The axis of the neurons of each kernel.
            reference_sums: The sums of weights to compare with, shape `(layers,)`: the `sums` of
                an earlier call. They are constants for the gradient.
            blocks: How many times the neurons of each kernel lie side by side. Defaults to once.

        Raises:
            ValueError: if there are no kernels, or not as many axes and sums as kernels.
        """
        _check_lengths(kernels, axes, reference_sums)
        groups = _stack_equal_shapes(kernels, axes, blocks or [1] * len(kernels))
        order = [layer for group in groups for layer in group.layers]
        similarity = ops.mean(_per_layer(_fast_mean_similarity, groups))
        sums = _per_layer(lambda group: ops.sum(group.columns, (-2, -1)), groups)
        abs_sums = _per_layer(lambda group: ops.sum(ops.abs(group.columns), (-2, -1)), groups)
        previous = ops.take(ops.convert_to_tensor(reference_sums, "float32"), order)
        drift = ops.mean(weight_drift(sums, previous, abs_sums, self.form))
        loss = _weighted(self.weight, similarity) + _weighted(self.weight_sum, drift)
        back = sorted(range(len(order)), key=order.__getitem__)
        return PenaltyTerms(loss, similarity, drift, ops.take(ops.stop_gradient(sums), back))

    def get_config(self) -> dict:
        """Returns the arguments, as plain Python values."""
        return {
            "weight": float(self.weight),
            "weight_sum": float(self.weight_sum),
            "epochs": int(self.epochs),
            "form": self.form,
            "reference": self.reference,
        }

    @classmethod
    def from_config(cls, config: dict) -> SimilarityPenalty:
        """Makes a penalty from what `get_config` returned."""
        return cls(**config)


class _Group(NamedTuple):
    """Kernels of equal shape, stacked: columns of shape `(layers, rest, neurons)`, float32."""

    layers: list[int]
    columns: Any
    smallest_square: float


def _neuron_columns(kernel: Any, axis: int, blocks: int) -> Any:
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


def _smallest_square(kernel: Any) -> float:
    """Returns the square of the norm below which a row of this kernel counts as zero."""
    is_float16 = keras.backend.standardize_dtype(kernel.dtype) == "float16"
    return (SMALLEST_NORM_FLOAT16 if is_float16 else SMALLEST_NORM) ** 2


def _unit_columns(columns: Any, smallest_square: float) -> tuple[Any, Any]:
    """Returns columns over their L2 norms, and one over the norms: zero for a zero column."""
    square = ops.sum(ops.square(columns), axis=-2, keepdims=True)
    # The maximum is for the gradient: that of rsqrt at zero would be infinite.
    inverse = ops.rsqrt(ops.maximum(square, smallest_square))
    inverse = ops.where(square > smallest_square, inverse, 0.0)
    return columns * inverse, inverse


def _mean_over_pairs(cosines: Any) -> Any:
    """Returns the mean of |C(i, j)| over i != j, over the last two axes."""
    neurons = cosines.shape[-1]
    magnitudes = ops.abs(cosines)
    total = ops.sum(magnitudes, (-2, -1)) - ops.sum(ops.diagonal(magnitudes, 0, -2, -1), -1)
    # Rounding may leave the difference just outside of what a mean of |cosine| can be.
    return ops.clip(total / max(neurons * (neurons - 1), 1), 0.0, 1.0)


def _fast_mean_similarity(group: _Group) -> Any:
    """Computes Eq. 2 of each kernel of a group, with its gradient in closed form.

    With u the unit columns and C = u^T u, the gradient with respect to column w_i is
    2 / (n (n - 1)) * (sum_j sign(C_ij) u_j - u_i sum_j |C_ij|) / |w_i|: one more matrix product,
    where differentiating each operation takes two and a dozen small ones, in every training step.
    (The pair i = j cancels out.)
    """
    constant = ops.stop_gradient(group.columns)
    unit, inverse = _unit_columns(constant, group.smallest_square)
    cosines = ops.matmul(ops.swapaxes(unit, -2, -1), unit)
    neurons = cosines.shape[-1]
    slope = ops.matmul(unit, ops.sign(cosines))
    slope -= unit * ops.sum(ops.abs(cosines), axis=-2, keepdims=True)
    slope *= inverse * (2 / max(neurons * (neurons - 1), 1))
    # Adds zero, with the slope for its gradient. (`keras.ops.custom_gradient` is no shorter and no
    # faster, and not every backend has it.)
    zero = ops.sum((group.columns - constant) * slope, (-2, -1))
    return _mean_over_pairs(cosines) + zero


def _stack_equal_shapes(
    kernels: Sequence[Any], axes: Sequence[int], blocks: Sequence[int]
) -> list[_Group]:
    """Stacks the kernels that have as many rows and columns: one operation serves all of them."""
    groups: dict[tuple, list[tuple[int, Any]]] = {}
    for layer, (kernel, *neurons) in enumerate(zip(kernels, axes, blocks, strict=True)):
        columns = _neuron_columns(kernel, *neurons)
        key = (*columns.shape, _smallest_square(columns))
        groups.setdefault(key, []).append((layer, ops.cast(columns, "float32")))
    return [
        _Group([layer for layer, _ in group], ops.stack([c for _, c in group]), key[-1])
        for key, group in groups.items()
    ]


def _per_layer(function: Any, groups: Sequence[_Group]) -> Any:
    """Returns the values of a function of each group in one vector, in the order of the groups."""
    return ops.concatenate([function(group) for group in groups])


def _weighted(weight: float, term: Any) -> Any:
    """Returns weight * term; a term of no weight has no gradient to compute either."""
    return float(weight) * (term if weight else ops.stop_gradient(term))


def _check_weight(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(
            f"`{name}` must be a number. Received: {name}={value!r} of type {type(value)}"
        )
    if not math.isfinite(value) or value < 0:
        raise ValueError(
            f"`{name}` must be a finite number of at least 0. Received: {name}={value}"
        )


def _check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {choices}. Received: {name}={value!r}")


def _check_lengths(kernels: Sequence[Any], axes: Sequence[int], sums: Any) -> None:
    if not kernels:
        raise ValueError("`kernels` must hold at least one kernel. Received: kernels=[]")
    shape = tuple(ops.shape(ops.convert_to_tensor(sums)))
    if len(axes) != len(kernels) or shape != (len(kernels),):
        raise ValueError(
            "`axes` and `reference_sums` must have one entry per kernel. Received: "
            f"{len(kernels)} kernels, {len(axes)} axes, reference_sums of shape {shape}"
        )


def pair_similarities(kernel: Any, axis: int = -1, blocks: int = 1) -> np.ndarray:
    """Computes the cosine similarities of a kernel's neurons, each pair once, `(pairs,)`."""
    if len(kernel.shape) < 2:
        raise ValueError(f"A kernel must have 2 axes or more. Received: shape {kernel.shape}")
    similarities = keras.ops.convert_to_numpy(similarity_map(kernel, axis, blocks))
    similarities = similarities.astype("float64")
    pairs = similarities[np.triu_indices_from(similarities, k=1)]
    return np.clip(pairs, -1.0, 1.0)  # rounding puts equal neurons at 1.0000001
