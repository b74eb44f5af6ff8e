"""Firefly: splits and fresh neurons compete, by how much the loss falls for a small step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import numpy as np

from keras_grow.channels.budget import Budget, apportion
from keras_grow.channels.graph import ChannelGraph
from keras_grow.core.widening import Widening
from keras_grow.methods.base import GrowthMethod
from keras_grow.methods.firefly.candidates import KINDS, CandidateNetwork, GroupCandidates
from keras_grow.methods.firefly.frank_wolfe import CandidateBalls, norms_of_channels
from keras_grow.utils.checks import check_number, check_positive_int
from keras_grow.utils.progress import Progress

# Weights into fresh neurons follow their gradient more slowly: at full pace all fresh neurons of a
# group end at the same point, and are as good as one.
_PACES = {"directions": 1.0, "incoming": 0.2, "outgoing": 1.0}
# A split changes the loss with the square of its step, so by half of its derivative there.
_OF_A_SQUARE = 0.5


@dataclass(frozen=True)
class _Candidate:
    score: float
    group: str
    number: int  # of the neuron to split, or of the fresh one
    fresh: bool


class Firefly(GrowthMethod):
    """Adds the splits and fresh neurons that lower the loss the most, to first order.

    Candidates are a split of every neuron and, per group, a pool of fresh neurons in proportion to
    its width. All of them are switched on in a copy of the network, whose own weights are frozen,
    and trained together, each within its small step: conditional gradient (Frank-Wolfe) steps on a
    ball around nothing. Then each is scored by what switching it on does to the loss, to first
    order (fresh neurons) or second (splits), and the best of all groups and both kinds are
    committed as scored.

    Args:
        epsilon: The step of a fresh neuron: the norm of the weights out of it, relative to the
            mean over the present neurons of its group. Defaults to 0.1.
        split: The step of a split: the norm of its direction, relative to the weights into its
            neuron. The larger it is, the more splits are chosen. Defaults to 0.02.
        pool: Fresh candidates per group, as a fraction of its width. Defaults to 1.
        train_batches: Batches that the candidates are trained on. Defaults to 5.
        score_batches: Batches that they are scored on. Defaults to 3.
        pools: Sequences of group names that share a budget of their own each, in proportion to
            their neurons; groups in none form the last. Defaults to one budget for all groups.
        seed: Integer seed. Defaults to one drawn from Python's random state.

    Raises:
        TypeError: if an argument is of the wrong type.
        ValueError: if an argument is wrong.

    Example:

    >>> import keras_grow
    >>> keras_grow.methods.Firefly(epsilon=0.05, seed=1).get_config()["epsilon"]
    0.05

    Reference:
        Wu, Liu, Stone and Liu, Firefly Neural Architecture Descent: a General Approach for
        Growing Neural Networks, 2020.
    """

    name = "firefly"
    needs_data = True

    def __init__(
        self,
        epsilon: float = 0.1,
        split: float = 0.02,
        pool: float = 1.0,
        train_batches: int = 5,
        score_batches: int = 3,
        pools: Sequence[Sequence[str]] | None = None,
        seed: int | None = None,
    ):
        super().__init__(seed)
        self.epsilon = check_number("epsilon", epsilon, positive=True)
        self.split = check_number("split", split, positive=True)
        self.pool = check_number("pool", pool, positive=True)
        self.train_batches = check_positive_int("train_batches", train_batches)
        self.score_batches = check_positive_int("score_batches", score_batches)
        self.pools = None if pools is None else _check_pools(pools)

    def get_config(self) -> dict:
        names = ("epsilon", "split", "pool", "train_batches", "score_batches", "pools")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}

    def choose(
        self, graph: ChannelGraph, budget: Budget, rng: np.random.Generator, data=None
    ) -> list[Widening]:
        """Trains and scores the candidates, and takes the best. See `GrowthMethod.choose`."""
        self._check_pool_names(budget)
        batches = data.batches(self.train_batches + self.score_batches, rng)
        training = batches[: max(1, len(batches) - self.score_batches)]
        scoring = batches[-self.score_batches :]
        pools = {name: max(1, round(self.pool * width)) for name, width in budget.widths.items()}
        network = CandidateNetwork(graph, pools, rng)
        balls = {name: self._balls(graph, group) for name, group in network.groups.items()}
        network.measure_statistics(batches[0])
        network.trained = _for_each(balls, CandidateBalls.on_surface, network.trained)
        progress = Progress(len(training) + len(scoring), "batch")
        for step, batch in enumerate(training):
            progress.advance()
            move = partial(CandidateBalls.step, rate=2 / (step + 3))
            gradients = network.gradients(batch)
            network.trained = _for_each(balls, move, network.trained, gradients)
        network.measure_statistics(batches[0])
        scored = _scored(network, balls, scoring, progress)
        taken = self._take(scored, budget)
        if budget.multiples:
            counts = Counter(candidate.group for candidate in taken)
            rounded = budget.rounded({name: counts[name] for name in budget.widths})
            taken = self._take(scored, budget.only(rounded))
        unhelpful = {
            name: sum(c.group == name and c.score >= 0 for c in taken) for name in budget.widths
        }
        return network.select(_by_kind(taken, budget.widths), unhelpful)

    def _balls(self, graph: ChannelGraph, g: GroupCandidates) -> dict[str, CandidateBalls]:
        """Returns kind -> the balls within which the candidates of a group are trained."""
        axes = {
            "incoming": {item.path: axis for item, axis in graph.kernels(g.group, "output")},
            "outgoing": {item.path: axis for item, axis in graph.touching(g.group, "input")},
        }
        values = {v.path: keras.ops.convert_to_numpy(v.variable) for v in graph.variables}
        into = norms_of_channels(values, axes["incoming"], g.group, g.width)
        out_of = norms_of_channels(values, axes["outgoing"], g.group, g.width)
        radii = {
            "directions": self.split * into,
            "incoming": np.full(g.pool, into.mean()),
            "outgoing": np.full(g.pool, self.epsilon * out_of.mean()),
        }
        axes["directions"] = axes["incoming"]
        return {
            kind: CandidateBalls(g.group, axes[kind], radii[kind], _PACES[kind]) for kind in KINDS
        }

    def _check_pool_names(self, budget: Budget) -> None:
        """Refuses pools of groups that this model can't grow."""
        unknown = {name for names in self.pools or () for name in names} - set(budget.widths)
        if unknown:
            raise ValueError(
                f"`pools` must name groups that can grow: {list(budget.widths)}. Received: "
                f"{sorted(unknown)}"
            )

    def _take(self, candidates: list[_Candidate], budget: Budget) -> list[_Candidate]:
        """Takes the best candidates that the budget, the pools and the ceilings allow."""
        of_pool, left = self._shares(budget)
        widths, taken = dict(budget.widths), []
        for candidate in candidates:
            name = candidate.group
            wider = {**widths, name: widths[name] + 1}
            full = widths[name] - budget.widths[name] >= budget.room[name]
            if full or not left[of_pool[name]] or not budget.affordable(wider):
                continue
            left[of_pool[name]] -= 1
            widths = wider
            taken.append(candidate)
        return taken

    def _shares(self, budget: Budget) -> tuple[dict[str, int], dict[int, int]]:
        """Returns the pool of each group, and the budget of each pool."""
        of_pool = {
            name: next((i for i, names in enumerate(self.pools or ()) if name in names), -1)
            for name in budget.widths
        }
        neurons, room = {}, {}
        for name, number in of_pool.items():
            neurons[number] = neurons.get(number, 0) + budget.widths[name]
            room[number] = room.get(number, 0) + budget.room[name]
        return of_pool, apportion(budget.neurons, neurons, room)


