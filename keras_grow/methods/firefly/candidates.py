"""The network with every candidate switched on at once, differentiable in what they add.

A candidate network is a copy of the model in which each group is widened from n to 2n + p channels:
every neuron split in two, and a pool of p fresh ones. The widenings are those of
`keras_grow.core.widening`, so that what is committed afterwards is a selection of what was scored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_grow.backend import compiled_gradient
from keras_grow.channels.graph import ChannelGraph
from keras_grow.core.index_maps import (
    AxisChannels,
    channel_numbers,
    fresh_positions,
    group_positions,
    run_of,
)
from keras_grow.core.widening import Widening, array_module, spread, widen_axis
from keras_grow.methods.base import draw
from keras_grow.methods.widened_copy import WidenedCopy

Arrays = dict[str, np.ndarray]  # by the path of the variable
# What is trained, by kind: the directions of the splits, by producing kernel; the weights into
# the fresh neurons, by producing kernel; those out of them, by consuming variable.
KINDS = ("directions", "incoming", "outgoing")


@dataclass(frozen=True)
class GroupCandidates:
    """The candidates of one group: a split of each of its neurons, and a pool of fresh ones.

    Attributes:
        group: Name of the group.
        width: Number of its neurons.
        pool: Number of fresh neurons.
    """

    group: str
    width: int
    pool: int

    @property
    def widening(self) -> Widening:
        """From the model to the candidate network, without what is added: originals, copies, fresh
        ones; both halves of a split take half of the weights.
        """
        n, p = self.width, self.pool
        sources = np.r_[np.arange(n), np.arange(n), np.full(p, -1)]
        return Widening(self.group, sources, np.r_[np.full(2 * n, 0.5), np.ones(p)])

    @property
    def fresh(self) -> Widening:
        """A widening by the fresh ones alone."""
        return Widening(self.group, np.r_[np.arange(self.width), np.full(self.pool, -1)])


class CandidateNetwork:
    """A model with all candidates of all groups, to be trained and scored.

    Args:
        graph: The channel groups of the model.
        pools: Group name -> number of fresh candidates.
        rng: The source of the first directions and weights.

    Attributes:
        groups: Group name -> its candidates.
        trained: Group name -> kind -> what is trained.
        carried: Group name -> the values of all else that the fresh neurons run through.
    """

    def __init__(self, graph: ChannelGraph, pools: Mapping[str, int], rng: np.random.Generator):
        self._graph = graph
        self.groups = {
            name: GroupCandidates(name, group.width, pools[name])
            for name, group in graph.growable.items()
        }
        self.trained: dict[str, dict[str, Arrays]] = {}
        self.carried: dict[str, Arrays] = {}
        for name, candidates in self.groups.items():
            self.trained[name], self.carried[name] = _drawn(graph, candidates, rng)
        self._copy = WidenedCopy(graph, [g.widening for g in self.groups.values()])
        self._present = [keras.ops.convert_to_tensor(value) for value in self._copy.present]
        self._gradient = compiled_gradient(self._loss)

    def widenings(self, trained: Mapping, carried: Mapping) -> dict[str, Widening]:
        """Returns the widenings that make the candidate network, of arrays or of tensors."""
        return {
            name: self._widening(group, trained[name], carried[name])
            for name, group in self.groups.items()
        }

    def _widening(self, g: GroupCandidates, trained: Mapping, carried: Mapping) -> Widening:
        bare, incoming, outgoing = g.widening, {}, {}
        for item, axis in self._graph.touching(g.group, "output", "through"):
            if item.path in trained["directions"]:
                direction, fresh = trained["directions"][item.path], trained["incoming"][item.path]
                parts = [direction, -direction, fresh]
                incoming[item.path] = _side_by_side(parts, axis, g)
            else:
                incoming[item.path] = _among_all(carried[item.path], axis, bare)
        for item, axis in self._graph.touching(g.group, "input"):
            outgoing[item.path] = _among_all(trained["outgoing"][item.path], axis, bare)
        return Widening(g.group, bare.sources, bare.outgoing_scale, incoming, outgoing)

    def _loss(self, trained, carried, present, x, y, sample_weight):
        values = self._copy.values(present, self.widenings(trained, carried))
        return self._copy.loss(values, x, y, sample_weight)

    def _values(self) -> list[np.ndarray]:
        """Returns the present values of the network's weights."""
        return self._copy.values(self._copy.present, self.widenings(self.trained, self.carried))

    def outputs(self, x: Any) -> Any:
        """Computes the outputs with all candidates on."""
        return self._copy.outputs(self._values(), x)

    def loss(self, batch: tuple) -> float:
        """Computes the task loss of a batch with all candidates on."""
        return float(self._copy.loss(self._values(), *batch))

    def gradients(self, batch: tuple) -> dict[str, dict[str, Arrays]]:
        """Returns the gradient of the task loss with respect to what is trained."""
        gradients = self._gradient(self.trained, self.carried, self._present, *batch)
        return keras.tree.map_structure(keras.ops.convert_to_numpy, gradients)

    def measure_statistics(self, batch: tuple) -> None:
        """Sets the fresh channels' batch statistics to those of a batch.

        One pass for each normalisation in a row within a group: the second one sees what the
        first makes of its channels.
        """
        places = [
            (name, item, axis)
            for name in self.groups
            for item, axis in self._graph.touching(name, "through")
            if item.name in ("moving_mean", "moving_variance")
        ]
        widenings = {name: group.widening for name, group in self.groups.items()}
        in_a_row = [sum(name == group for name, *_ in places) // 2 for group in self.groups]
        for _ in range(max(in_a_row)):
            measured = self._copy.measure(self._values(), [batch])
            for name, item, axis in places:
                if item.layer_name not in measured:  # within a wrapper, where nobody sees it
                    continue
                run = group_positions(axis.segments, widenings, name)
                positions = run[fresh_positions(axis.segments, widenings[name])]
                values = measured[item.layer_name][item.name][positions] - axis.fresh
                self.carried[name][item.path] = values.astype("float32")

    def select(
        self,
        chosen: Mapping[str, tuple[Sequence[int], Sequence[int]]],
        unhelpful: Mapping[str, int],
    ) -> list[Widening]:
        """Turns chosen candidates into widenings of the model.

        Args:
            chosen: Group name -> (neurons to split, numbers of the fresh neurons to take).
            unhelpful: Group name -> how many of them were taken without a helping score.
        """
        widenings = self.widenings(self.trained, self.carried)
        return [
            self._part(self.groups[name], widenings[name], splits, fresh, unhelpful[name])
            for name, (splits, fresh) in chosen.items()
            if len(splits) + len(fresh)
        ]

    def _part(self, g: GroupCandidates, whole: Widening, splits, fresh, unhelpful) -> Widening:
        """Returns the part of the candidate widening of one group that adds chosen candidates."""
        n = g.width
        splits, fresh = np.array(splits, int), np.array(fresh, int)
        channels = np.r_[np.arange(n), n + splits, 2 * n + fresh]  # of the candidate network
        is_fresh = channels >= 2 * n
        is_split = np.isin(channels % n, splits) & ~is_fresh
        # What is neither split nor fresh stays as it is.
        picked = Widening(g.group, channels, np.where(is_split | is_fresh, 1.0, 0.0))
        incoming = {
            item.path: _pick(whole.incoming[item.path], axis, whole, picked)
            for item, axis in self._graph.touching(g.group, "output", "through")
        }
        outgoing = {
            item.path: _pick(whole.outgoing[item.path], axis, whole, picked)
            for item, axis in self._graph.touching(g.group, "input")
        }
        scale = np.where(is_split, 0.5, 1.0)
        sources = whole.sources[channels]
        return Widening(g.group, sources, scale, incoming, outgoing, unhelpful)


def _drawn(
    graph: ChannelGraph, g: GroupCandidates, rng: np.random.Generator
) -> tuple[dict[str, Arrays], Arrays]:
    """Draws what is trained and what is carried, fresh channels as their layers would."""
    trained: dict[str, Arrays] = {kind: {} for kind in KINDS}
    carried: Arrays = {}
    for item, axis in graph.touching(g.group, "output", "through"):
        fresh = _draw_fresh(item, axis, g.fresh, rng)
        if axis.role == "output" and item.is_kernel:
            trained["incoming"][item.path] = fresh
            shape = list(item.variable.shape)
            shape[axis.axis] = len(channel_numbers(axis.segments, g.group, g.width))
            trained["directions"][item.path] = rng.normal(size=shape).astype("float32")
        else:
            carried[item.path] = fresh
    for item, axis in graph.touching(g.group, "input"):
        trained["outgoing"][item.path] = _draw_fresh(item, axis, g.fresh, rng)
    return trained, carried


def _draw_fresh(item, axis: AxisChannels, bare: Widening, rng: np.random.Generator) -> np.ndarray:
    """Draws the fresh channels' part of a variable as its layer would."""
    positions = fresh_positions(axis.segments, bare)
    return np.take(draw(item, axis, bare, rng), positions, axis=axis.axis)


def _among_all(fresh: Any, axis: AxisChannels, widening: Widening) -> Any:
    """Lays the fresh channels' values out among all positions of their group; zeros elsewhere."""
    positions = fresh_positions(axis.segments, widening)
    length = len(channel_numbers(axis.segments, widening.group, widening.width))
    return spread(fresh, positions, length, axis.axis)


def _side_by_side(parts: Sequence, axis: AxisChannels, g: GroupCandidates) -> Any:
    """Lays directions of originals, those of copies and fresh ones out as their channels lie."""
    xp, n = array_module(parts[0]), g.width
    first, fresh = (channel_numbers(axis.segments, g.group, width) for width in (n, g.pool))
    given = np.concatenate([first, n + first, 2 * n + fresh])
    wanted = channel_numbers(axis.segments, g.group, 2 * n + g.pool)
    order = np.empty_like(wanted)
    order[np.argsort(wanted, kind="stable")] = np.argsort(given, kind="stable")
    joined = xp.concatenate(parts, axis.axis)
    return joined if np.array_equal(given, wanted) else xp.take(joined, order, axis=axis.axis)


def _pick(added: np.ndarray, axis: AxisChannels, whole: Widening, picked: Widening) -> np.ndarray:
    """Takes channels of what a widening adds: those that `picked` copies, times its scale."""
    run = run_of(axis.segments, whole.group, whole.width)
    channels = AxisChannels(axis.axis, run, "input")
    return widen_axis(added, channels, {picked.group: picked})
