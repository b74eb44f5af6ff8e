"""The state of one walk over a model: the channels found so far, and which belong together."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import keras

from keras_grow.core.index_maps import Segment, length_at
from keras_grow.core.keras_private import Call


@dataclass(frozen=True)
class Channels:
    """The channels along one axis of a symbolic tensor.

    Attributes:
        axis: The channel axis (positive).
        segments: The channels along it; during the walk a segment's group is the number of a
            space.
        normalised: Whether they come out of a normalisation over all of them.
        flat: Whether what is zero gets no gradient through here, as behind a relu.
    """

    axis: int
    segments: tuple[Segment, ...]
    normalised: bool = False
    flat: bool = False

    @property
    def width(self) -> int:
        """Number of positions along the axis."""
        return length_at(self.segments, {})


def attribute_at(layer: keras.layers.Layer, path: str) -> Any:
    """Returns what a layer holds at a path, such as "cell.kernel" or "cells.0"; `None` if nothing.

    Example:

    >>> import keras
    >>> from keras_grow.channels.walk import attribute_at
    >>> attribute_at(keras.layers.GRU(4), "cell.units")
    4
    """
    for name in path.split("."):
        layer = layer[int(name)] if name.isdecimal() else getattr(layer, name, None)
    return layer


class _Space:
    """Channels that a layer produces, during the walk."""

    def __init__(self, width: int):
        self.width = width
        self.layers: list[str] = []
        self.producers: list[str] = []
        self.name = ""
        self.whole = False
        self.fresh: str | None = None  # what a channel is that a normalisation must not see
        # Why it would see it nonetheless, if a channel is the "mean" of the others, or "zero".
        self.unsteady: dict[str, str] = {}
        self.reason: str | None = None
        self.order = 0  # among the groups of the model

    def absorb(self, other: _Space) -> None:
        """Takes on what is known of another space: both are the same channels."""
        one, two = (self, other) if self.order < other.order else (other, self)
        self.layers = list(dict.fromkeys([*one.layers, *two.layers]))
        self.producers = list(dict.fromkeys([*one.producers, *two.producers]))
        self.reason = self.reason or other.reason
        self.whole = self.whole or other.whole
        self.unsteady = {**other.unsteady, **self.unsteady}
        if {self.fresh, other.fresh} == {"mean", "zero"}:
            self.unsettle("it is normalised in two ways")
        self.fresh = self.fresh or other.fresh

    def unsettle(self, reason: str, fresh: Iterable[str] = ("mean", "zero")) -> None:
        """Notes that fresh channels of some kinds don't stay what they are at first."""
        self.unsteady = {**dict.fromkeys(fresh, reason), **self.unsteady}


