"""How many neurons a growth adds, exactly, and where it must stop."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from keras_grow.channels.graph import ChannelGraph
from keras_grow.core.index_maps import length_at

Widths = dict[str, int]
# What the axes of an array are counted in.
_MOST_NEURONS = 2**31 - 1


@dataclass(frozen=True)
class Budget:
    """What one growth may add.

    Attributes:
        neurons: Number of neurons to add: `int(rate * neurons)`, less where a ceiling is near.
        widths: Present width of each group that can grow.
        room: Number of channels that each group can take up before its ceiling.
        affordable: Tells whether the model may have the given widths (`max_params`).
    """

    neurons: int
    widths: Mapping[str, int]
    room: Mapping[str, float]
    affordable: Callable[[Mapping[str, int]], bool]

    def spread(self) -> Widths:
        """Shares the neurons out in proportion to the widths, exactly.

        Returns:
            Group name -> channels to add. They sum to `neurons`, or to as many as `max_params`
            allows.
        """
        low, high = 0, self.neurons  # the largest affordable number lies in [low, high]
        while low < high:
            middle = (low + high + 1) // 2
            if self._fits(apportion(middle, self.widths, self.room)):
                low = middle
            else:
                high = middle - 1
        return apportion(low, self.widths, self.room)

    def _fits(self, added: Mapping[str, int]) -> bool:
        return self.affordable({name: self.widths[name] + added[name] for name in self.widths})


def apportion(total: int, weights: Mapping[str, int], room: Mapping[str, float]) -> Widths:
    """Shares a whole number out in proportion to weights, by the largest remainder.

    Args:
        total: The number to share out; at most the sum of `room`.
        weights: Name -> positive weight.
        room: Name -> the most that it can take.

    Returns:
        Name -> share; the shares sum to `total`.

    Example:

    >>> from keras_grow.channels.budget import apportion
    >>> apportion(5, {"a": 1, "b": 2}, {"a": 9, "b": 9})
    {'a': 2, 'b': 3}
    """
    shares = dict.fromkeys(weights, 0)
    left = total
    while left:  # more than once only where a ceiling binds
        open_names = [name for name in weights if shares[name] < room[name]]
        weight = sum(weights[name] for name in open_names)
        parts = {name: divmod(left * weights[name], weight) for name in open_names}
        given = {name: int(min(parts[name][0], room[name] - shares[name])) for name in open_names}
        rest = left - sum(given.values())
        by_remainder = sorted(open_names, key=lambda name: -parts[name][1])
        for name in by_remainder:
            if rest and given[name] < room[name] - shares[name]:
                given[name] += 1
                rest -= 1
        for name, share in given.items():
            shares[name] += share
        left = rest
    return shares


def plan_budget(
    graph: ChannelGraph,
    rate: float,
    max_params: int | None = None,
    max_widths: int | Mapping[str, int] | None = None,
) -> Budget:
    """Returns the budget of a growth.

    Args:
        graph: The model's channel groups.
        rate: Fraction of the neurons to add.
        max_params: The most trainable parameters that the model may have.
        max_widths: The most channels of any group, or group name -> the most channels.
    """
    widths = {name: group.width for name, group in graph.growable.items()}
    for name in max_widths if isinstance(max_widths, Mapping) else ():
        if name not in widths:
            raise ValueError(
                f"`max_widths`: there is no group named '{name}' that can grow. Groups: "
                f"{list(widths)}"
            )
    room = {name: max(_ceiling(name, max_widths) - width, 0) for name, width in widths.items()}
    wanted = share_of(rate, sum(widths.values()))
    neurons = int(min(wanted, sum(room.values())))
    if neurons > _MOST_NEURONS:
        raise ValueError(
            f"`rate` asks for more neurons than can be: it is a fraction of them, 0.35 for 35 %. "
            f"Received: rate={rate} of {sum(widths.values())} neurons"
        )

    def affordable(new: Mapping[str, int]) -> bool:
        return max_params is None or count_parameters(graph, new) <= max_params

    return Budget(neurons, widths, room, affordable)


def share_of(rate: float, neurons: int) -> int:
    """Returns how many neurons a growth rate asks for.

    Example:

    >>> from keras_grow.channels.budget import share_of
    >>> share_of(0.29, 100), int(0.29 * 100)
    (29, 28)
    """
    # 0.29 * 100 must be 29, whatever the rounding of 0.29 makes of it.
    return math.floor(rate * neurons + 1e-9)


def _ceiling(name: str, max_widths: int | Mapping[str, int] | None) -> float:
    if max_widths is None:
        return math.inf
    return max_widths.get(name, math.inf) if isinstance(max_widths, Mapping) else max_widths


def count_parameters(graph: ChannelGraph, widths: Mapping[str, int]) -> int:
    """Counts the trainable parameters that the model would have with groups of other widths."""
    total = 0
    for item in graph.variables:
        if item.variable.trainable:
            shape = list(item.variable.shape)
            for axis in item.axes:
                shape[axis.axis] = length_at(axis.segments, widths)
            total += math.prod(shape)
    return total + graph.fixed_parameters