def _check_pools(pools: Any) -> list[list[str]]:
    """Returns pools as lists of names, or says what is wrong with them."""
    wanted = (
        "`pools` must be sequences of group names, such as [['stem'], ['conv1', 'conv2']]. "
        f"Received: pools={pools!r}"
    )
    if isinstance(pools, str) or not isinstance(pools, Sequence):
        raise TypeError(wanted)
    if any(isinstance(names, str) or not isinstance(names, Sequence) for names in pools):
        raise TypeError(wanted)
    named = [name for names in pools for name in names]
    if not all(isinstance(name, str) for name in named):
        raise TypeError(wanted)
    if len(set(named)) < len(named):
        raise ValueError(f"`pools` must name each group once. Received: pools={pools!r}")
    return [list(names) for names in pools]


def _by_kind(taken: list[_Candidate], names) -> dict[str, tuple[list[int], list[int]]]:
    return {
        name: tuple(
            sorted(c.number for c in taken if c.group == name and c.fresh is fresh)
            for fresh in (False, True)
        )
        for name in names
    }


def _for_each(balls: Mapping, function: Callable, *weights: Mapping) -> dict:
    """Applies a function to the balls of every group and kind, and to their weights."""
    return {
        name: {
            kind: function(of_kind, *(w[name][kind] for w in weights))
            for kind, of_kind in kinds.items()
        }
        for name, kinds in balls.items()
    }


def _scored(
    network: CandidateNetwork, balls: Mapping, batches: Sequence[tuple], progress: Progress
) -> list[_Candidate]:
    """Returns all candidates, best first: by what switching each on does to the loss."""
    totals: dict[tuple[str, bool], Any] = {}
    for batch in batches:
        progress.advance()
        gradients = network.gradients(batch)
        changes = _for_each(balls, CandidateBalls.products, network.trained, gradients)
        for name, kinds in changes.items():
            scores = {False: _OF_A_SQUARE * kinds["directions"], True: kinds["outgoing"]}
            for fresh, values in scores.items():
                totals[name, fresh] = totals.get((name, fresh), 0.0) + values / len(batches)
    candidates = [
        _Candidate(float(score), name, number, fresh)
        for (name, fresh), values in totals.items()
        for number, score in enumerate(values)
    ]
    if not np.all(np.isfinite([c.score for c in candidates])):
        raise ValueError(
            "The scores of the candidates are not finite: the loss or its gradient is NaN or "
            "infinite on the training data. Check the data and the learning rate; the model is "
            "unchanged."
        )
    return sorted(candidates, key=lambda c: c.score)