class Walk:
    """The state of one walk: the spaces, which of them are one group, and the maps so far.

    Args:
        visit: Takes the walk, a call and the channels of its inputs, and returns those of its
            outputs: layers that call others go through it.
    """

    def __init__(self, visit: Callable[[Walk, Call, list], list]):
        self.visit = visit
        self.spaces: list[_Space] = []
        self.parents: list[int] = []
        # Spaces that turned out to be made of channels of others -> those, in their order.
        self.parts: dict[int, tuple[Segment, ...]] = {}
        self.maps: dict[int, Channels | None] = {}
        self.variables: list[tuple[Any, str, list[tuple], bool]] = []
        self.holders: set[int] = set()  # of variables that channels run through
        # Layers that can't be called on channels of another number, by their row too, as some may
        # be called in several ways: inputs, outputs, rank.
        self.seen: dict[tuple[int, int], tuple[list, Channels | None, int]] = {}
        self.sizes: list[tuple[Any, str, int | None, Channels]] = []
        self.reasons: dict[str, str] = {}
        # Of operations, as they are called first; and the other way round.
        self.names: dict[int, str] = {}
        self.operations: dict[str, Any] = {}

    def calls(self, calls: Iterable[Call]) -> None:
        """Takes calls into the walk, inputs first."""
        for call in calls:
            inputs = [self.maps.get(id(tensor)) for tensor in call.inputs]
            found = self.visit(self, call, inputs)
            self.maps.update(zip(map(id, call.outputs), found, strict=True))

    def name_of(self, layer: Any) -> str:
        """Returns the name of a layer in the model: after those of the models that it is in."""
        return self.names.get(id(layer), layer.name)

    def produce(
        self,
        layer: keras.layers.Layer,
        width: int,
        axis: int,
        part: str | None = None,
        whole: bool = False,
    ) -> Channels:
        """Opens a new space of channels, which get a name of their own where `part` says so.

        See `ChannelGroup.whole`.
        """
        number, name = self._open(width), self.name_of(layer)
        space = self.spaces[number]
        space.whole = whole
        space.layers.append(name)
        space.producers.append(name)
        space.name = name if part is None else f"{name}/{part}"
        return Channels(axis, (Segment(number, width),))

    def _open(self, width: int) -> int:
        space = _Space(width)
        space.order = len(self.spaces)
        self.spaces.append(space)
        self.parents.append(space.order)
        return space.order

    def opened_since(self, number: int) -> list[Channels]:
        """Returns the channels of the spaces from a number on."""
        return [
            Channels(0, (Segment(opened, self.spaces[opened].width),))
            for opened in range(number, len(self.spaces))
        ]

    def root(self, space: int) -> int:
        """Returns the space that stands for a space's whole group."""
        while self.parents[space] != space:
            space = self.parents[space]
        return space

    def spaces_of(self, channels: Channels | None) -> list[_Space]:
        """Returns the groups along a map."""
        if channels is None:
            return []
        segments = self.resolved(channels).segments
        numbers = dict.fromkeys(s.group for s in segments if s.group is not None)
        return [self.spaces[number] for number in numbers]

    def resolved(self, channels: Channels) -> Channels:
        """Returns channels with the spaces that they are known to consist of by now."""
        return replace(channels, segments=self._resolve(channels.segments))

    def _resolve(self, segments: Iterable[Segment]) -> tuple[Segment, ...]:
        result: list[Segment] = []
        for segment in segments:
            root = None if segment.group is None else self.root(segment.group)
            if root in self.parts:
                parts = self._resolve(self.parts[root])
                result += [p._replace(repeat=p.repeat * segment.repeat) for p in parts]
            else:
                result.append(segment._replace(group=root))
        return tuple(result)

    def in_blocks(self, channels: Channels, size: int) -> Channels | None:
        """Makes whole blocks of some positions in a row grow together, each of them a channel.

        Returns:
            The blocks, as channels, one position each; `None` where channels don't lie so.
        """
        while True:
            segments = self.resolved(channels).segments
            if any(s.group is None and s.width * s.repeat % size for s in segments):
                return None
            rest = [s for s in segments if s.group is not None and s.repeat % size]
            if not rest:
                return Channels(channels.axis, tuple(_fewer(s, size) for s in segments))
            group, width, repeat = rest[0]
            if size % repeat or width % (size // repeat):
                return None
            times = size // repeat
            self._refine(
                group, (Segment(self._part_of(group, width // times), width // times, times),)
            )

    def in_parts(self, channels: Channels, count: int) -> tuple[Segment, ...] | None:
        """Makes channel i of each of some equal parts, side by side, grow with that of the others.

        Returns:
            The channels of one part; `None` where they don't lie so.
        """
        segments = self.resolved(channels).segments
        length, rest = divmod(len(segments), count)
        if not rest and segments == segments[:length] * count:
            return segments[:length]
        times, rest = divmod(count, len(segments))
        group, width, _ = segments[0]
        if rest or group is None or width % times or len(set(segments)) > 1:
            return None
        part = Segment(self._part_of(group, width // times), width // times)
        self._refine(group, (part,) * times)
        return (part._replace(repeat=segments[0].repeat),)

    def _part_of(self, space: int, width: int) -> int:
        """Opens a space of which another one is made: it takes its name and its place."""
        number = self._open(width)
        part, whole = self.spaces[number], self.spaces[space]
        part.name, part.order = whole.name, whole.order
        return number

    def _refine(self, space: int, parts: tuple[Segment, ...]) -> None:
        """Notes that a space is made of channels of others."""
        whole = self.spaces[space]
        self.parts[space] = parts
        for part in self.spaces_of(Channels(0, parts)):
            part.absorb(whole)

    def freeze(self, maps: Iterable[Channels | None], reason: str) -> None:
        """Keeps every group along the maps at its width. The first reason is kept."""
        for channels in maps:
            for space in self.spaces_of(channels):
                space.reason = space.reason or reason

    def is_one(self, channels: Channels) -> bool:
        """Tells whether a map is all channels of one group, once each."""
        (first, *rest) = self.resolved(channels).segments
        return not rest and first.group is not None and first.repeat == 1

    def silence(self, channels: Channels, fresh: str) -> None:
        """Notes that fresh channels must be "zero", or the "mean" of the others, at first."""
        for space in self.spaces_of(channels):
            if space.fresh not in (None, fresh):
                space.unsettle("it is normalised in two ways")
            space.fresh = fresh

    def unsettle(
        self, maps: Iterable[Channels | None], reason: str, fresh: Iterable[str] = ("mean", "zero")
    ) -> None:
        """Notes that fresh channels of some kinds don't stay what they are at first."""
        for channels in maps:
            for space in self.spaces_of(channels):
                space.unsettle(reason, fresh)

    def refuse(self, layer: Any, inputs: Iterable[Channels | None], reason: str) -> None:
        """Freezes what goes into a layer; what comes out is of fixed width."""
        known = [channels for channels in inputs if channels is not None]
        self.freeze(known, reason)
        if known:
            self.reasons[self.name_of(layer)] = reason

    def carry(self, layer: Any, channels: Channels | None) -> None:
        """Notes that a layer carries the channels."""
        name = self.name_of(layer)
        for space in self.spaces_of(channels):
            if name not in space.layers:
                space.layers.append(name)

    def tie(self, maps: list[Channels | None], reason: str) -> Channels | None:
        """Makes maps one and the same, channel by channel."""
        known = [channels for channels in maps if channels is not None]
        if not known:
            return None
        first = known[0]
        alike = len(known) == len(maps) and all(c.axis == first.axis for c in known)
        if not alike or not all(self._tie(first, other, reason) for other in known[1:]):
            self.freeze(known, reason)
            return None
        if len({channels.normalised for channels in known}) > 1:
            reason = "what is normalised is added to it: the mean of both isn't known"
            self.unsettle(known, reason, ["mean"])
        return replace(self.resolved(first), flat=all(channels.flat for channels in known))

    def _tie(self, first: Channels, second: Channels, reason: str) -> bool:
        """Makes two maps one and the same, if they can be."""
        if not self._align(first, second):
            return False
        pairs = zip(self.resolved(first).segments, self.resolved(second).segments, strict=True)
        for a, b in pairs:
            self._unite(a.group, b.group, reason)
        return True

    def _align(self, first: Channels, second: Channels) -> bool:
        """Makes two maps lie alike: where a space stands over several of the other, it is them."""
        a, b = self.resolved(first).segments, self.resolved(second).segments
        number = next(
            (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x[1:] != y[1:]), None
        )
        if number is None:
            return len(a) == len(b)
        for whole, others in ((a[number], b[number:]), (b[number], a[number:])):
            run = _first_of_length(others, whole.width)
            inside = whole.group in {segment.group for segment in run or ()}
            if whole.repeat == 1 and whole.group is not None and run and not inside:
                self._refine(whole.group, run)
                return self._align(first, second)
        return False

    def _unite(self, a: int | None, b: int | None, reason: str) -> None:
        if a is None or b is None:
            if a is not b:
                space = self.spaces[self.root(b if a is None else a)]
                space.reason = space.reason or reason
            return
        a, b = sorted((self.root(a), self.root(b)))
        if a == b:
            return
        if self.spaces[b].order < self.spaces[a].order:
            a, b = b, a
        self.parents[b] = a
        self.spaces[a].absorb(self.spaces[b])

    def add_variable(
        self,
        layer: Any,
        name: str,
        axes: list[tuple[int, Channels | None, str, float]],
        is_kernel: bool = False,
    ) -> None:
        """Notes that channels run through a variable: (axis, channels, role, fresh value) each."""
        self.holders.add(id(layer))
        variable = attribute_at(layer, name)
        # With LoRA or quantized, `kernel` is computed: the layer is frozen, and nothing is to do.
        if not isinstance(variable, keras.Variable):
            return
        # One entry along an axis is for all of them.
        axes = [
            (axis, channels, *rest)
            for axis, channels, *rest in axes
            if channels is None or variable.shape[axis] != 1 or channels.width == 1
        ]
        self.variables.append((layer, name, axes, is_kernel))

    def named(self, segments: Iterable[Segment]) -> tuple[Segment, ...]:
        """Replaces the numbers of spaces by the names of groups."""
        return tuple(
            segment
            if segment.group is None
            else segment._replace(group=self.spaces[segment.group].name)
            for segment in self._resolve(segments)
        )


def _fewer(segment: Segment, times: int) -> Segment:
    """Returns a segment of which so many positions in a row count as one."""
    if segment.group is None:
        return Segment(None, segment.width * segment.repeat // times)
    return segment._replace(repeat=segment.repeat // times)


def _first_of_length(segments: Iterable[Segment], length: int) -> tuple[Segment, ...] | None:
    """Returns the first segments, as far as they have together a number of positions."""
    run: list[Segment] = []
    for segment in segments:
        run.append(segment)
        if length_at(run, {}) >= length:
            break
    return tuple(run) if length_at(run, {}) == length else None
