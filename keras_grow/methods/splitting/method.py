"""Splitting steepest descent: neurons become two where the loss bends downwards between them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import keras
import numpy as np

from keras_grow.backend import compiled, vjp
from keras_grow.channels.budget import Budget
from keras_grow.channels.graph import ChannelGraph
from keras_grow.core import keras_private
from keras_grow.core.float32_copy import in_float32
from keras_grow.core.index_maps import (
    AxisChannels,
    along,
    channel_numbers,
    gather_index,
    run_of,
)
from keras_grow.core.widening import Widening
from keras_grow.methods.base import GrowthMethod
from keras_grow.methods.scoring_data import examples_in
from keras_grow.methods.splitting.curvature import (
    Factors,
    ScorableLayer,
    find_scorable_layers,
    products_with,
    smallest_eigenpairs,
)
from keras_grow.utils.checks import check_number, check_positive_int
from keras_grow.utils.progress import Progress

# Examples per pass: enough to keep the machine busy, few enough to bound the memory.
_CHUNK = 64


class Splitting(GrowthMethod):
    """Splits the neurons whose splitting lowers the loss the most, to second order.

    A neuron with weights W becomes two, with W + step * v and W - step * v and half of the
    outgoing weights each; everything else about it is copied. To first order this changes nothing.
    To second order it changes the loss by `step ** 2 / 2 * v S v`, with the neuron's *splitting
    matrix*

        S = mean over examples of sum over positions of  dL/da * sigma''(u) * b^2 * x x^T

    where x is what the neuron's kernel is multiplied with, b the scale of the batch normalisation
    (in inference form), u the input of the activation sigma, and a its output. So v is the
    eigenvector of the smallest eigenvalue, and the neurons with the most negative ones over all
    groups are split.

    It is computed from one pass over a fixed sample of the data, by Lanczos iterations that only
    multiply with S, in float32 whatever the precision of the model.

    A group can be scored if one dense layer, convolution or EinsumDense produces it, with one
    activation (its own, or a layer's) directly or after batch normalisation, and if a neuron is one
    channel of it, not several that grow together. What follows in the
    group, such as depthwise layers, is copied; further activations there count as linear around the
    present point, as a ReLU is. Neurons of other groups (those tied by a residual
    addition, say), neurons whose eigenvalue isn't negative and third copies are taken only where
    the budget can't be filled otherwise, and `Widening.unhelpful` counts them.

    Args:
        step: Norm of the step between a neuron and its halves. Defaults to 0.1; the published
            code takes 0.01, which changes the loss a hundred times less.
        examples: Number of examples to compute the splitting matrices on. Defaults to 256.
        iterations: The most Lanczos iterations. Defaults to 10.
        seed: Integer seed. Defaults to one drawn from Python's random state.

    Raises:
        TypeError: if an argument isn't a number.
        ValueError: if an argument isn't positive.

    Example:

    >>> import keras_grow
    >>> from keras_grow.methods.splitting.method import Splitting
    >>> Splitting(examples=512, seed=1).get_config()
    {'seed': 1, 'step': 0.1, 'examples': 512, 'iterations': 10}

    Reference:
        Liu, Wu and Wang, Splitting Steepest Descent for Growing Neural Architectures, 2019.
    """

    name = "splitting"
    needs_data = True

    def __init__(
        self,
        step: float = 0.1,
        examples: int = 256,
        iterations: int = 10,
        seed: int | None = None,
    ):
        super().__init__(seed)
        self.step = check_number("step", step, positive=True)
        self.examples = check_positive_int("examples", examples)
        self.iterations = check_positive_int("iterations", iterations)

    def choose(
        self, graph: ChannelGraph, budget: Budget, rng: np.random.Generator, data=None
    ) -> list[Widening]:
        """Scores every neuron and splits the best. See `GrowthMethod.choose`."""
        pieces = draw_pieces(data, self.examples, rng)
        splits = score_splits(graph, pieces, self.iterations, rng)
        values = {name: split.values for name, split in splits.items()}
        added = allot(values, budget, rng)
        if budget.multiples:
            counts = {name: int(copies.sum()) for name, copies in added.items()}
            added = allot(values, budget.only(budget.rounded(counts)), rng)
        return [
            commit(name, splits[name], copies, self.step)
            for name, copies in added.items()
            if copies.any()
        ]

    def get_config(self) -> dict:
        names = ("step", "examples", "iterations")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


@dataclass(frozen=True)
class Splits:
    """How each neuron of a group would be split.

    Attributes:
        values: The neurons' smallest eigenvalues, of shape `(width,)`; infinite where the group
            can't be scored.
        directions: Path of each producing kernel -> directions of its shape, of norm 1 per neuron.
        axes: Path of each producing kernel -> the axis of its neurons, with no others.
    """

    values: np.ndarray
    directions: dict[str, np.ndarray]
    axes: dict[str, AxisChannels]


def draw_pieces(data: Any, examples: int, rng: np.random.Generator) -> list[tuple]:
    """Draws examples, in pieces of `(x, y, sample_weight)` that bound the memory of a pass.

    Args:
        data: The `ScoringData`.
        examples: Number of examples; fewer where there are no more.
        rng: The source of the draw.
    """
    batches = data.examples(examples, rng)
    pieces, left = [], examples
    for batch in batches:
        size = min(examples_in(batch), left)
        left -= size
        for start in range(0, size, _CHUNK):
            rows = slice(start, min(start + _CHUNK, size))
            pieces.append(keras.tree.map_structure(lambda a, rows=rows: _rows(a, rows), batch))
    return pieces


def _rows(array: Any, rows: slice) -> Any:
    return None if array is None else keras.ops.convert_to_tensor(array[rows])


def score_splits(
    graph: ChannelGraph, pieces: list[tuple], iterations: int, rng: np.random.Generator
) -> dict[str, Splits]:
    """Finds how each neuron would best be split.

    Args:
        graph: The channel groups of the model.
        pieces: Examples, as `draw_pieces` returns them.
        iterations: The most Lanczos iterations.
        rng: The source of the starting vectors, and of the directions of groups without a score.

    Returns:
        Name of the group -> how to split its neurons, for every group that can grow.

    Raises:
        ValueError: if the loss has no finite gradient.
    """
    network = in_float32(graph.model)
    layers = find_scorable_layers(network, graph)
    products = sum(min(layer.dimension, iterations) for layer in layers.values())
    advance = Progress(len(pieces) + products, "product").advance
    factors = find_factors(graph.model, network, layers, pieces, advance)
    splits = {}
    for name in graph.growable:
        splits[name] = _random_splits(graph, name, rng)
        if name in layers:
            own = _finite(name, factors.pop(name))
            values, vectors = _solve(layers[name], own, iterations, rng, advance)
            (path,) = splits[name].directions
            splits[name] = Splits(values, {path: vectors}, splits[name].axes)
    return splits


def _solve(
    layer: ScorableLayer,
    factors: list[Factors],
    iterations: int,
    rng: np.random.Generator,
    advance: Callable,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the smallest eigenvalues of the neurons of a layer, and a kernel of directions."""
    products = products_with(layer, factors)

    def product(vectors):
        advance()
        return products(vectors)

    count, dimension = layer.neurons, layer.dimension
    values, vectors = smallest_eigenpairs(product, count, dimension, iterations, rng)
    return values, layer.as_kernel(vectors)


def _random_splits(graph: ChannelGraph, name: str, rng: np.random.Generator) -> Splits:
    """Draws directions for the neurons of a group, without a score."""
    directions, axes, width = {}, {}, graph.groups[name].width
    for item, axis in graph.kernels(name, "output"):
        numbers = channel_numbers(axis.segments, name, width)
        shape = list(item.variable.shape)
        shape[axis.axis] = len(numbers)
        draw = rng.normal(size=shape)
        others = tuple(a for a in range(draw.ndim) if a != axis.axis % draw.ndim)
        size = np.sqrt(np.bincount(numbers, np.sum(draw**2, axis=others)))[numbers]
        directions[item.path] = draw / along(size, axis.axis, draw.ndim)
        axes[item.path] = replace(axis, segments=run_of(axis.segments, name, width))
    return Splits(np.full(width, np.inf), directions, axes)


def find_factors(
    model: keras.Model,
    network: keras.Model,
    layers: Mapping[str, ScorableLayer],
    pieces: list[tuple],
    advance: Callable[[], None],
) -> dict[str, list[Factors]]:
    """Computes what all splitting matrices are made of, in one pass over the data.

    Args:
        model: The model, for its loss.
        network: The model, or a copy of it, of which the layers are.
        layers: Name of the group -> its layer.
        pieces: Examples, as `draw_pieces` returns them.
        advance: Called after each piece.

    Returns:
        Name of the group -> its factors on each piece.
    """
    if not layers:
        return {}
    run = compiled(partial(_factors, model, network, layers))
    weights = [keras.ops.convert_to_tensor(v) for v in network.weights]
    total = sum(examples_in(piece) for piece in pieces)
    found = defaultdict(list)
    for piece in pieces:
        fraction = examples_in(piece) / total  # the loss is a mean over the examples of a piece
        shifts = _no_shifts(network, layers, piece[0])
        for name, factors in run(weights, shifts, np.float32(fraction), *piece).items():
            found[name].append(factors)
        advance()
    return found


def _no_shifts(network: keras.Model, layers: Mapping[str, ScorableLayer], x: Any) -> list:
    """Returns zeros of the shapes of what comes out of the layers' activations."""
    given = [tuple(t.shape) for t in keras_private.standard_inputs(network, x)]
    shapes = keras_private.shapes_within(network, given)
    outputs = [layer.after for layer in layers.values()]
    return [keras.ops.zeros(shapes[id(tensor)], tensor.dtype) for tensor in outputs]


def _factors(
    model: keras.Model,
    network: keras.Model,
    layers: Mapping[str, ScorableLayer],
    weights: list,
    shifts: list,
    fraction: Any,
    x: Any,
    y: Any,
    sample_weight: Any,
) -> dict[str, Factors]:
    """Computes the factors of all layers on one piece.

    The gradient of the loss with respect to what comes out of an activation is that with respect
    to a shift, of zero, which is added there.
    """
    numbers = {id(layer.after): number for number, layer in enumerate(layers.values())}
    mapping = list(zip(network.weights, weights, strict=True))
    scope = partial(keras.StatelessScope, state_mapping=mapping, collect_losses=True)

    def loss(*shifts):
        def shifted(tensor, value):
            return value + shifts[numbers[id(tensor)]] if id(tensor) in numbers else value

        with scope() as held:
            outputs, values = keras_private.run_calls(network, x, shifted)
        return model.task_loss(x, y, outputs, sample_weight, held.losses), values

    value, pullback, values = vjp(loss, shifts, has_aux=True)
    gradients = pullback(keras.ops.ones_like(value))
    with scope():
        return {
            name: layer.factors(values, keras.ops.cast(fraction, gradient.dtype) * gradient)
            for (name, layer), gradient in zip(layers.items(), gradients, strict=True)
        }


def _finite(name: str, factors: list[Factors]) -> list[Factors]:
    """Returns the factors, or says that they hold no numbers."""
    if not all(bool(keras.ops.all(keras.ops.isfinite(part.weight))) for part in factors):
        raise ValueError(
            f"The gradient of the loss at group '{name}' is not finite, so its neurons can't be "
            "scored. Check the data and the learning rate; the model is unchanged."
        )
    return factors


def allot(
    values: Mapping[str, np.ndarray], budget: Budget, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Decides how many copies each neuron gets: one for each of the best, as far as they go.

    Args:
        values: Name of the group -> the neurons' eigenvalues: the smallest first, infinite ones
            last, equal ones in random order.
        budget: How many copies to give, and where to stop.
        rng: The source of the order of equals.

    Returns:
        Name of the group -> number of copies to add per neuron. Second rounds begin where every
        neuron that can has its copy.
    """
    added = {name: np.zeros(len(v), int) for name, v in values.items()}
    neurons = [(name, i) for name, v in values.items() for i in range(len(v))]
    neurons = [neurons[i] for i in rng.permutation(len(neurons))]
    neurons.sort(key=lambda neuron: values[neuron[0]][neuron[1]])
    widths, left = dict(budget.widths), budget.neurons
    while True:
        before = left
        for name, i in neurons:
            wider = {**widths, name: widths[name] + 1}
            fits = wider[name] - budget.widths[name] <= budget.room[name]
            if left and fits and budget.affordable(wider):
                widths, left = wider, left - 1
                added[name][i] += 1
        if left == before:
            return added


def commit(name: str, splits: Splits, added: np.ndarray, step: float) -> Widening:
    """Makes the widening that splits neurons.

    Args:
        name: Name of the group.
        splits: How to split its neurons.
        added: Number of copies to add, per neuron.
        step: Norm of the step between a neuron and its outermost copies.
    """
    sources = np.concatenate([np.arange(len(added)), np.repeat(np.arange(len(added)), added)])
    offsets = np.zeros(len(sources))
    for neuron in np.flatnonzero(added):  # +1 and -1; evenly in between where there are more
        offsets[sources == neuron] = np.linspace(1, -1, added[neuron] + 1)
    incoming, bare = {}, {name: Widening(name, sources)}
    for path, direction in splits.directions.items():
        axis, segments = splits.axes[path].axis, splits.axes[path].segments
        taken = gather_index(segments, bare)
        steps = offsets[channel_numbers(segments, name, len(sources))]
        moved = np.take(direction, taken, axis=axis) * along(steps, axis, direction.ndim)
        incoming[path] = (step * moved).astype("float32")
    unhelpful = np.sum(np.where(splits.values < 0, np.maximum(added - 1, 0), added))
    return Widening(name, sources, 1 / (added + 1)[sources], incoming, unhelpful=int(unhelpful))
