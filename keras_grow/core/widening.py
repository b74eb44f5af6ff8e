"""A widening: the one operation that grows a network, and the array functions that apply it.

A widening takes one channel group from n to m channels. Whatever the array (a kernel, a bias, the
statistics of a normalisation, an optimizer's slot), it is applied by one formula: gather along the
axis that carries the channels, scale, add.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import keras
import numpy as np


class Segment(NamedTuple):
    """A run of positions along an axis that belongs to one channel group.

    Attributes:
        group: Name of the group, or `None` for positions that never grow.
        width: Number of channels of the group.
        repeat: Number of consecutive positions per channel.
    """

    group: str | None
    width: int
    repeat: int = 1


@dataclass(frozen=True)
class AxisChannels:
    """Which channels lie along one axis of an array.

    A flattened feature map is the same segment several times, a concatenation is several segments:
    the map is a value, and nobody remembers an offset.

    Attributes:
        axis: The axis, counted from the end (negative).
        segments: The channels along it, in order.
        role: "output" (the array produces these channels), "through" (it acts on each channel
            alone) or "input" (it sums over them).
        fresh: Value of a channel that copies none, before anything is added.
    """

    axis: int
    segments: tuple[Segment, ...]
    role: str
    fresh: float = 0.0


class Exponents(NamedTuple):
    """The power of a channel's outgoing scale that an array takes, by the side it stands on.

    A parameter stands on the consuming side with power 1: its outgoing weights *are* scaled. See
    `keras_grow.optimizers` for the slots.
    """

    producing: float
    consuming: float


PARAMETER = Exponents(producing=0, consuming=1)


@dataclass(frozen=True, eq=False)
class Widening:
    """Takes one channel group from n to m channels.

    Args:
        group: Name of the channel group.
        sources: Integers of shape `(m,)`: for each channel of the widened group the channel of the
            present one that it copies, or -1 for a fresh one.
        outgoing_scale: Floats of shape `(m,)`: factor on the weights out of each channel.
            Defaults to ones.
        incoming: Variable path -> array added to the weights into (or acting on) the channels. Of
            the variable's shape, with m entries per run along the axis of this group.
        outgoing: Variable path -> array added to the weights out of the channels.
        unhelpful: Number of the new neurons that were taken although, by the method's own score,
            they do not help.

    Raises:
        ValueError: if the arrays don't fit each other.

    Example:

    >>> import keras_grow
    >>> split = keras_grow.Widening("conv1", sources=[0, 1, 1], outgoing_scale=[1, 0.5, 0.5])
    >>> split.width
    3
    """

    group: str
    sources: np.ndarray
    outgoing_scale: np.ndarray | None = None
    incoming: Mapping[str, np.ndarray] = field(default_factory=dict)
    outgoing: Mapping[str, np.ndarray] = field(default_factory=dict)
    unhelpful: int = 0

    def __post_init__(self):
        sources = np.asarray(self.sources)
        if sources.ndim != 1 or not sources.size or not np.issubdtype(sources.dtype, np.integer):
            raise ValueError(
                "`sources` must be a non-empty vector of integers. "
                f"Received: sources={self.sources!r}"
            )
        scale = np.ones(len(sources)) if self.outgoing_scale is None else self.outgoing_scale
        scale = np.asarray(scale)
        if not np.issubdtype(scale.dtype, np.number) or not np.all(np.isfinite(scale)):
            raise ValueError(
                "`outgoing_scale` must hold finite numbers. Received: "
                f"outgoing_scale={self.outgoing_scale!r}"
            )
        scale = scale.astype("float64")
        if scale.shape != sources.shape:
            raise ValueError(
                "`outgoing_scale` must have one entry per entry of `sources`. Received: "
                f"{scale.shape} for sources of shape {sources.shape}"
            )
        object.__setattr__(self, "sources", sources)
        object.__setattr__(self, "outgoing_scale", scale)

    @property
    def width(self) -> int:
        """Number of channels afterwards."""
        return len(self.sources)


def identity(group: str, width: int) -> Widening:
    """The widening that changes nothing."""
    return Widening(group, np.arange(width))


def by_group(widenings: Iterable[Widening]) -> dict[str, Widening]:
    """Returns widenings by the name of their group; each group may be widened once."""
    result: dict[str, Widening] = {}
    for widening in widenings:
        if widening.group in result:
            raise ValueError(
                "A growth may widen each group once. Received two widenings of group "
                f"'{widening.group}'"
            )
        result[widening.group] = widening
    return result


def gather_index(segments: Sequence[Segment], widenings: Mapping[str, Widening]) -> np.ndarray:
    """Returns, per position along the widened axis, the present position (-1: fresh)."""
    parts, offset = [], 0
    for group, width, repeat in segments:
        sources = widenings[group].sources if group in widenings else np.arange(width)
        first = np.where(sources < 0, -1, offset + sources * repeat)[:, None]
        parts.append(np.where(first < 0, -1, first + np.arange(repeat)).ravel())
        offset += width * repeat
    return np.concatenate(parts)


def scale_vector(segments: Sequence[Segment], widenings: Mapping[str, Widening]) -> np.ndarray:
    """Returns the outgoing scale of the channel at each position along the widened axis."""
    return np.concatenate(
        [
            np.repeat(widenings[group].outgoing_scale, repeat)
            if group in widenings
            else np.ones(width * repeat)
            for group, width, repeat in segments
        ]
    )


def group_positions(
    segments: Sequence[Segment], widenings: Mapping[str, Widening], group: str
) -> np.ndarray:
    """Returns the positions of one group's channels along the widened axis."""
    parts, offset = [], 0
    for name, width, repeat in segments:
        size = (widenings[name].width if name in widenings else width) * repeat
        if name == group:
            parts.append(np.arange(offset, offset + size))
        offset += size
    return np.concatenate(parts)


