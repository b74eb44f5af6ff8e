"""The network with every candidate switched on at once, differentiable in what they add.

A candidate network is a copy of the model in which each group is widened from n to 2n + p channels:
every neuron split in two, and a pool of p fresh ones. The widenings are those of
`keras_grow.widening`, on tensors instead of arrays, so that what is committed afterwards is a
selection of what was scored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import keras
import numpy as np

from keras_grow.backend import compiled_gradient, vjp
from keras_grow.channels.graph import ChannelGraph, find_groups
from keras_grow.core.widening import (
    AxisChannels,
    Widening,
    gather_index,
    group_positions,
    widen_array,
)
from keras_grow.growing.conversion import copy_in_float32
from keras_grow.growing.resizing import widen_model
from keras_grow.methods.base import draw

Tensors = dict[str, keras.Variable]


@dataclass(frozen=True)
class GroupCandidates:
    """The candidates of one group: a split of each of its neurons, and a pool of fresh ones.

    Attributes:
        group: Name of the group.
        width: Number of its neurons.
        pool: Number of fresh neurons.
        directions: Path of each producing kernel -> the direction of each neuron's split.
        incoming: Path of each producing kernel -> the weights into the fresh neurons.
        carried: Path of each other variable that the channels run through -> its values for them.
        outgoing: Path of each consuming kernel -> the weights out of the fresh neurons.
    """

    group: str
    width: int
    pool: int
    directions: Tensors
    incoming: Tensors
    carried: Tensors
    outgoing: Tensors

    @property
    def trained(self) -> tuple[Tensors, Tensors, Tensors]:
        """What is trained: directions, weights into the fresh neurons, weights out of them."""
        return self.directions, self.incoming, self.outgoing

    @property
    def added(self) -> Tensors:
        """Everything that the fresh neurons bring along on the producing side."""
        return {**self.incoming, **self.carried}

    @property
    def sources(self) -> np.ndarray:
        """Sources of the candidate network's channels: originals, copies, fresh ones."""
        return np.r_[np.arange(self.width), np.arange(self.width), np.full(self.pool, -1)]

    @property
    def scale(self) -> np.ndarray:
        """Their outgoing scale: both halves of a split take half of the weights."""
        return np.r_[np.full(2 * self.width, 0.5), np.ones(self.pool)]

    @property
    def sides(self) -> np.ndarray:
        """+1 where a channel takes the direction of its split, -1 where its negative."""
        return np.r_[np.ones(self.width), -np.ones(self.width), np.zeros(self.pool)]


