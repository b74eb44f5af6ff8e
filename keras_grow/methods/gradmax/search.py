"""The search for the weights of GradMax's new neurons, in all groups at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np

from keras_grow.backend import compiled_gradient
from keras_grow.channels.graph import ChannelGraph
from keras_grow.core.widening import Widening
from keras_grow.methods.base import draw
from keras_grow.methods.gradmax.fresh_norms import FoldedNorm, FreshNorms
from keras_grow.methods.gradmax.fresh_weights import (
    Arrays,
    FreshWeights,
    Widenings,
    largest_singular_value,
    polar,
)
from keras_grow.methods.scoring_data import examples_in
from keras_grow.methods.widened_copy import WidenedCopy
from keras_grow.utils.progress import Progress

# The side that may enter with zero weights -> the other one.
SIDES = {"outgoing": "incoming", "incoming": "outgoing"}
# Weights of the zero side while the other side's gradient is taken, relative to the present
# neurons': small enough to leave the network as it is, large enough for half precision.
_PROBE = 1e-3
# How much of a direction stays in a step, relative to the largest singular value of the gradient:
# what carries no gradient then stays as it was drawn, and is not left to rounding.
_INERTIA = 1e-4
_NOT_FINITE = (
    "The {} NaN or infinite on the training data. Check the data and the learning rate; the model "
    "is unchanged."
)


class FreshNeurons:
    """The fresh neurons of one group, while their weights are searched for.

    Args:
        graph: The channel groups of the model.
        group: Name of the group.
        count: Number of neurons to add.
        norm: Norm of their weights, relative to the present neurons'.
        folded: The normalisations of the model that are folded.
        rng: The source of the first weights.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        group: str,
        count: int,
        norm: float,
        folded: Sequence[FoldedNorm],
        rng: np.random.Generator,
    ):
        width = graph.groups[group].width
        self.bare = Widening(group, np.r_[np.arange(width), np.full(count, -1)])
        self._into = FreshWeights(graph, self.bare, "output")
        self._out_of = FreshWeights(graph, self.bare, "input")
        self._carried = {
            item.path: draw(item, axis, self.bare, rng)
            for item, axis in graph.touching(group, "output", "through")
            if item.path not in self._into.columns
        }
        self.norms = FreshNorms(graph, self.bare, self._into, folded, self._carried, norm)
        self._norm = norm
        self.enter_by("outgoing", rng)

    def enter_by(self, zero: str, rng: np.random.Generator) -> None:
        """Starts the search anew, with zero weights on the given side."""
        self._zero = zero
        sides = {"incoming": self._into, "outgoing": self._out_of}
        self._zero_side, self._searched = sides[zero], sides[SIDES[zero]]
        self._length = self._norm * self._searched.norm
        self._weights = polar(rng.normal(size=self._searched.zeros.shape), self._length)
        self._probe = self._zero_side.zeros
        self._best = (-1.0, self._weights)

    def widening(self) -> Widening:
        """Returns the present state as a widening."""
        added = {
            self._zero: self._zero_side.kernels(self._probe),
            SIDES[self._zero]: self._searched.kernels(self._weights),
        }
        incoming = {**self._carried, **added["incoming"]}
        return Widening(
            self.bare.group, self.bare.sources, incoming=incoming, outgoing=added["outgoing"]
        )

    def takes_zero_incoming(self, gradients: Arrays, widenings: Widenings) -> bool:
        """Tells whether neurons without incoming weights put out nothing, and yet learn."""
        learns = np.any(self._into.matrix(gradients, widenings))
        puts_out = np.any(self._out_of.matrix(gradients, widenings))
        return bool(learns and not puts_out)

    def take_gradient(self, gradients: Arrays, widenings: Widenings) -> None:
        """Takes the gradient of the zero side, and sets that side to a little of it."""
        gradient = self._zero_side.matrix(gradients, widenings)
        squared_norm = float(np.sum(gradient**2))
        if not np.isfinite(squared_norm):
            raise ValueError(_NOT_FINITE.format("gradient of the loss is"))
        if squared_norm > self._best[0]:
            self._best = (squared_norm, self._weights)
        largest = np.max(np.linalg.norm(gradient, axis=1)) or 1.0
        self._probe = gradient * (_PROBE * self._zero_side.norm / largest)

    def ascend(self, gradients: Arrays, widenings: Widenings) -> None:
        """Takes a step on the side that is searched, given its gradient."""
        gradient = self._searched.matrix(gradients, widenings)
        if self.norms.folded:
            gradient += self.norms.gradients_through_means(gradients, widenings)
        largest = largest_singular_value(gradient) or 1.0
        inertia = _INERTIA * largest / self._length
        self._weights = polar(gradient + inertia * self._weights, self._length)
        self._probe = self._zero_side.zeros

    def center(self) -> None:
        """Sets the means right after kernels to those that follow from the means of the inputs."""
        self.norms.center(self._weights)

    def finish(self) -> None:
        """Ends the search at the best weights seen."""
        self._weights, self._probe = self._best[1], self._zero_side.zeros
        self.norms.free()