def widen_axis(
    array: Any,
    channels: AxisChannels,
    widenings: Mapping[str, Widening],
    exponents: Exponents = PARAMETER,
    fresh: float = 0.0,
) -> Any:
    """Gathers and scales an array (NumPy's or the backend's) along one axis."""
    xp = np if isinstance(array, np.ndarray) else keras.ops
    index = gather_index(channels.segments, widenings)
    widened = xp.take(array, np.maximum(index, 0), axis=channels.axis)
    shape = [1] * len(array.shape)
    shape[channels.axis] = -1
    power = exponents.consuming if channels.role == "input" else exponents.producing
    scale = scale_vector(channels.segments, widenings) ** power if power else np.ones(1)
    if np.any(scale != 1):
        widened = widened * _cast_like(array, scale.reshape(shape))
    if np.any(index < 0):
        value = _cast_like(array, np.asarray(fresh))
        widened = xp.where((index < 0).reshape(shape), value, widened)
    return widened


def _cast_like(array: Any, values: Any) -> Any:
    """Returns values in an array's dtype: NumPy's or, where the array is the backend's, its own."""
    if isinstance(array, np.ndarray):
        return np.asarray(values, array.dtype)
    return keras.ops.cast(values, array.dtype)


def widen_array(
    array: Any,
    axes: Sequence[AxisChannels],
    widenings: Mapping[str, Widening],
    exponents: Exponents = PARAMETER,
    path: str | None = None,
    fresh: float | None = None,
) -> Any:
    """Applies widenings to one array: gather along every axis, scale, add.

    What is added along one axis is itself widened along the others, so that the order in which
    groups are widened does not matter.

    Args:
        array: The array, NumPy's or (to differentiate through a widening) the backend's.
        axes: The channels along its axes; axes that are not named don't grow.
        widenings: Group name -> widening.
        exponents: The power of the outgoing scale that this kind of array takes.
        path: Path of the variable, to look up what is added. `None` adds nothing.
        fresh: Value of fresh entries. Defaults to what `axes` say.

    Returns:
        The widened array, of the same dtype.
    """
    result = array
    for channels in axes:
        value = channels.fresh if fresh is None else fresh
        result = widen_axis(result, channels, widenings, exponents, value)
    for channels in axes:
        for group in {segment.group for segment in channels.segments} & set(widenings):
            widening = widenings[group]
            added = widening.outgoing if channels.role == "input" else widening.incoming
            if path in added:
                part = _place(added[path], channels, widenings, group, array)
                for other in axes:
                    if other is not channels:
                        part = widen_axis(part, other, widenings, exponents)
                result = result + part
    return result


def _place(
    part: Any, channels: AxisChannels, widenings: Mapping[str, Widening], group: str, like: Any
) -> Any:
    """Lays what is added for one group out along the whole widened axis."""
    xp = np if isinstance(like, np.ndarray) else keras.ops
    positions = group_positions(channels.segments, widenings, group)
    if part.shape[channels.axis] != len(positions):
        raise ValueError(
            f"What is added for group '{group}' must have {len(positions)} entries along axis "
            f"{channels.axis}. Received: shape={tuple(part.shape)}"
        )
    part = _cast_like(like, part)
    # One slice of zeros at the end, for the positions of other groups to read.
    index = np.full(len(gather_index(channels.segments, widenings)), len(positions))
    index[positions] = np.arange(len(positions))
    nothing = xp.zeros_like(xp.take(part, np.arange(1), axis=channels.axis))
    return xp.take(xp.concatenate([part, nothing], channels.axis), index, axis=channels.axis)


def compose(first: Widening, second: Widening) -> Widening:
    """Returns the widening that does `first`, then `second`, in one go.

    Example:

    >>> import keras_grow
    >>> from keras_grow.core.widening import compose
    >>> twice = compose(keras_grow.Widening("a", [0, 0]), keras_grow.Widening("a", [0, 1, 1]))
    >>> twice.sources.tolist()
    [0, 0, 0]
    """
    if first.group != second.group or second.sources.max() >= first.width:
        raise ValueError(
            "The second widening must start from the group and width that the first ends with. "
            f"Received: {first.group} ({first.width}), then {second.group}"
        )
    copied = second.sources >= 0
    sources = np.where(copied, first.sources[second.sources], -1)
    scale = second.outgoing_scale * np.where(copied, first.outgoing_scale[second.sources], 1)
    if first.incoming or first.outgoing or second.incoming or second.outgoing:
        raise ValueError(
            "Only widenings that add nothing can be composed without the axes of the arrays that "
            "they add to. Apply them one after the other."
        )
    return Widening(first.group, sources, scale, unhelpful=first.unhelpful + second.unhelpful)
