"""Conditional gradient (Frank-Wolfe) steps: each candidate's weights stay within a ball.

The ball of a candidate is around nothing, and its norm is over all arrays that hold weights of the
candidate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from keras_grow.core.index_maps import AxisChannels, along, channel_numbers, group_positions

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class CandidateBalls:
    """The balls of a group's candidates, for one kind of weights.

    Attributes:
        group: Name of the group.
        axes: Path of each variable -> the axis along which its part of the candidates lies.
        radii: Radius of each candidate's ball.
        pace: How far a step of rate 1 goes.
    """

    group: str
    axes: Mapping[str, AxisChannels]
    radii: np.ndarray
    pace: float = 1.0

    def on_surface(self, arrays: Arrays) -> dict[str, np.ndarray]:
        """Scales each candidate's weights to the radius of its ball."""
        norms = np.sqrt(self.products(arrays, arrays))
        factors = np.divide(self.radii, norms, out=np.zeros(len(norms)), where=norms > 0)
        result = {}
        for path, array in arrays.items():
            axis = self.axes[path]
            factor = factors[channel_numbers(axis.segments, self.group, len(norms))]
            result[path] = (array * along(factor, axis.axis, array.ndim)).astype("float32")
        return result

    def step(self, arrays: Arrays, gradients: Arrays, rate: float) -> dict[str, np.ndarray]:
        """Moves weights towards the point of their ball where the linearised loss is least."""
        target = self.on_surface({path: -gradients[path] for path in arrays})
        rate = np.float32(self.pace * rate)
        return {path: (1 - rate) * arrays[path] + rate * target[path] for path in arrays}

    def products(self, first: Arrays, second: Arrays) -> np.ndarray:
        """Returns the scalar product of each candidate's weights in two sets of arrays."""
        return products(first, second, self.axes, self.group, len(self.radii))


def products(
    first: Arrays, second: Arrays, axes: Mapping[str, AxisChannels], group: str, width: int
) -> np.ndarray:
    """Sums the products of two sets of arrays over all entries of each channel of a group.

    Args:
        first: Variable path -> array that holds the group's run along its axis, and no more.
        second: Arrays alike.
        axes: Variable path -> the axis.
        group: Name of the group.
        width: Number of channels in the arrays.
    """
    total = np.zeros(width)
    for path, array in first.items():
        axis = axes[path].axis
        product = np.asarray(array, "float64") * second[path]
        by_position = np.moveaxis(product, axis, 0).reshape(product.shape[axis], -1).sum(axis=1)
        numbers = channel_numbers(axes[path].segments, group, width)
        total += np.bincount(numbers, by_position, width)
    return total


def norms_of_channels(
    values: Arrays, axes: Mapping[str, AxisChannels], group: str, width: int
) -> np.ndarray:
    """Returns the norm of each present channel's weights.

    Args:
        values: Variable path -> its value; others may be among them.
        axes: Variable path -> the axis along which the group lies, for all that count.
        group: Name of the group.
        width: Number of its channels.
    """
    runs = {
        path: np.take(values[path], group_positions(axis.segments, {}, group), axis=axis.axis)
        for path, axis in axes.items()
    }
    return np.sqrt(products(runs, runs, axes, group, width))
