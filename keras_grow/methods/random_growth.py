"""Random growth: fresh neurons, drawn as the layer drew its first ones."""

from __future__ import annotations

import keras
import numpy as np

from keras_grow.channels.budget import Budget
from keras_grow.channels.graph import ChannelGraph, VariableChannels
from keras_grow.core.index_maps import (
    AxisChannels,
    along,
    fresh_positions,
    group_positions,
    length_at,
    run_of,
    scale_vector,
)
from keras_grow.core.widening import Widening, spread
from keras_grow.methods.base import GrowthMethod, draw

_OUTGOING = ("zero", "small", "variance")


class Random(GrowthMethod):
    """Adds neurons with fresh weights, in proportion to the widths.

    Args:
        outgoing: Weights out of the new neurons. "zero": the network computes what it computed
            before, and they learn from the first step. "small": a hundredth of a fresh draw.
            "variance": as large as those of the present neurons, and all of them scaled down so
            that the variance of what they add up to stays, in expectation; the new neurons
            themselves are drawn at the scale of the present ones, with their mean statistics.
            Defaults to "zero".
        seed: Integer seed. Defaults to one drawn from Python's random state.

    Raises:
        ValueError: if `outgoing` is none of them.

    Example:

    >>> import keras_grow
    >>> keras_grow.methods.Random(seed=1).get_config()
    {'seed': 1, 'outgoing': 'zero'}

    Reference:

    - Berner et al., Dota 2 with Large Scale Deep Reinforcement Learning, 2019.
    - Yuan et al., Accelerated Training via Incrementally Growing Neural Networks using Variance
      Transfer and Learning Rate Adaptation, 2023 ("variance").
    """

    name = "random"

    def __init__(self, outgoing: str = "zero", seed: int | None = None):
        super().__init__(seed)
        if outgoing not in _OUTGOING:
            raise ValueError(
                f"`outgoing` must be one of {list(_OUTGOING)}. Received: outgoing={outgoing!r}"
            )
        self.outgoing = outgoing

    def choose(
        self, graph: ChannelGraph, budget: Budget, rng: np.random.Generator, data=None
    ) -> list[Widening]:
        """Draws the new neurons. See `GrowthMethod.choose`."""
        bare = {
            name: Widening(name, np.r_[np.arange(budget.widths[name]), np.full(added, -1)])
            for name, added in budget.spread().items()
            if added
        }
        if self.outgoing == "variance":
            scaled = {name: _scaled_down(widening) for name, widening in bare.items()}
            return [_at_scale(graph, widening, scaled, rng) for widening in scaled.values()]
        return [self._widen(graph, widening, rng) for widening in bare.values()]

    def _widen(self, graph, bare, rng) -> Widening:
        incoming = {
            item.path: draw(item, axis, bare, rng)
            for item, axis in graph.touching(bare.group, "output", "through")
        }
        outgoing = {}
        if self.outgoing == "small":
            outgoing = {
                item.path: 0.01 * draw(item, axis, bare, rng)
                for item, axis in graph.touching(bare.group, "input")
            }
        return Widening(bare.group, bare.sources, incoming=incoming, outgoing=outgoing)

    def get_config(self) -> dict:
        return {**super().get_config(), "outgoing": self.outgoing}


def _scaled_down(bare: Widening) -> Widening:
    """Scales what goes out of n channels, about to be m, by sqrt(n / m)."""
    share = np.mean(bare.sources >= 0)
    return Widening(bare.group, bare.sources, np.full(bare.width, np.sqrt(share)))


def _at_scale(graph, scaled: Widening, growth: dict[str, Widening], rng) -> Widening:
    """Adds neurons of the present ones' scale to a widening that scales their weights down."""
    incoming, outgoing = {}, {}
    for item, axis in graph.touching(scaled.group, "output", "through"):
        if item.is_kernel:
            drawn = _draw_at_scale(item, axis, scaled, rng)
            incoming[item.path] = _undo_scaling(drawn, item, axis, growth)
        else:
            incoming[item.path] = _mean(item, axis, scaled)
    for item, axis in graph.touching(scaled.group, "input"):
        drawn = _draw_at_scale(item, axis, scaled, rng)
        outgoing[item.path] = scaled.outgoing_scale[0] * drawn
    return Widening(scaled.group, scaled.sources, scaled.outgoing_scale, incoming, outgoing)


def _draw_at_scale(item: VariableChannels, axis: AxisChannels, widening: Widening, rng):
    """Draws by the layer's initializer, at the root mean square of the present channels."""
    drawn = draw(item, axis, widening, rng)
    fresh = np.mean(drawn**2) / np.mean(widening.sources < 0)
    wanted = np.mean(_present(item, axis, widening) ** 2)
    return (drawn * np.sqrt(wanted / (fresh or 1.0))).astype("float32")


def _undo_scaling(drawn, item: VariableChannels, axis: AxisChannels, growth: dict[str, Widening]):
    """Makes up for the scaling of the channels that a kernel sums over, where they grow, too.

    Fresh neurons' weights are scaled with the others', but don't read the other fresh channels.
    """
    for other in item.axes:
        if other is not axis and other.role == "input":
            scale = _present_scale(other, growth)
            drawn = drawn / along(scale, other.axis, drawn.ndim)
    return drawn.astype("float32")


def _present_scale(axis: AxisChannels, growth: dict[str, Widening]) -> np.ndarray:
    """Returns what present channels along an axis are scaled by: one number a group."""
    present = {
        name: Widening(name, np.arange(width), np.full(width, growth[name].outgoing_scale[0]))
        for name, width in {s.group: s.width for s in axis.segments}.items()
        if name in growth
    }
    return scale_vector(axis.segments, present)


def _mean(item: VariableChannels, axis: AxisChannels, widening: Widening) -> np.ndarray:
    """Returns what takes fresh channels from where they start to the mean of the present ones."""
    mean = np.mean(_present(item, axis, widening), axis=axis.axis, keepdims=True) - axis.fresh
    positions = fresh_positions(axis.segments, widening)
    length = length_at(run_of(axis.segments, widening.group, widening.width), {})
    return spread(np.repeat(mean, len(positions), axis.axis), positions, length, axis.axis)


def _present(item: VariableChannels, axis: AxisChannels, widening: Widening) -> np.ndarray:
    value = keras.ops.convert_to_numpy(item.variable).astype("float32")
    return np.take(value, group_positions(axis.segments, {}, widening.group), axis=axis.axis)
