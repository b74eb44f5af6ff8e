"""The weights into, or out of, a group's fresh channels as a matrix with one row per channel.

However many kernels a group has on that side, and wherever in them its channels lie.
"""

from __future__ import annotations

from collections.abc import Mapping

import keras
import numpy as np

from keras_grow.channels.graph import ChannelGraph
from keras_grow.core.index_maps import (
    gather_index,
    group_positions,
    holds_once,
    positions_by_channel,
)
from keras_grow.core.widening import Widening

Arrays = Mapping[str, np.ndarray]
Widenings = Mapping[str, Widening]


class FreshWeights:
    """The kernels on one side of a group, of which fresh channels get their weights.

    Args:
        graph: The channel groups of the model.
        bare: A widening of the group that adds fresh channels at the end.
        role: "output" for the kernels that produce the channels, "input" for those that sum over
            them.

    Attributes:
        columns: Path of each kernel -> its columns in the matrix.
        zeros: A matrix of zeros, of shape `(fresh channels, weights of each)`.
        once: Paths of the kernels that hold the channels at one position each, and no others.
        norm: The mean norm of the present channels' weights; 1 where they are all zero.
    """

    def __init__(self, graph: ChannelGraph, bare: Widening, role: str):
        self._bare = bare
        self._places = graph.kernels(bare.group, role)
        values = {item.path: keras.ops.convert_to_numpy(item.variable) for item, _ in self._places}
        present = self._blocks(values, {})
        ends = np.cumsum([block.shape[1] for block in present])
        self.columns = {
            item.path: slice(end - block.shape[1], end)
            for (item, _), block, end in zip(self._places, present, ends, strict=True)
        }
        self.zeros = np.zeros((np.sum(bare.sources < 0), ends[-1]))
        self.once = {
            item.path for item, axis in self._places if holds_once(axis.segments, bare.group)
        }
        norms = np.linalg.norm(np.concatenate(present, axis=1), axis=1)
        self.norm = float(np.mean(norms)) or 1.0

    def matrix(self, arrays: Arrays, widenings: Widenings) -> np.ndarray:
        """Gathers the weights of the fresh channels.

        Args:
            arrays: Path of each kernel -> it, or its gradient, in a widened network.
            widenings: The widenings of that network. Other groups' fresh channels take no part.
        """
        return np.concatenate(self._blocks(arrays, widenings), axis=1)[-len(self.zeros) :]

    def _blocks(self, arrays: Arrays, widenings: Widenings) -> list[np.ndarray]:
        """Returns the part of each kernel in the matrix, with rows for all channels."""
        group, blocks = self._bare.group, []
        for item, axis in self._places:
            array = np.asarray(arrays[item.path], "float64")
            for other in item.axes:
                if other is not axis:
                    present = np.flatnonzero(gather_index(other.segments, widenings) >= 0)
                    array = np.take(array, present, axis=other.axis)
            run = group_positions(axis.segments, widenings, group)
            width = len(run) // sum(s.repeat for s in axis.segments if s.group == group)
            rows = run[positions_by_channel(axis.segments, group, width)]
            blocks.append(np.moveaxis(array, axis.axis, 0)[rows].reshape(width, -1))
        return blocks

    def kernels(self, matrix: np.ndarray) -> dict[str, np.ndarray]:
        """Lays the weights of the fresh channels out as what a widening adds to each kernel."""
        result = {}
        for item, axis in self._places:
            shape = list(item.variable.shape)
            del shape[axis.axis]
            by_channel = positions_by_channel(axis.segments, self._bare.group, self._bare.width)
            fresh = by_channel[self._bare.sources < 0]
            run = np.zeros((by_channel.size, *shape), "float32")
            run[fresh] = matrix[:, self.columns[item.path]].reshape(*fresh.shape, *shape)
            result[item.path] = np.moveaxis(run, 0, axis.axis)
        return result


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


def largest_singular_value(matrix: np.ndarray) -> float:
    """Returns the spectral norm, by the smaller of the two Gram matrices; NaN where it is none."""
    tall = matrix if len(matrix) >= matrix.shape[1] else matrix.T
    gram = tall.T @ tall
    if not np.all(np.isfinite(gram)):
        return float("nan")
    return float(np.sqrt(max(np.linalg.eigvalsh(gram)[-1], 0.0)))
