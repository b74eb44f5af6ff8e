"""Channels that must be silent at first are added alike by every method.

Where a normalisation takes statistics over the channels of a group, a method has no choice but the
weights out of the new ones (`ChannelGroup.silent`). The group gets its share of the budget in
proportion to its width, and the method chooses among the other groups with what is left.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from keras_grow.channels.budget import Budget
from keras_grow.channels.graph import ChannelGraph
from keras_grow.core.widening import Widening
from keras_grow.methods.base import GrowthMethod, draw


def choose_all(
    method: GrowthMethod,
    graph: ChannelGraph,
    budget: Budget,
    rng: np.random.Generator,
    data: Any = None,
) -> list[Widening]:
    """Has a method choose among the groups that leave it a choice, and widens the others.

    See `GrowthMethod.choose`.
    """
    silent = [name for name, group in graph.growable.items() if group.silent]
    if not silent:
        return method.choose(graph, budget, rng, data)
    spread = budget.spread()
    added = {name: spread[name] for name in silent}
    widenings = [_silently(graph, name, count, rng) for name, count in added.items() if count]
    rest = budget.beside(added)
    if not (rest.widths and rest.neurons):
        return widenings
    groups = {
        name: replace(group, frozen="it grows beside") if name in added else group
        for name, group in graph.groups.items()
    }
    return widenings + method.choose(replace(graph, groups=groups), rest, rng, data)


def _silently(graph: ChannelGraph, name: str, count: int, rng: np.random.Generator) -> Widening:
    """Adds silent channels; where they are zero, weights out of them are drawn."""
    bare = Widening(name, np.r_[np.arange(graph.groups[name].width), np.full(count, -1)])
    outgoing = {
        item.path: draw(item, axis, bare, rng)
        for item, axis in graph.touching(name, "input")
        if axis.silent
    }
    return Widening(name, bare.sources, outgoing=outgoing)
