"""GradMax: new neurons enter where the gradient of their first step is the largest.

One side of a new neuron is zero, so that the network computes what it computed before; the other
side is chosen so that the gradient that the zero side receives is as large as a bound on the norm
allows. With linear activations that gradient is a linear map G of the chosen weights, and over m
orthogonal neurons it is the largest for G's m leading singular vectors. G is never formed: the
products with G and with its transpose, all that an iteration needs, are gradients of the loss of a
widened copy of the network, for all groups at once. So convolutions, pooling, depthwise layers and
residual additions need no rule of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_grow.backend import compiled_gradient
from keras_grow.channels.budget import Budget
from keras_grow.channels.graph import ChannelGraph, find_groups
from keras_grow.core import keras_private
from keras_grow.core.widening import Widening, widen_array
from keras_grow.growing.conversion import copy_in_float32
from keras_grow.growing.resizing import widen_model
from keras_grow.methods.base import GrowthMethod, draw
from keras_grow.methods.gradmax.folds import Fold, FreshNorms, find_folds
from keras_grow.methods.gradmax.rows import Arrays, Side, Widenings, polar
from keras_grow.utils.checks import check_number, check_positive_int
from keras_grow.utils.progress import Progress

_OTHER = {"outgoing": "incoming", "incoming": "outgoing"}
# Weights of the zero side while the other side's gradient is taken, relative to the present
# neurons': small enough to leave the network as it is, large enough for half precision.
_PROBE = 1e-3
# How much of a direction stays in a step, relative to the steepest slope: what carries no gradient
# then stays as it was drawn, and is not left to rounding.
_INERTIA = 1e-4
_NOT_FINITE = (
    "The {} NaN or infinite on the training data. Check the data and the learning rate; the model "
    "is unchanged."
)


class GradMax(GrowthMethod):
    """Adds neurons, in proportion to the widths, whose zero weights get the largest gradient.

    The new neurons of a group get orthogonal weights W of equal norm, by iterating
    `W <- polar(grad_W |g(W)|^2 / 2)`, where g(W) is the gradient of the zero side. With linear
    activations this is subspace iteration, which ends at the singular vectors of the paper; with
    others it climbs what the network will in fact see, and the best of the iterates is kept.

    Batch normalisation right after a layer is folded in: the bound is on kernel * gamma /
    deviation, which is what the network computes with, and the root mean square of the new gammas
    is that of the present ones. New channels enter with the statistics that they have on the
    scoring batches. Their other parameters (biases, depthwise kernels) are drawn by the layers'
    initializers. Where a group gets more neurons than each has weights, they can't all be
    orthogonal, and share the room.

    Args:
        side: The side that enters with zero weights, "outgoing" or "incoming". Groups that can't
            enter with zero incoming weights enter with zero outgoing ones: those with batch
            normalisation, and those whose activation isn't zero, or (as ReLU) has no slope, at
            zero. Defaults to "outgoing".
        norm: Norm of the weights on the other side of each new neuron, and of gamma where it is
            folded in, relative to the mean of the present neurons. Defaults to 1.
        batches: Number of batches that gradients are averaged over. Defaults to 6.
        iterations: Number of iterations. Defaults to 2.
        seed: Integer seed. Defaults to one drawn from Python's random state.

    Raises:
        TypeError: if an argument is of the wrong type.
        ValueError: if an argument is out of its range.

    Example:

    >>> from keras_grow.methods.gradmax.method import GradMax
    >>> GradMax(batches=4, seed=1).get_config()
    {'seed': 1, 'side': 'outgoing', 'norm': 1.0, 'batches': 4, 'iterations': 2}

    Reference:
        Evci et al., GradMax: Growing Neural Networks using Gradient Information, 2022.
    """

    name = "gradmax"
    needs_data = True

    def __init__(
        self,
        side: str = "outgoing",
        norm: float = 1.0,
        batches: int = 6,
        iterations: int = 2,
        seed: int | None = None,
    ):
        super().__init__(seed)
        if not isinstance(side, str) or side not in _OTHER:
            raise ValueError(f"`side` must be one of {list(_OTHER)}. Received: side={side!r}")
        self.side, self.norm = side, check_number("norm", norm, positive=True)
        self.batches = check_positive_int("batches", batches)
        self.iterations = check_positive_int("iterations", iterations)

    def get_config(self) -> dict:
        names = ("side", "norm", "batches", "iterations")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}

    def choose(
        self, graph: ChannelGraph, budget: Budget, rng: np.random.Generator, data=None
    ) -> list[Widening]:
        """Searches for the new neurons' weights. See `GrowthMethod.choose`."""
        added = {name: count for name, count in budget.spread().items() if count}
        if not added:
            return []
        batches = data.batches(self.batches, rng)
        folds = find_folds(graph.model)
        groups = [_Fresh(graph, name, added[name], self.norm, folds, rng) for name in added]
        passes = 2 * self.iterations + 1
        passes += (self.side == "incoming") + any(group.norms.folds for group in groups)
        progress = Progress(passes * len(batches), "batch")
        network = _Network(graph, groups, batches, progress)
        network.find_input_means()
        if self.side == "incoming":
            network.try_zero_incoming(rng)
        for _ in range(self.iterations):
            network.take_responses()
            network.ascend()
        network.take_responses()
        return network.widenings()


