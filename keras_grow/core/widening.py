"""A widening: the one operation that grows a network, and the array functions that apply it.

A widening takes one channel group from n to m channels. Whatever the array (a kernel, a bias, the
statistics of a normalisation, an optimizer's slot), it is applied by one formula: gather along the
axis that carries the channels, scale, add.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_grow.core.index_maps import (
    AxisChannels,
    along,
    gather_index,
    group_positions,
    growth_of,
    scale_vector,
)

__all__ = [
    "PARAMETER",
    "Exponents",
    "Widening",
    "array_module",
    "by_group",
    "spread",
    "widen_array",
    "widen_axis",
]


class Exponents(NamedTuple):
    """The power of a channel's outgoing scale that an array takes, by the side it stands on.

    A parameter stands on the consuming side with power 1: its outgoing weights *are* scaled. See
    `keras_grow.growing.slots` for those of optimizers.

    Attributes:
        producing: The power on the side that produces the channels.
        consuming: The power on the side that sums over them.
        rescaling: The power of a factor on all weights of an array (`AxisChannels.growth`).
    """

    producing: float
    consuming: float
    rescaling: float = 0


PARAMETER = Exponents(producing=0, consuming=1, rescaling=1)


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


def widen_axis(
    array: Any,
    channels: AxisChannels,
    widenings: Mapping[str, Widening],
    exponents: Exponents = PARAMETER,
    fresh: float = 0.0,
) -> Any:
    """Gathers and scales an array (NumPy's or the backend's) along one axis."""
    xp = array_module(array)
    index = gather_index(channels.segments, widenings)
    widened = xp.take(array, np.maximum(index, 0), axis=channels.axis)
    rank = len(array.shape)
    power = exponents.consuming if channels.role == "input" else exponents.producing
    scale = scale_vector(channels.segments, widenings) ** power if power else np.ones(1)
    if np.any(scale != 1):
        widened = widened * _cast_like(array, along(scale, channels.axis, rank))
    if np.any(index < 0):
        value = _cast_like(array, np.asarray(fresh))
        if np.isnan(fresh):
            value = xp.mean(array, axis=channels.axis, keepdims=True)
        widened = xp.where(along(index < 0, channels.axis, rank), value, widened)
    return widened


def array_module(array: Any) -> Any:
    """Returns the functions for an array: `numpy`, or `keras.ops` where it is the backend's."""
    return np if isinstance(array, np.ndarray) else keras.ops


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
    groups are widened does not matter. A layer that divides by a power of the length of an axis
    (attention: by the square root of the key dimension) is made up for by `AxisChannels.growth`.

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
                part = _laid_out(added[path], channels, widenings, group, array)
                for other in axes:
                    if other is not channels:
                        # A fresh channel that is the mean of the others is so in what is added.
                        value = other.fresh if np.isnan(other.fresh) else 0.0
                        part = widen_axis(part, other, widenings, exponents, value)
                result = result + part
    factor = math.prod(growth_of(each.segments, widenings) ** each.growth for each in axes)
    if factor == 1 or not exponents.rescaling:
        return result
    return result * _cast_like(array, np.asarray(factor**exponents.rescaling))


def _laid_out(
    part: Any, channels: AxisChannels, widenings: Mapping[str, Widening], group: str, like: Any
) -> Any:
    """Lays what is added for one group out along the whole widened axis."""
    positions = group_positions(channels.segments, widenings, group)
    if part.shape[channels.axis] != len(positions):
        raise ValueError(
            f"What is added for group '{group}' must have {len(positions)} entries along axis "
            f"{channels.axis}. Received: shape={tuple(part.shape)}"
        )
    length = len(gather_index(channels.segments, widenings))
    return spread(_cast_like(like, part), positions, length, channels.axis)


def spread(part: Any, positions: np.ndarray, length: int, axis: int) -> Any:
    """Lays an array (NumPy's or the backend's) out along an axis, with zeros between.

    Args:
        part: The array.
        positions: Where each of its entries along the axis goes.
        length: Number of entries along the axis afterwards.
        axis: The axis.
    """
    if np.array_equal(positions, np.arange(length)):
        return part
    xp = array_module(part)
    index = np.full(length, len(positions))  # one slice of zeros at the end, to be read elsewhere
    index[positions] = np.arange(len(positions))
    shape = [*part.shape]
    shape[axis] = 1
    return xp.take(xp.concatenate([part, xp.zeros(shape, part.dtype)], axis), index, axis=axis)
