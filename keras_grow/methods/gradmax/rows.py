"""The weights into, or out of, a group's fresh channels as a matrix with one row per channel.

However many kernels a group has on that side, and wherever in them its channels lie.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from keras_grow.channels.graph import ChannelGraph
from keras_grow.core.widening import AxisChannels, Widening, gather_index, group_positions

Arrays = Mapping[str, np.ndarray]
Widenings = Mapping[str, Widening]


class Side:
    """The kernels on one side of a group.

    Args:
        graph: The channel groups of the model.
        bare: A widening of the group that adds fresh channels at the end.
        role: "output" for the kernels that produce the channels, "input" for those that sum over
            them.

    Attributes:
        columns: Path of each kernel -> its columns in the matrix.
        zeros: A matrix of zeros, of shape `(fresh channels, weights of each)`.
        norm: The mean norm of the rows of the present channels; 1 where they are all zero.
    """

    def __init__(self, graph: ChannelGraph, bare: Widening, role: str):
        self._bare = bare
        self._places = [p for p in graph.touching(bare.group, role) if p[0].name == "kernel"]
        present = self._parts({item.path: item.variable.numpy() for item, _ in self._places}, {})
        ends = np.cumsum([part.shape[1] for part in present])
        self.columns = {
            item.path: slice(end - part.shape[1], end)
            for (item, _), part, end in zip(self._places, present, ends, strict=True)
        }
        self.zeros = np.zeros((np.sum(bare.sources < 0), ends[-1]))
        norms = np.linalg.norm(np.concatenate(present, axis=1), axis=1)
        self.norm = float(np.mean(norms)) or 1.0

    def rows(self, arrays: Arrays, widenings: Widenings) -> np.ndarray:
        """Gathers the rows of the fresh channels.

        Args:
            arrays: Path of each kernel -> it, or its gradient, in a widened network.
            widenings: The widenings of that network. Other groups' fresh channels take no part.
        """
        return np.concatenate(self._parts(arrays, widenings), axis=1)[-len(self.zeros) :]

    def _parts(self, arrays: Arrays, widenings: Widenings) -> list[np.ndarray]:
        parts = []
        for item, axis in self._places:
            array = np.asarray(arrays[item.path], "float64")
            for other in item.axes:
                if other is not axis:
                    present = np.flatnonzero(gather_index(other.segments, widenings) >= 0)
                    array = np.take(array, present, axis=other.axis)
            positions = group_positions(axis.segments, widenings, self._bare.group)
            run = np.moveaxis(np.take(array, positions, axis=axis.axis), axis.axis, 0)
            index = by_channel(axis, self._bare.group, len(positions))
            parts.append(run[index].reshape(len(index), -1))
        return parts

    def arrays(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Lays the rows of the fresh channels out as what a widening adds to each kernel."""
        result = {}
        for item, axis in self._places:
            shape = list(item.variable.shape)
            del shape[axis.axis]
            fresh = fresh_by_channel(axis, self._bare)
            run = np.zeros((fresh.max() + 1, *shape), "float32")
            run[fresh] = rows[:, self.columns[item.path]].reshape(*fresh.shape, *shape)
            result[item.path] = np.moveaxis(run, 0, axis.axis)
        return result


def by_channel(axis: AxisChannels, group: str, length: int) -> np.ndarray:
    """Returns where each channel lies among a group's positions along an axis.

    Args:
        axis: The channels along the axis.
        group: Name of the group.
        length: Number of the group's positions, now or after a widening.

    Returns:
        Integers of shape `(channels, positions of each)`.
    """
    repeats = [s.repeat for s in axis.segments if s.group == group]
    width = length // sum(repeats)
    starts = np.cumsum([0, *repeats[:-1]]) * width
    parts = [
        start + np.arange(width * repeat).reshape(width, repeat)
        for start, repeat in zip(starts, repeats, strict=True)
    ]
    return np.concatenate(parts, axis=1)


def fresh_by_channel(axis: AxisChannels, bare: Widening) -> np.ndarray:
    """Returns where each fresh channel will lie among its group's positions along an axis."""
    length = bare.width * sum(s.repeat for s in axis.segments if s.group == bare.group)
    return by_channel(axis, bare.group, length)[bare.sources < 0]


def polar(rows: np.ndarray, norm: float) -> np.ndarray:
    """Returns the orthogonal rows of a given norm that have most in common with some rows.

    Args:
        rows: Array of shape `(neurons, weights)`. Where there are more neurons than weights, the
            columns become orthogonal instead, before each row is scaled.
        norm: Norm of each row.
    """
    left, _, right = np.linalg.svd(rows, full_matrices=False)
    result = left @ right
    return norm * result / np.maximum(np.linalg.norm(result, axis=1, keepdims=True), 1e-12)