class _Fresh:
    """The fresh channels of one group, while their weights are searched for."""

    def __init__(
        self,
        graph: ChannelGraph,
        group: str,
        count: int,
        norm: float,
        folds: Sequence[Fold],
        rng: np.random.Generator,
    ):
        width = graph.groups[group].width
        self.bare = Widening(group, np.r_[np.arange(width), np.full(count, -1)])
        self._into = Side(graph, self.bare, "output")
        self._out_of = Side(graph, self.bare, "input")
        self._carried = {
            item.path: draw(item, axis, self.bare, rng)
            for item, axis in graph.touching(group, "output", "through")
            if item.path not in self._into.columns
        }
        self.norms = FreshNorms(graph, self.bare, self._into, folds, self._carried, norm)
        self._norm = norm
        self.enter_by("outgoing", rng)

    def enter_by(self, zero: str, rng: np.random.Generator) -> None:
        """Starts the search anew, with zero weights on the given side."""
        self._zero = zero
        sides = {"incoming": self._into, "outgoing": self._out_of}
        self._still, self._searched = sides[zero], sides[_OTHER[zero]]
        self._length = self._norm * self._searched.norm
        self._rows = polar(rng.normal(size=self._searched.zeros.shape), self._length)
        self._probe = self._still.zeros
        self._best = (-1.0, self._rows)

    def widening(self) -> Widening:
        """Returns the present state as a widening."""
        added = {
            self._zero: self._still.arrays(self._probe),
            _OTHER[self._zero]: self._searched.arrays(self._rows),
        }
        incoming = {**self._carried, **added["incoming"]}
        return Widening(
            self.bare.group, self.bare.sources, incoming=incoming, outgoing=added["outgoing"]
        )

    def takes_zero_incoming(self, gradients: Arrays, widenings: Widenings) -> bool:
        """Tells whether neurons without incoming weights put out nothing, and yet learn."""
        learns = np.any(self._into.rows(gradients, widenings))
        puts_out = np.any(self._out_of.rows(gradients, widenings))
        return bool(learns and not puts_out)

    def take_response(self, gradients: Arrays, widenings: Widenings) -> None:
        """Takes the gradient of the zero side, and sets that side to a little of it."""
        response = self._still.rows(gradients, widenings)
        height = float(np.sum(response**2))
        if not np.isfinite(height):
            raise ValueError(_NOT_FINITE.format("gradient of the loss is"))
        if height > self._best[0]:
            self._best = (height, self._rows)
        largest = np.max(np.linalg.norm(response, axis=1)) or 1.0
        self._probe = response * (_PROBE * self._still.norm / largest)

    def ascend(self, gradients: Arrays, widenings: Widenings) -> None:
        """Takes a step on the side that is searched, given its gradient."""
        slopes = self._searched.rows(gradients, widenings)
        if self.norms.folds:
            slopes += self.norms.slopes_of_means(gradients, widenings)
        steepest = np.linalg.norm(slopes, 2) or 1.0
        self._rows = polar(slopes + _INERTIA * steepest / self._length * self._rows, self._length)
        self._probe = self._still.zeros

    def center(self) -> None:
        """Sets the means right after kernels to those that follow from the means of the inputs."""
        self.norms.center(self._rows)

    def finish(self) -> None:
        """Ends the search at the best weights seen."""
        self._rows, self._probe = self._best[1], self._still.zeros
        self.norms.free()


