"""Index maps: which channel of which group lies at each position along an axis of an array.

A map is a value: a tuple of segments. Where a widening takes the positions, which of them are
fresh, and where each channel lies follow from it here, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from keras import ops

if TYPE_CHECKING:
    from keras_grow.core.widening import Widening


MEAN = float("nan")  # of `AxisChannels.fresh`: no number


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
        fresh: Value of a channel that copies none, before anything is added; `MEAN` for the mean of
            the present ones.
        growth: The power of the growth of the axis's length (m / n) that the whole array is
            multiplied by, where the layer divides by a power of that length.
        silent: Whether fresh channels are zero here, whatever the weights out of them.
    """

    axis: int
    segments: tuple[Segment, ...]
    role: str
    fresh: float = 0.0
    growth: float = 0.0
    silent: bool = False


def length_at(segments: Sequence[Segment], widths: Mapping[str, int]) -> int:
    """Returns the number of positions along an axis, with some groups at other widths.

    Example:

    >>> from keras_grow.core.index_maps import Segment, length_at
    >>> length_at((Segment("a", 2, repeat=4), Segment("b", 3)), {"a": 3})
    15
    """
    return sum(widths.get(s.group, s.width) * s.repeat for s in segments)


def growth_of(segments: Sequence[Segment], widenings: Mapping[str, Widening]) -> float:
    """Returns how many times as long an axis becomes."""
    after = length_at(segments, {group: w.width for group, w in widenings.items()})
    return after / length_at(segments, {})


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


def run_of(segments: Sequence[Segment], group: str, width: int) -> tuple[Segment, ...]:
    """Returns the segments of one group alone, at a width: its run of positions along the axis."""
    return tuple(s._replace(width=width) for s in segments if s.group == group)


def channel_numbers(segments: Sequence[Segment], group: str, width: int) -> np.ndarray:
    """Returns the channel at each position of a group's run, at a width of the group.

    Example:

    >>> from keras_grow.core.index_maps import Segment, channel_numbers
    >>> flattened = (Segment("a", 2), Segment("b", 1), Segment("a", 2))
    >>> channel_numbers(flattened, "a", 3).tolist()
    [0, 1, 2, 0, 1, 2]
    """
    run = run_of(segments, group, width)
    return np.concatenate([np.repeat(np.arange(width), s.repeat) for s in run])


def holds_once(segments: Sequence[Segment], group: str) -> bool:
    """Tells whether an axis holds the channels of a group, each at one position, and no others.

    Example:

    >>> from keras_grow.core.index_maps import Segment, holds_once
    >>> holds_once((Segment("a", 3),), "a"), holds_once((Segment("a", 3, repeat=2),), "a")
    (True, False)
    """
    return len(segments) == 1 and segments[0].group == group and segments[0].repeat == 1


def positions_by_channel(segments: Sequence[Segment], group: str, width: int) -> np.ndarray:
    """Returns where each channel lies in its group's run, at a width of the group.

    Returns:
        Integers of shape `(width, positions of each channel)`.

    Example:

    >>> from keras_grow.core.index_maps import Segment, positions_by_channel
    >>> flattened = (Segment("a", 2), Segment("b", 1), Segment("a", 2))
    >>> positions_by_channel(flattened, "a", 3).tolist()
    [[0, 3], [1, 4], [2, 5]]
    """
    numbers = channel_numbers(segments, group, width)
    return np.argsort(numbers, kind="stable").reshape(width, -1)


def fresh_positions(segments: Sequence[Segment], widening: Widening) -> np.ndarray:
    """Returns where the fresh channels of a widening lie in its group's run, in order."""
    numbers = channel_numbers(segments, widening.group, widening.width)
    return np.flatnonzero(widening.sources[numbers] < 0)


def along(vector: Any, axis: int, rank: int) -> Any:
    """Returns a vector (NumPy's or the backend's) as an array of some rank along one axis.

    Example:

    >>> import numpy as np
    >>> from keras_grow.core.index_maps import along
    >>> along(np.arange(3), axis=-2, rank=4).shape
    (1, 1, 3, 1)
    """
    shape = [1] * rank
    shape[axis] = -1
    return (
        np.reshape(vector, shape) if isinstance(vector, np.ndarray) else ops.reshape(vector, shape)
    )
