"""The penalty that keeps new neurons different (Eq. 5), of any measure of their similarity."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_grow.penalty.measures import MEASURES, Measure
from keras_grow.penalty.similarity import (
    FORMS,
    mean_over_pairs,
    neuron_columns,
    off_diagonal,
    smallest_square,
    unit_columns,
    weight_drift,
)
from keras_grow.utils.checks import check_bool, check_choice, check_number, check_positive_int

REFERENCES = ("step", "growth")
PER = ("pair", "neuron")

# How far equal neurons are looked at from different directions, to part them.
_TIE_BREAK = 1e-4
_GOLDEN_RATIO = (math.sqrt(5) - 1) / 2


class PenaltyTerms(NamedTuple):
    """What `SimilarityPenalty` returns.

    Args:
        loss: The penalty (Eq. 5), to be added to the task loss (of a `relative` one, its product
            with the loss). float32 scalar.
        similarity: Its first term without its weight: with `per="pair"` the mean over the layers of
            Eq. 2. float32 scalar.
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

    `weight * similarity + weight_sum * (mean over the layers of Eq. 4)`, added to the task loss for
    some epochs after each growth: neurons that have just been copied or split are pushed apart,
    while the sum of each layer's weights changes slowly. As the paper has it, the similarity is the
    mean over the layers of Eq. 2; so are the defaults of this class.

    The gradient of Eq. 2 vanishes where two neurons are parallel, and its mean over all pairs pulls
    on each neuron the less the more there are. So copies stay copies. `measure="angle",
    per="neuron"` parts them. The default of `GrowthCallback` is
    `SimilarityPenalty(0.05, weight_sum=0.0, measure="angle", per="neuron", relative=True)`.

    Args:
        weight: Weight of the similarity, at least 0.
        weight_sum: Weight of the change of the sum of weights (Eq. 4), lambda in the paper, at
            least 0.
        epochs: Number of epochs after each growth in which the penalty is part of the loss, N in
            the paper. The next growth ends it early.
        form: "absolute" for |log |r|| in Eq. 4, "signed" for log |r| as printed.
        reference: What the sum of weights is compared with: "step" for the weights before the last
            update, "growth" for those just after the growth.
        measure: What a pair of neurons of cosine similarity C costs. "cosine": |C|, as in Eq. 2.
            "energy": -log(1 - C^2), the logarithmic energy of points on a sphere that stand for
            lines, which pulls the more the nearer two neurons are. "angle": how far the angle
            between them is from a right one, of a pull that is the same at every angle. The last
            two take 1.001 for 1, so that copies cost and pull finitely, and equal neurons are
            parted along a fixed direction.
        per: "pair" for the mean over the pairs of a layer, then over the layers, as in Eq. 2 and 5.
            "neuron" for the mean over the others for each neuron, summed over the neurons of all
            layers, times 1 - n / d in a layer of n neurons of d weights each, 0 for n >= d (most
            depthwise kernels, hidden layers no narrower than their inputs): more neurons than
            weights can't be at right angles, and as many could only by filling their whole space,
            whatever they have learned. Where n is small beside d, a weight pulls on each neuron as
            much at any width and depth.
        relative: Whether the weights are multiplied with the training loss of each step where it
            is below 1 (its absolute value, regularizers included, a constant for the gradient), so
            that a penalty doesn't outweigh a task of small loss. It is the model that multiplies,
            in `compute_loss`; what this class returns, and what the logs have, is without it.

    Raises:
        TypeError: if a weight is not a number, `epochs` not an integer or `relative` not a bool.
        ValueError: if a weight is negative or not finite, `epochs` is not positive, or one of the
            other arguments is unknown.

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

    Reference:

    - Sakai and Hotta, Eq. 5.
    - Liu et al., Learning towards Minimum Hyperspherical Energy, 2018 ("energy").
    """

    weight: float = 1.0
    weight_sum: float = 0.01
    epochs: int = 15
    form: str = "absolute"
    reference: str = "step"
    measure: str = "cosine"
    per: str = "pair"
    relative: bool = False

    def __post_init__(self):
        check_number("weight", self.weight)
        check_number("weight_sum", self.weight_sum)
        check_positive_int("epochs", self.epochs)
        check_choice("form", self.form, FORMS)
        check_choice("reference", self.reference, REFERENCES)
        check_choice("measure", self.measure, MEASURES)
        check_choice("per", self.per, PER)
        check_bool("relative", self.relative)

    def __call__(
        self,
        kernels: Sequence[Any],
        axes: Sequence[int],
        reference_sums: Any,
        blocks: Sequence[int] | None = None,
    ) -> PenaltyTerms:
        """Computes the penalty.

        Its second derivatives are not those of its value: the first ones are computed in closed
        form.

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
        similarity = self._similarity(groups)
        sums = _per_layer(lambda group: ops.sum(group.columns, (-2, -1)), groups)
        abs_sums = _per_layer(lambda group: ops.sum(ops.abs(group.columns), (-2, -1)), groups)
        previous = ops.take(ops.convert_to_tensor(reference_sums, "float32"), order)
        drift = ops.mean(weight_drift(sums, previous, abs_sums, self.form))
        loss = _weighted(self.weight, similarity) + _weighted(self.weight_sum, drift)
        back = sorted(range(len(order)), key=order.__getitem__)
        return PenaltyTerms(loss, similarity, drift, ops.take(ops.stop_gradient(sums), back))

    def _similarity(self, groups: Sequence[_Group]) -> Any:
        measure = MEASURES[self.measure]
        if self.per == "pair":
            return ops.mean(_per_layer(lambda group: _mean_measure(group, measure), groups))
        parts = [
            neurons * ops.sum(_mean_measure(group, measure))
            for group in groups
            if (neurons := _neurons_with_room(group))
        ]
        return sum(parts, start=ops.zeros((), "float32"))

    def get_config(self) -> dict:
        """Returns the arguments, as plain Python values."""
        return {
            "weight": float(self.weight),
            "weight_sum": float(self.weight_sum),
            "epochs": int(self.epochs),
            "form": self.form,
            "reference": self.reference,
            "measure": self.measure,
            "per": self.per,
            "relative": bool(self.relative),
        }

    @classmethod
    def from_config(cls, config: dict) -> SimilarityPenalty:
        """Makes a penalty from what `get_config` returned."""
        return cls(**config)