class _Network:
    """A copy of the model with the fresh channels of all groups, and the batches to score on."""

    def __init__(
        self,
        graph: ChannelGraph,
        groups: Sequence[_Fresh],
        batches: Sequence[tuple],
        progress: Progress,
    ):
        self._model, self._groups, self._batches = graph.model, groups, batches
        self._progress = progress
        self._bare = {group.bare.group: group.bare for group in groups}
        self._items = [
            item
            for item in graph.variables
            if any(s.group in self._bare for axis in item.axes for s in axis.segments)
        ]
        copy = copy_in_float32(graph.model)
        widen_model(copy, find_groups(copy), list(self._bare.values()))
        twins = {id(v): w for v, w in zip(graph.model.weights, copy.weights, strict=True)}
        self._targets = [twins[id(item.variable)] for item in self._items]
        self._folded = {fold.norm for group in groups for fold in group.norms.folds}
        self._norms = [
            (call.operation, call.inputs[0])
            for call in keras_private.calls_of(copy)
            if any(call.operation.name in group.norms.places for group in groups)
        ]
        self._tapped = keras.Model(copy.input, [copy.output, *(x for _, x in self._norms)])
        self._slopes = compiled_gradient(self._loss)

    def _values(self) -> list[np.ndarray]:
        """Returns the values of the copy's variables with the groups in their present state."""
        widenings = {group.bare.group: group.widening() for group in self._groups}
        return [
            widen_array(item.variable.numpy(), item.axes, widenings, path=item.path)
            for item in self._items
        ]

    def _call(self, values: Sequence, x: Any) -> tuple:
        """Returns the copy's outputs, and what goes into its normalisations."""
        with keras.StatelessScope(state_mapping=list(zip(self._targets, values, strict=True))):
            outputs = self._tapped(x, training=False)
        predicted, *inputs = outputs if self._norms else [outputs]
        return predicted, inputs

    def _loss(self, values: list, x, y, sample_weight):
        """The task loss of a batch; where the last value is 1 and not 0, instead the sum over the
        examples of the means of what goes into the folded normalisations.
        """
        *values, means_instead = values
        predicted, inputs = self._call(values, x)
        loss = self._model.task_loss(x, y, predicted, sample_weight)
        means = 0.0
        for (norm, _), value in zip(self._norms, inputs, strict=True):
            if norm.name in self._folded:
                per_example = keras.ops.mean(value, axis=_beside(norm, value)[1:])
                means += keras.ops.cast(keras.ops.sum(per_example), loss.dtype)
        return loss + keras.ops.cast(means_instead, loss.dtype) * (means - loss)

    def _gradients(self, means_instead: bool = False) -> dict[str, np.ndarray]:
        """Returns the gradient with respect to each variable, summed over the batches."""
        values = [*self._values(), np.float32(means_instead)]
        values = [keras.ops.convert_to_tensor(value) for value in values]
        total: dict[str, np.ndarray] = {}
        for batch in self._batches:
            self._progress.advance()
            for item, slope in zip(self._items, self._slopes(values, *batch), strict=False):
                slope = keras.ops.convert_to_numpy(slope).astype("float64")
                total[item.path] = total.get(item.path, 0.0) + slope
        return total

    def find_input_means(self) -> None:
        """Finds the means of the inputs of layers that a normalisation follows."""
        if self._folded:
            gradients = self._gradients(means_instead=True)
            examples = sum(len(keras.tree.flatten(batch[0])[0]) for batch in self._batches)
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

    def take_responses(self) -> None:
        """Has every group take the gradient of its zero side."""
        self._measure(self._batches[:1])
        for group in self._groups:
            group.center()
        gradients = self._gradients()
        for group in self._groups:
            group.take_response(gradients, self._bare)

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
            values = self._values()
            moments: dict[str, list] = {}
            for x, *_ in batches:
                inputs = self._call(values, x)[1]
                for (norm, _), value in zip(self._norms, inputs, strict=True):
                    value = keras.ops.cast(value, "float32")
                    pair = keras.ops.moments(value, _beside(norm, value))
                    moments.setdefault(norm.name, []).append(
                        [keras.ops.convert_to_numpy(v).astype("float64") for v in pair]
                    )
            measured = {name: _pool(pairs) for name, pairs in moments.items()}
            for group in self._groups:
                group.norms.take_statistics(measured, self._bare)


def _beside(norm: keras.layers.Layer, value: Any) -> list[int]:
    """Returns all axes but the channel axis."""
    rank = len(value.shape)
    return [axis for axis in range(rank) if axis != norm.axis % rank]


def _pool(pairs: list) -> dict[str, np.ndarray]:
    """Returns the mean and the variance over batches, of those of each batch."""
    means, variances = np.array(pairs).transpose(1, 0, 2)
    if not np.all(np.isfinite(means) & np.isfinite(variances)):
        raise ValueError(_NOT_FINITE.format("inputs of a normalisation are"))
    return {"moving_mean": means.mean(0), "moving_variance": variances.mean(0) + means.var(0)}