class FreshNetwork:
    """A copy of the model with the fresh neurons of all groups, and the batches to score on.

    Args:
        graph: The channel groups of the model.
        groups: The fresh neurons of each group that grows.
        batches: Batches `(x, y, sample_weight)`.
        progress: Told of every batch of which a gradient is taken.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        groups: Sequence[FreshNeurons],
        batches: Sequence[tuple],
        progress: Progress,
    ):
        self._groups, self._batches, self._progress = groups, batches, progress
        self._bare = {group.bare.group: group.bare for group in groups}
        self._copy = WidenedCopy(graph, self._bare.values())
        self._folded = {folded.norm for group in groups for folded in group.norms.folded}
        self._loss_gradient = compiled_gradient(self._copy.loss)
        self._means_gradient = compiled_gradient(self._sum_of_means)

    def _sum_of_means(self, values: Sequence, x: Any) -> Any:
        """The sum over examples of the means of what goes into the folded normalisations: its
        gradient with respect to a kernel holds the means of what the kernel's weights multiply.
        """
        total = 0.0
        for norm, value, axes in self._copy.norm_inputs(values, x):
            if norm in self._folded:
                per_example = keras.ops.mean(value, axis=axes[1:])
                total += keras.ops.sum(per_example)
        return total

    def _values(self) -> list:
        """Returns the values of the copy's weights with the groups in their present state."""
        widenings = {group.bare.group: group.widening() for group in self._groups}
        values = self._copy.values(self._copy.present, widenings)
        return [keras.ops.convert_to_tensor(value) for value in values]

    def _gradients(self) -> dict[str, np.ndarray]:
        """Returns the gradient of the loss by each weight, summed over the batches."""
        values = self._values()
        return self._summed(self._loss_gradient(values, *batch) for batch in self._batches)

    def _summed(self, gradients: Iterable[Sequence]) -> dict[str, np.ndarray]:
        total = [0.0] * len(self._copy.paths)
        for of_batch in gradients:
            self._progress.advance()
            of_batch = [keras.ops.convert_to_numpy(g).astype("float64") for g in of_batch]
            total = [sum(pair) for pair in zip(total, of_batch, strict=True)]
        return dict(zip(self._copy.paths, total, strict=True))

    def find_input_means(self) -> None:
        """Finds the means of the inputs of layers that a normalisation follows."""
        if self._folded:
            values = self._values()
            gradients = self._summed(self._means_gradient(values, x) for x, *_ in self._batches)
            examples = sum(map(examples_in, self._batches))
            for group in self._groups:
                group.norms.take_input_means(gradients, self._bare, examples)

    def try_zero_incoming(self, rng: np.random.Generator) -> None:
        """Has the groups that can do so enter with zero incoming weights."""
        tried = [group for group in self._groups if not group.norms.places]
        for group in tried:
            group.enter_by("incoming", rng)
        gradients = self._gradients()
        for group in tried:
            if not group.takes_zero_incoming(gradients, self._bare):
                group.enter_by("outgoing", rng)

    def take_gradients(self) -> None:
        """Has every group take the gradient of its zero side."""
        self._measure(self._batches[:1])
        for group in self._groups:
            group.center()
        gradients = self._gradients()
        for group in self._groups:
            group.take_gradient(gradients, self._bare)

    def ascend(self) -> None:
        """Has every group take a step."""
        gradients = self._gradients()
        for group in self._groups:
            group.ascend(gradients, self._bare)

    def widenings(self) -> list[Widening]:
        """Returns the best that was found, with statistics measured on all batches."""
        for group in self._groups:
            group.finish()
        self._measure(self._batches)
        return [group.widening() for group in self._groups]

    def _measure(self, batches: Sequence[tuple]) -> None:
        """Measures the statistics of fresh channels.

        One pass for each normalisation in a row within a group: the second one sees what the
        first makes of its channels.
        """
        for _ in range(max(len(group.norms.places) for group in self._groups)):
            measured = self._copy.measure(self._values(), batches)
            if not all(np.all(np.isfinite(v)) for m in measured.values() for v in m.values()):
                raise ValueError(_NOT_FINITE.format("inputs of a normalisation are"))
            for group in self._groups:
                group.norms.take_statistics(measured, self._bare)
