"""How many neurons a growth adds, exactly, and where it must stop."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from keras_grow.channels.flops import flops_at
from keras_grow.channels.graph import ChannelGraph
from keras_grow.core.index_maps import length_at

Widths = dict[str, int]
# What the axes of an array are counted in.
_MOST_NEURONS = 2**31 - 1


@dataclass(frozen=True)
class Budget:
    """What one growth may add.

    Attributes:
        neurons: The most neurons to add: `int(rate * neurons)`, less where a ceiling is near; as
            many as may be affordable, where the rate is of parameters or of FLOPs.
        widths: Present width of each group that can grow.
        room: Number of channels that each group can take up before its ceiling.
        affordable: Tells whether the model may have the given widths: `max_params`, `max_flops`,
            and the rate where it is of parameters or of FLOPs.
        multiples: Group name -> the number of which its width is to be a multiple, if it grows.
    """

    neurons: int
    widths: Mapping[str, int]
    room: Mapping[str, float]
    affordable: Callable[[Mapping[str, int]], bool]
    multiples: Mapping[str, int] = field(default_factory=dict)

    def spread(self) -> Widths:
        """Shares the neurons out in proportion to the widths, exactly.

        Returns:
            Group name -> channels to add. They sum to `neurons`, or to as many as is affordable, in
            whole multiples.
        """
        low, high = 0, self.neurons  # the largest affordable number lies in [low, high]
        while low < high:
            middle = (low + high + 1) // 2
            if self._fits(apportion(middle, self.widths, self.room)):
                low = middle
            else:
                high = middle - 1
        return self.rounded(apportion(low, self.widths, self.room))

    def rounded(self, added: Mapping[str, int]) -> Widths:
        """Rounds what is added so that widths become multiples, within the budget.

        First all are rounded down, then up what lies furthest below what was wanted, as long as it
        fits.

        Args:
            added: Group name -> channels to add.
        """
        wanted = {name: self.widths[name] + count for name, count in added.items()}
        steps = {name: self.multiples.get(name, 1) for name in added}
        new = {n: max(self.widths[n], wanted[n] // steps[n] * steps[n]) for n in added}
        for name in sorted(added, key=lambda n: new[n] / wanted[n]):
            raised = {**new, name: (new[name] // steps[name] + 1) * steps[name]}
            if new[name] < wanted[name] and self._allows(raised):
                new = raised
        return {name: new[name] - self.widths[name] for name in added}

    def _allows(self, new: Mapping[str, int]) -> bool:
        added = {name: new[name] - self.widths[name] for name in new}
        within = all(added[name] <= self.room[name] for name in added)
        return within and sum(added.values()) <= self.neurons and self.affordable(new)

    def only(self, added: Mapping[str, int]) -> Budget:
        """Returns the budget of which nothing is open but which neurons: so many in each group."""
        neurons, room = sum(added.values()), {name: added.get(name, 0) for name in self.widths}
        return replace(self, neurons=neurons, room=room, affordable=lambda new: True, multiples={})

    def beside(self, added: Mapping[str, int]) -> Budget:
        """Returns what is left for the other groups, once some have been given theirs."""
        given = {name: self.widths[name] + count for name, count in added.items()}
        return replace(
            self,
            neurons=self.neurons - sum(added.values()),
            widths={name: n for name, n in self.widths.items() if name not in given},
            room={name: n for name, n in self.room.items() if name not in given},
            affordable=lambda new: self.affordable({**given, **new}),
            multiples={name: n for name, n in self.multiples.items() if name not in given},
        )

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
    of: str = "neurons",
    max_flops: int | None = None,
    multiple_of: int | Mapping[str, int] | None = None,
) -> Budget:
    """Returns the budget of a growth.

    Args:
        graph: The model's channel groups.
        rate: Fraction of the neurons, or of what `of` says, to add.
        max_params: The most trainable parameters that the model may have.
        max_widths: The most channels of any group, or group name -> the most channels.
        of: What the rate is a fraction of: "neurons", "parameters" or "flops".
        max_flops: The most floating-point operations that a forward pass may take, per example.
        multiple_of: What the width of a group that grows is to be a multiple of, or group name ->
            that. One number for all leaves out groups of whole parts (heads).
    """
    widths = {name: group.width for name, group in graph.growable.items()}
    multiples = _multiples(graph, multiple_of)
    for argument, named in {"max_widths": max_widths, "multiple_of": multiples}.items():
        _check_names(argument, named, widths)
    room = {name: max(_ceiling(name, max_widths) - width, 0) for name, width in widths.items()}
    ceilings = {"parameters": [max_params], "flops": [max_flops]}
    if of != "neurons":
        present = COSTS[of](graph, widths)
        ceilings[of].append(present + share_of(rate, present))
    most = {name: min(filter(None, given), default=None) for name, given in ceilings.items()}

    def affordable(new: Mapping[str, int]) -> bool:
        limited = {name: limit for name, limit in most.items() if limit is not None}
        return all(COSTS[name](graph, new) <= limit for name, limit in limited.items())

    wanted: float = share_of(rate, sum(widths.values()))
    if of != "neurons":
        alone = {name: lambda w, n=name: affordable({**widths, n: w}) for name in widths}
        room = {name: _most(alone[name], widths[name], room[name]) for name in widths}
        wanted = math.inf
    neurons = int(min(wanted, sum(room.values())))
    if neurons > _MOST_NEURONS:
        raise ValueError(
            f"`rate` asks for more neurons than can be: it is a fraction of them, 0.35 for 35 %. "
            f"Received: rate={rate} of {sum(widths.values())} neurons"
        )
    return Budget(neurons, widths, room, affordable, multiples)


def _multiples(graph: ChannelGraph, multiple_of: int | Mapping[str, int] | None) -> Widths:
    if multiple_of is None or isinstance(multiple_of, Mapping):
        return dict(multiple_of or {})
    return {name: multiple_of for name, group in graph.growable.items() if not group.whole}


def _check_names(argument: str, named: int | Mapping[str, int] | None, widths: Mapping) -> None:
    """Refuses a group that isn't there, or can't grow."""
    for name in named if isinstance(named, Mapping) else ():
        if name not in widths:
            raise ValueError(
                f"`{argument}`: there is no group named '{name}' that can grow. Groups: "
                f"{list(widths)}"
            )


def _most(affordable: Callable[[int], bool], width: int, room: float) -> int:
    """Returns how many channels a group can take up that alone may grow."""
    low, step = 0, 1
    while step <= min(room, _MOST_NEURONS) and affordable(width + step):
        low, step = step, 2 * step
    high = int(min(step, room, _MOST_NEURONS))  # the number lies in [low, high]
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if affordable(width + middle) else (low, middle - 1)
    return low


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


# What a rate can be a fraction of, beside neurons -> how it is counted at some widths.
COSTS: dict[str, Callable[[ChannelGraph, Mapping[str, int]], int]] = {
    "parameters": count_parameters,
    "flops": flops_at,
}
