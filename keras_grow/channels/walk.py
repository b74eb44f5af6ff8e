"""The state of one walk over a model: the channels found so far, and which belong together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import keras

from keras_grow.core.index_maps import Segment, length_at


@dataclass(frozen=True)
class Channels:
    """The channels along one axis of a symbolic tensor.

    Attributes:
        axis: The channel axis (positive).
        segments: The channels along it; during the walk a segment's group is the number of a
            space.
        normalised: Whether they come out of a normalisation over all of them.
    """

    axis: int
    segments: tuple[Segment, ...]
    normalised: bool = False

    @property
    def width(self) -> int:
        """Number of positions along the axis."""
        return length_at(self.segments, {})


def attribute_at(layer: keras.layers.Layer, path: str) -> Any:
    """Returns what a layer holds at a path of attributes, such as "cell.kernel"; `None` if nothing.

    Example:

    >>> import keras
    >>> from keras_grow.channels.walk import attribute_at
    >>> attribute_at(keras.layers.GRU(4), "cell.units")
    4
    """
    for name in path.split("."):
        layer = getattr(layer, name, None)
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
        self.unsteady: str | None = None  # why it would see it nonetheless
        self.reason: str | None = None


class Walk:
    """The state of one walk: the spaces, which of them are one group, and the maps so far."""

    def __init__(self):
        self.spaces: list[_Space] = []
        self.parents: list[int] = []
        self.maps: dict[int, Channels | None] = {}
        self.variables: list[tuple[Any, str, list[tuple], bool]] = []
        # Layers that can't be called on channels of another number: inputs, outputs, rank.
        self.seen: dict[int, tuple[list, Channels | None, int]] = {}
        self.sizes: list[tuple[Any, str, int | None, Channels]] = []
        self.reasons: dict[str, str] = {}

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
        space = _Space(width)
        space.whole = whole
        space.layers.append(layer.name)
        space.producers.append(layer.name)
        space.name = layer.name if part is None else f"{layer.name}/{part}"
        self.spaces.append(space)
        self.parents.append(len(self.parents))
        return Channels(axis, (Segment(len(self.spaces) - 1, width),))

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
        numbers = dict.fromkeys(
            self.root(s.group) for s in channels.segments if s.group is not None
        )
        return [self.spaces[number] for number in numbers]

    def freeze(self, maps: Iterable[Channels | None], reason: str) -> None:
        """Keeps every group along the maps at its width. The first reason is kept."""
        for channels in maps:
            for space in self.spaces_of(channels):
                space.reason = space.reason or reason

    def is_one(self, channels: Channels) -> bool:
        """Tells whether a map is all channels of one group, once each."""
        (first, *rest) = channels.segments
        return not rest and first.group is not None and first.repeat == 1

    def silence(self, channels: Channels, fresh: str) -> None:
        """Notes that fresh channels must be "zero", or the "mean" of the others, at first."""
        for space in self.spaces_of(channels):
            if space.fresh not in (None, fresh):
                space.unsteady = space.unsteady or "it is normalised in two ways"
            space.fresh = fresh

    def unsettle(self, maps: Iterable[Channels | None], reason: str) -> None:
        """Notes that fresh channels don't stay what they are at first."""
        for channels in maps:
            for space in self.spaces_of(channels):
                space.unsteady = space.unsteady or reason

    def refuse(self, layer: Any, inputs: Iterable[Channels | None], reason: str) -> None:
        """Freezes what goes into a layer; what comes out is of fixed width."""
        known = [channels for channels in inputs if channels is not None]
        self.freeze(known, reason)
        if known:
            self.reasons[layer.name] = reason

    def carry(self, layer: Any, channels: Channels | None) -> None:
        """Notes that a layer carries the channels."""
        for space in self.spaces_of(channels):
            if layer.name not in space.layers:
                space.layers.append(layer.name)

    def tie(self, maps: list[Channels | None], reason: str) -> Channels | None:
        """Makes maps one and the same, channel by channel."""
        known = [channels for channels in maps if channels is not None]
        if not known:
            return None
        first = known[0]
        same_shape = all(
            channels.axis == first.axis
            and [s[1:] for s in channels.segments] == [s[1:] for s in first.segments]
            for channels in known
        )
        if len(known) < len(maps) or not same_shape:
            self.freeze(known, reason)
            return None
        if len({channels.normalised for channels in known}) > 1:
            self.unsettle(known, "what is normalised is added to it: the mean of both isn't known")
        for other in known[1:]:
            for a, b in zip(first.segments, other.segments, strict=True):
                self._unite(a.group, b.group, reason)
        return first

    def _unite(self, a: int | None, b: int | None, reason: str) -> None:
        if a is None or b is None:
            if a is not b:
                space = self.spaces[self.root(b if a is None else a)]
                space.reason = space.reason or reason
            return
        a, b = sorted((self.root(a), self.root(b)))
        if a == b:
            return
        kept, gone = self.spaces[a], self.spaces[b]
        self.parents[b] = a
        kept.layers += [name for name in gone.layers if name not in kept.layers]
        kept.producers += [name for name in gone.producers if name not in kept.producers]
        kept.reason = kept.reason or gone.reason
        kept.unsteady = kept.unsteady or gone.unsteady
        if {kept.fresh, gone.fresh} == {"mean", "zero"}:
            kept.unsteady = kept.unsteady or "it is normalised in two ways"
        kept.fresh = kept.fresh or gone.fresh

    def add_variable(
        self, layer, name: str, axes: list[tuple[int, Channels, str, float]], is_kernel: bool
    ) -> None:
        """Notes that channels run through a variable: (axis, channels, role, fresh value) each."""
        # With LoRA or quantized, `kernel` is computed: the layer is frozen, and nothing is to do.
        if isinstance(attribute_at(layer, name), keras.Variable):
            self.variables.append((layer, name, axes, is_kernel))

    def named(self, segments: Iterable[Segment]) -> tuple[Segment, ...]:
        """Replaces the numbers of spaces by the names of groups."""
        return tuple(
            segment
            if segment.group is None
            else segment._replace(group=self.spaces[self.root(segment.group)].name)
            for segment in segments
        )