class CandidateNetwork:
    """A model with all candidates of all groups, to be trained and scored.

    Args:
        graph: The channel groups of the model.
        pools: Group name -> number of fresh candidates.
        rng: The source of the first directions and weights.
    """

    def __init__(self, graph: ChannelGraph, pools: Mapping[str, int], rng: np.random.Generator):
        self.graph = graph
        self.model = graph.model
        self.groups = {name: self._candidates(name, pools[name], rng) for name in graph.growable}
        self._items = [
            item
            for item in graph.variables
            if any(s.group in self.groups for axis in item.axes for s in axis.segments)
        ]
        self.network = self._widened_copy()
        self._targets = {v.path: v for v in self.network.variables}
        self._statistics = list(self._find_statistics())
        self._slopes = compiled_gradient(self._loss)
        self.trained = [
            v for g in self.groups.values() for part in g.trained for v in part.values()
        ]

    def _candidates(self, group, pool, rng) -> GroupCandidates:
        width = self.graph.groups[group].width
        bare = Widening(group, np.r_[np.arange(width), np.full(pool, -1)])
        directions, incoming, carried, outgoing = {}, {}, {}, {}
        for item, axis in self.graph.touching(group, "output", "through"):
            fresh = self._fresh(item, axis, bare, rng)
            if axis.role == "output" and item.name == "kernel":
                incoming[item.path] = fresh
                directions[item.path] = _variable(rng.normal(size=tuple(item.variable.shape)), "v")
            else:
                carried[item.path] = fresh
        for item, axis in self.graph.touching(group, "input"):
            outgoing[item.path] = self._fresh(item, axis, bare, rng)
        return GroupCandidates(group, width, pool, directions, incoming, carried, outgoing)

    def _fresh(self, item, axis, bare, rng) -> keras.Variable:
        """Draws the fresh channels' part of a variable as its layer would."""
        positions = fresh_positions(axis, bare)
        values = np.take(draw(item, axis, bare, rng), positions, axis=axis.axis)
        return _variable(values, item.name)

    def _widened_copy(self) -> keras.Model:
        copy = copy_in_float32(self.model)
        widenings = [Widening(g.group, g.sources, g.scale) for g in self.groups.values()]
        widen_model(copy, find_groups(copy), widenings)
        return copy

    def _widening(self, g: GroupCandidates) -> Widening:
        bare = Widening(g.group, g.sources, g.scale)
        incoming, outgoing = {}, {}
        for item, axis in self.graph.touching(g.group, "output", "through"):
            added = spread_fresh(g.added[item.path], axis, bare)
            if item.path in g.directions:
                index = np.maximum(g.sources, 0)
                sides = _along(g.sides.astype("float32"), axis.axis, len(item.variable.shape))
                direction = keras.ops.convert_to_tensor(g.directions[item.path])
                added = added + keras.ops.take(direction, index, axis=axis.axis) * sides
            incoming[item.path] = added
        for item, axis in self.graph.touching(g.group, "input"):
            outgoing[item.path] = spread_fresh(g.outgoing[item.path], axis, bare)
        return Widening(g.group, g.sources, g.scale, incoming, outgoing)

    def values(self) -> list:
        """Returns the variables of the copy, of the candidates' present values."""
        widenings = {name: self._widening(group) for name, group in self.groups.items()}
        return [
            widen_array(
                keras.ops.convert_to_tensor(item.variable), item.axes, widenings, path=item.path
            )
            for item in self._items
        ]

    def _values_of(self, *trained) -> list:
        """Returns the variables of the copy, of given values of what is trained."""
        with keras.StatelessScope(state_mapping=list(zip(self.trained, trained, strict=True))):
            return self.values()

    def _scope(self, values: list) -> keras.StatelessScope:
        """Returns the scope in which the copy computes with given values."""
        targets = [self._targets[item.path] for item in self._items]
        return keras.StatelessScope(state_mapping=list(zip(targets, values, strict=True)))

    def _loss(self, values: list, x, y, sample_weight):
        """The task loss of a batch, with all candidates on, normalisations in inference form."""
        with self._scope(values):
            predicted = self.network(x, training=False)
        return self.model.task_loss(x, y, predicted, sample_weight)

    def gradients(self, batch: tuple) -> dict[int, np.ndarray]:
        """Returns the gradient of the loss with respect to each trained variable, by its id."""
        values, pullback = vjp(self._values_of, [v.value for v in self.trained])
        gradients = map(keras.ops.convert_to_numpy, pullback(self._slopes(values, *batch)))
        return {id(v): value for v, value in zip(self.trained, gradients, strict=True)}

    def measure_statistics(self, batch: tuple) -> None:
        """Sets the fresh channels' batch statistics to those of a batch.

        One pass for each normalisation in a row within a group: the second one sees what the
        first makes of its channels.
        """
        if not self._statistics:
            return
        layers = list({layer.name: layer for layer, *_ in self._statistics}.values())
        probe = keras.Model(self.network.input, [layer.input for layer in layers])
        names = {layer.name for layer in layers}
        groups = self.graph.growable.values()
        for _ in range(max(sum(name in names for name in group.layers) for group in groups)):
            with self._scope(self.values()):
                inputs = keras.tree.flatten(probe(batch[0], training=False))
            moments = {
                layer.name: _moments(layer, x) for layer, x in zip(layers, inputs, strict=True)
            }
            for layer, name, variable, positions in self._statistics:
                variable.assign(moments[layer.name][name][positions])

    def _find_statistics(self) -> Iterable[tuple]:
        """Yields (normalisation, statistic, what holds it for the fresh channels, positions)."""
        bare = {name: Widening(name, g.sources) for name, g in self.groups.items()}
        for g in self.groups.values():
            for item, axis in self.graph.touching(g.group, "through"):
                if item.name in ("moving_mean", "moving_variance"):
                    positions = group_positions(axis.segments, bare, g.group)
                    positions = positions[fresh_positions(axis, bare[g.group])]
                    layer = self.network.get_layer(item.layer.name)
                    yield layer, item.name, g.carried[item.path], positions