# Penalties by name. Where the default's weight comes from: docs/results.md.
PENALTIES = {
    "default": SimilarityPenalty(
        weight=0.05, weight_sum=0.0, measure="angle", per="neuron", relative=True
    ),
    "paper": SimilarityPenalty(),
}


class _Group(NamedTuple):
    """Kernels of equal shape, stacked: columns of shape `(layers, rest, neurons)`, float32."""

    layers: list[int]
    columns: Any
    smallest_square: float


def _stack_equal_shapes(
    kernels: Sequence[Any], axes: Sequence[int], blocks: Sequence[int]
) -> list[_Group]:
    """Stacks the kernels that have as many rows and columns: one operation serves all of them."""
    groups: dict[tuple, list[tuple[int, Any]]] = {}
    for layer, (kernel, *neurons) in enumerate(zip(kernels, axes, blocks, strict=True)):
        columns = neuron_columns(kernel, *neurons)
        key = (*columns.shape, smallest_square(columns))
        groups.setdefault(key, []).append((layer, ops.cast(columns, "float32")))
    return [
        _Group([layer for layer, _ in group], ops.stack([c for _, c in group]), key[-1])
        for key, group in groups.items()
    ]


def _neurons_with_room(group: _Group) -> float:
    """Returns n (1 - n / d) for n neurons of d weights each, or 0 where they fill their space."""
    weights, neurons = group.columns.shape[-2:]
    return neurons * max(0.0, 1 - neurons / weights)


def _per_layer(function: Callable[[_Group], Any], groups: Sequence[_Group]) -> Any:
    """Returns the values of a function of each group in one vector, in the order of the groups."""
    return ops.concatenate([function(group) for group in groups])


def _mean_measure(group: _Group, measure: Measure) -> Any:
    """Computes the mean over the pairs of each kernel of a group, with its gradient in closed form.

    With u the unit columns, C = u^T u and f the measure, the gradient with respect to column w_i is
    2 / (n (n - 1)) * (sum_j f'(C_ij) u_j - u_i sum_j f'(C_ij) C_ij) / |w_i|, over j != i: one more
    matrix product, where differentiating each operation takes two and a dozen small ones, in every
    training step.
    """
    constant = ops.stop_gradient(group.columns)
    unit, inverse = unit_columns(constant, group.smallest_square)
    cosines = off_diagonal(ops.matmul(ops.swapaxes(unit, -2, -1), unit))
    slopes = measure.slope(cosines)
    neurons = cosines.shape[-1]
    seen = unit + _TIE_BREAK * _directions(*unit.shape[-2:]) if measure.parts_copies else unit
    gradient = ops.matmul(seen, slopes)
    gradient -= unit * ops.sum(slopes * cosines, axis=-2, keepdims=True)
    gradient *= inverse * (2 / max(neurons * (neurons - 1), 1))
    # Adds zero, with the gradient for its gradient. (`keras.ops.custom_gradient` is no shorter and
    # no faster, and not every backend has it.)
    zero = ops.sum((group.columns - constant) * gradient, (-2, -1))
    return mean_over_pairs(measure.value(cosines)) + zero


def _directions(rest: int, neurons: int) -> np.ndarray:
    """Returns where equal neurons go: unit columns along one line, each neuron as far as no other.

    Neurons that are equal to the last bit have equal gradients, whatever the measure.
    """
    line = np.where(np.arange(rest) % 2, -1.0, 1.0) / math.sqrt(rest)
    far = 2 * (np.arange(neurons) * _GOLDEN_RATIO % 1) - 1
    return np.outer(line, far).astype("float32")


def _weighted(weight: float, term: Any) -> Any:
    """Returns weight * term; a term of no weight has no gradient to compute either."""
    return float(weight) * (term if weight else ops.stop_gradient(term))


def _check_lengths(kernels: Sequence[Any], axes: Sequence[int], sums: Any) -> None:
    if not kernels:
        raise ValueError("`kernels` must hold at least one kernel. Received: kernels=[]")
    shape = tuple(ops.shape(ops.convert_to_tensor(sums)))
    if len(axes) != len(kernels) or shape != (len(kernels),):
        raise ValueError(
            "`axes` and `reference_sums` must have one entry per kernel. Received: "
            f"{len(kernels)} kernels, {len(axes)} axes, reference_sums of shape {shape}"
        )
