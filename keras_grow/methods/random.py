"""Random growth: fresh neurons, drawn as the layer drew its first ones."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from keras_grow.budget import Budget
from keras_grow.graph import ChannelGraph
from keras_grow.methods.base import GrowthMethod, draw
from keras_grow.widening import Widening


class Random(GrowthMethod):
    """Adds neurons with fresh weights, in proportion to the widths.

    Args:
        outgoing: Weights out of the new neurons: "zero" (the network computes what it computed
            before; they learn from the first step) or "small" (a hundredth of a fresh draw).
            Defaults to "zero".
        seed: Integer seed. Defaults to one drawn from Python's random state.

    Raises:
        ValueError: if `outgoing` is neither.

    Example:

    >>> import keras_grow
    >>> keras_grow.methods.Random(seed=1).get_config()
    {'seed': 1, 'outgoing': 'zero'}

    Reference:
        Berner et al., Dota 2 with Large Scale Deep Reinforcement Learning, 2019.
    """

    name = "random"
    _SCALES: ClassVar = {"zero": 0.0, "small": 0.01}

    def __init__(self, outgoing: str = "zero", seed: int | None = None):
        super().__init__(seed)
        if outgoing not in self._SCALES:
            raise ValueError(
                f"`outgoing` must be one of {list(self._SCALES)}. Received: outgoing={outgoing!r}"
            )
        self.outgoing = outgoing

    def choose(
        self, graph: ChannelGraph, budget: Budget, rng: np.random.Generator, data=None
    ) -> list[Widening]:
        """Draws the new neurons. See `GrowthMethod.choose`."""
        return [
            self._widen(graph, group, budget.widths[group], added, rng)
            for group, added in budget.spread().items()
            if added
        ]

    def _widen(self, graph, group, width, added, rng) -> Widening:
        bare = Widening(group, np.r_[np.arange(width), np.full(added, -1)])
        incoming = {
            item.path: draw(item, axis, bare, rng)
            for item, axis in graph.touching(group, "output", "through")
        }
        scale, outgoing = self._SCALES[self.outgoing], {}
        if scale:
            outgoing = {
                item.path: scale * draw(item, axis, bare, rng)
                for item, axis in graph.touching(group, "input")
            }
        return Widening(group, bare.sources, incoming=incoming, outgoing=outgoing)

    def get_config(self) -> dict:
        return {**super().get_config(), "outgoing": self.outgoing}