def _moments(layer: keras.layers.Layer, inputs) -> dict[str, np.ndarray]:
    """Returns the statistics of a batch, less the values that fresh channels start with."""
    value = keras.ops.cast(inputs, "float32")
    axes = [axis for axis in range(len(value.shape)) if axis != layer.axis % len(value.shape)]
    mean, variance = keras.ops.moments(value, axes)
    mean, variance = keras.ops.convert_to_numpy(mean), keras.ops.convert_to_numpy(variance)
    return {"moving_mean": mean, "moving_variance": variance - 1}


def fresh_positions(axis: AxisChannels, widening: Widening) -> np.ndarray:
    """Returns where, among a group's positions along an axis, its fresh channels lie."""
    chosen = {widening.group: widening}
    index = gather_index(axis.segments, chosen)
    return np.flatnonzero(index[group_positions(axis.segments, chosen, widening.group)] < 0)


def channel_numbers(axis: AxisChannels, group: str, width: int) -> np.ndarray:
    """Returns the channel at each of a group's positions along an axis."""
    return np.concatenate(
        [np.repeat(np.arange(width), s.repeat) for s in axis.segments if s.group == group]
    )


def spread_fresh(fresh, axis: AxisChannels, widening: Widening):
    """Lays the fresh channels' values out among all positions of their group; zeros elsewhere."""
    positions = fresh_positions(axis, widening)
    length = sum(s.repeat for s in axis.segments if s.group == widening.group) * widening.width
    index = np.full(length, len(positions))
    index[positions] = np.arange(len(positions))
    fresh = keras.ops.convert_to_tensor(fresh)
    shape = list(fresh.shape)
    shape[axis.axis] = 1
    padded = keras.ops.concatenate([fresh, keras.ops.zeros(shape, fresh.dtype)], axis.axis)
    return keras.ops.take(padded, index, axis=axis.axis)


def select(
    network: CandidateNetwork,
    chosen: Mapping[str, tuple[Sequence[int], Sequence[int]]],
    unhelpful: Mapping[str, int],
) -> list[Widening]:
    """Turns chosen candidates into widenings of the model.

    Args:
        network: The candidate network.
        chosen: Group name -> (neurons to split, numbers of the fresh neurons to take).
        unhelpful: Group name -> how many of them were taken without a helping score.
    """
    return [
        replace(
            _commit(network, network.groups[name], np.array(splits, int), np.array(fresh, int)),
            unhelpful=unhelpful[name],
        )
        for name, (splits, fresh) in chosen.items()
        if len(splits) + len(fresh)
    ]


def _commit(network, g: GroupCandidates, splits, fresh) -> Widening:
    """A widening of the chosen candidates of one group: a part of the candidate widening."""
    n = g.width
    whole = network._widening(g)
    channels = np.r_[np.arange(n), n + splits, 2 * n + fresh]  # of the candidate network
    active = np.isin(channels % n, splits) & (channels < 2 * n)
    scale = np.where(active, 0.5, 1.0)
    bare, full = Widening(g.group, g.sources[channels]), Widening(g.group, g.sources)
    incoming, outgoing = {}, {}
    for item, axis in network.graph.touching(g.group, "output", "through"):
        kept = active | (channels >= 2 * n)  # what is neither split nor fresh stays as it is
        incoming[item.path] = _pick(whole.incoming[item.path], axis, full, channels, kept)
    for item, axis in network.graph.touching(g.group, "input"):
        kept = channels >= 2 * n
        outgoing[item.path] = _pick(whole.outgoing[item.path], axis, full, channels, kept)
    return Widening(g.group, bare.sources, scale, incoming, outgoing)


def _pick(added, axis: AxisChannels, full: Widening, channels, kept) -> np.ndarray:
    """Takes some channels of what a candidate widening adds, and zeroes those not kept."""
    index, mask, offset = [], [], 0
    for repeat in (s.repeat for s in axis.segments if s.group == full.group):
        index.append((offset + channels[:, None] * repeat + np.arange(repeat)).ravel())
        mask.append(np.repeat(kept, repeat))
        offset += full.width * repeat
    taken = np.take(keras.ops.convert_to_numpy(added), np.concatenate(index), axis=axis.axis)
    return taken * _along(np.concatenate(mask).astype("float32"), axis.axis, taken.ndim)


def _along(vector: np.ndarray, axis: int, rank: int) -> np.ndarray:
    shape = [1] * rank
    shape[axis] = -1
    return vector.reshape(shape)


def _variable(value: np.ndarray, name: str) -> keras.Variable:
    return keras.Variable(np.asarray(value, "float32"), name=name)
