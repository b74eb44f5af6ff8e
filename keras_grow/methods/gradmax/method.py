"""GradMax: new neurons enter where the gradient of their first step is the largest.

One side of a new neuron is zero, so that the network computes what it computed before; the other
side is chosen so that the gradient that the zero side receives is as large as a bound on the norm
allows. With linear activations that gradient is a linear map G of the chosen weights, and over m
orthogonal neurons it is the largest for G's m leading singular vectors. G is never formed: the
products with G and with its transpose, all that an iteration needs, are gradients of the loss of a
widened copy of the network, for all groups at once. So convolutions, pooling, depthwise layers and
residual additions need no rule of their own.
"""

from __future__ import annotations

import numpy as np

from keras_grow.channels.budget import Budget
from keras_grow.channels.graph import ChannelGraph
from keras_grow.core.widening import Widening
from keras_grow.methods.base import GrowthMethod
from keras_grow.methods.gradmax.fresh_norms import find_folded_norms
from keras_grow.methods.gradmax.search import SIDES, FreshNetwork, FreshNeurons
from keras_grow.utils.checks import check_number, check_positive_int
from keras_grow.utils.progress import Progress


class GradMax(GrowthMethod):
    """Adds neurons, in proportion to the widths, whose zero weights get the largest gradient.

    The new neurons of a group get orthogonal weights W of equal norm, by iterating
    `W <- polar(grad_W |g(W)|^2 / 2)`, where g(W) is the gradient of the zero side. With linear
    activations this is subspace iteration, which ends at the singular vectors of the paper; with
    others it climbs what the network will in fact see, and the best of the iterates is kept.

    Batch normalisation right after a layer is folded in: the bound is on kernel * gamma /
    deviation, which is what the network computes with, and the root mean square of the new gammas
    is that of the present ones. New channels enter with the statistics that they have on the
    scoring batches. Their other parameters (biases, depthwise kernels) are drawn by the layers'
    initializers. Where a group gets more neurons than each has weights, they can't all be
    orthogonal, and share the room.

    Args:
        side: The side that enters with zero weights, "outgoing" or "incoming". Groups that can't
            enter with zero incoming weights enter with zero outgoing ones: those with batch
            normalisation, and those whose activation isn't zero, or (as ReLU) has no slope, at
            zero. Defaults to "outgoing".
        norm: Norm of the weights on the other side of each new neuron, and of gamma where it is
            folded in, relative to the mean of the present neurons. Defaults to 1.
        batches: Number of batches that gradients are averaged over. Defaults to 6.
        iterations: Number of iterations. Defaults to 2.
        seed: Integer seed. Defaults to one drawn from Python's random state.

    Raises:
        TypeError: if an argument is of the wrong type.
        ValueError: if an argument is out of its range.

    Example:

    >>> from keras_grow.methods.gradmax.method import GradMax
    >>> GradMax(batches=4, seed=1).get_config()
    {'seed': 1, 'side': 'outgoing', 'norm': 1.0, 'batches': 4, 'iterations': 2}

    Reference:
        Evci et al., GradMax: Growing Neural Networks using Gradient Information, 2022.
    """

    name = "gradmax"
    needs_data = True

    def __init__(
        self,
        side: str = "outgoing",
        norm: float = 1.0,
        batches: int = 6,
        iterations: int = 2,
        seed: int | None = None,
    ):
        super().__init__(seed)
        if not isinstance(side, str) or side not in SIDES:
            raise ValueError(f"`side` must be one of {list(SIDES)}. Received: side={side!r}")
        self.side, self.norm = side, check_number("norm", norm, positive=True)
        self.batches = check_positive_int("batches", batches)
        self.iterations = check_positive_int("iterations", iterations)

    def get_config(self) -> dict:
        names = ("side", "norm", "batches", "iterations")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}

    def choose(
        self, graph: ChannelGraph, budget: Budget, rng: np.random.Generator, data=None
    ) -> list[Widening]:
        """Searches for the new neurons' weights. See `GrowthMethod.choose`."""
        added = {name: count for name, count in budget.spread().items() if count}
        if not added:
            return []
        batches = data.batches(self.batches, rng)
        folded = find_folded_norms(graph)
        groups = [FreshNeurons(graph, name, added[name], self.norm, folded, rng) for name in added]
        passes = 2 * self.iterations + 1
        passes += (self.side == "incoming") + any(group.norms.folded for group in groups)
        progress = Progress(passes * len(batches), "batch")
        network = FreshNetwork(graph, groups, batches, progress)
        network.find_input_means()
        if self.side == "incoming":
            network.try_zero_incoming(rng)
        for _ in range(self.iterations):
            network.take_gradients()
            network.ascend()
        network.take_gradients()
        return network.widenings()
