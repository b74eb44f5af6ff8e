"""Net2Wider: new neurons are copies, and the network computes what it computed before."""

from __future__ import annotations

import keras
import numpy as np

from keras_grow.channels.budget import Budget
from keras_grow.channels.graph import ChannelGraph
from keras_grow.core.index_maps import channel_numbers
from keras_grow.core.widening import Widening, spread
from keras_grow.methods.base import GrowthMethod
from keras_grow.utils.checks import check_number


class Net2Wider(GrowthMethod):
    """Copies randomly drawn neurons, and divides their outgoing weights by the number of copies.

    Without noise the network's function is exactly preserved; but copies that are equal receive
    equal gradients and stay equal. A little noise on the copies' incoming weights breaks the tie.

    Args:
        noise: Standard deviation of the noise on the incoming weights of the copies (not of the
            originals), as a fraction of the standard deviation of their kernel. `0` preserves the
            function exactly. Defaults to 0.1.
        seed: Integer seed. Defaults to one drawn from Python's random state.

    Raises:
        TypeError: if `noise` is no number.
        ValueError: if `noise` is negative or not finite.

    Example:

    >>> import keras_grow
    >>> keras_grow.methods.Net2Wider(noise=0.05, seed=1).get_config()
    {'seed': 1, 'noise': 0.05}

    Reference:
        Chen, Goodfellow and Shlens, Net2Net: Accelerating Learning via Knowledge Transfer, 2016.
    """

    name = "net2wider"

    def __init__(self, noise: float = 0.1, seed: int | None = None):
        super().__init__(seed)
        self.noise = check_number("noise", noise)

    def choose(
        self, graph: ChannelGraph, budget: Budget, rng: np.random.Generator, data=None
    ) -> list[Widening]:
        """Draws the neurons to copy, in proportion to the widths. See `GrowthMethod.choose`."""
        return [
            self._widen(graph, group, budget.widths[group], added, rng)
            for group, added in budget.spread().items()
            if added
        ]

    def _widen(self, graph, group, width, added, rng) -> Widening:
        sources = np.concatenate([np.arange(width), rng.integers(0, width, added)])
        copies = np.bincount(sources, minlength=width)
        incoming = {}
        if self.noise:
            for item, axis in graph.kernels(group, "output"):
                kernel = keras.ops.convert_to_numpy(item.variable)
                channels = channel_numbers(axis.segments, group, width + added)
                incoming[item.path] = self._noise(kernel, axis, channels >= width, rng)
        return Widening(group, sources, 1 / copies[sources], incoming)

    def _noise(self, kernel, axis, copied, rng) -> np.ndarray:
        """Returns zeros for the originals, and noise for the positions of the copies."""
        shape = list(kernel.shape)
        shape[axis.axis] = np.count_nonzero(copied)
        noise = rng.normal(0, self.noise * np.std(kernel.astype("float32")), shape)
        return spread(noise.astype("float32"), np.flatnonzero(copied), len(copied), axis.axis)

    def get_config(self) -> dict:
        return {**super().get_config(), "noise": self.noise}
