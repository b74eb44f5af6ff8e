"""What a growth method is: it looks at a model and returns widenings."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from keras_grow.channels.budget import Budget
from keras_grow.channels.graph import ChannelGraph, VariableChannels
from keras_grow.core.index_maps import (
    AxisChannels,
    along,
    fresh_positions,
    gather_index,
    group_positions,
)
from keras_grow.core.widening import Widening, by_group
from keras_grow.methods.initial_values import initial_values
from keras_grow.utils.checks import check_seed


class GrowthMethod:
    """Base class of the growth methods.

    A method decides which channels to add, and with which weights; it never changes a model. To
    write one, give it a `name` and override `choose`.

    Args:
        seed: Integer seed of the method's random draws. Defaults to one drawn from Python's
            random state, so that `keras.utils.set_random_seed` makes a run repeatable.

    Example:

    >>> import keras_grow, numpy as np
    >>> class WidenFirst(keras_grow.GrowthMethod):
    ...     name = "widen_first"
    ...     def choose(self, graph, budget, rng, data=None):
    ...         name, width = next(iter(budget.widths.items()))
    ...         sources = np.r_[np.arange(width), -np.ones(budget.neurons, int)]
    ...         return [keras_grow.Widening(name, sources)]
    """

    name: ClassVar[str]
    needs_data: ClassVar[bool] = False

    def __init__(self, seed: int | None = None):
        self.seed = random.randrange(2**31) if seed is None else check_seed(seed)

    def choose(
        self, graph: ChannelGraph, budget: Budget, rng: np.random.Generator, data: Any = None
    ) -> list[Widening]:
        """Chooses what to add.

        Args:
            graph: The channel groups of the model, with the variables they run through.
            budget: How many neurons to add, and where to stop.
            rng: The source of every random draw of this growth.
            data: Batches of training data, for methods that need them.

        Returns:
            At most one `Widening` per group, adding `budget.neurons` channels in all (fewer only
            where a ceiling binds).
        """
        raise NotImplementedError(f"{type(self).__name__} must override `choose`")

    def get_config(self) -> dict:
        """Returns the arguments that make an equal method."""
        return {"seed": self.seed}

    @classmethod
    def from_config(cls, config: dict) -> GrowthMethod:
        """Makes a method from what `get_config` returned."""
        return cls(**config)


def check_choice(method: GrowthMethod, budget: Budget, widenings: Sequence[Widening]) -> None:
    """Holds a method to what it must return, and to its budget.

    Raises:
        TypeError: if it returned anything but widenings.
        ValueError: if it widens other groups than those that can grow, or by too much.
    """
    strange = [item for item in widenings if not isinstance(item, Widening)]
    if strange:
        raise TypeError(
            f"Growth method '{method.name}' must return a list of `keras_grow.Widening`. Received "
            f"in it: {strange[0]!r:.100}"
        )
    unknown = [widening.group for widening in widenings if widening.group not in budget.widths]
    if unknown:
        raise ValueError(
            f"Growth method '{method.name}' must widen groups that can grow: "
            f"{list(budget.widths)}. Received: '{unknown[0]}'"
        )
    added = sum(w.width - budget.widths[g] for g, w in by_group(widenings).items())
    if added > budget.neurons:
        raise ValueError(
            f"Growth method '{method.name}' must add at most {budget.neurons} neurons. "
            f"Received: {added}"
        )
    widths = {**budget.widths, **{w.group: w.width for w in widenings}}
    if not budget.affordable(widths):
        raise ValueError(
            f"Growth method '{method.name}' must ask `budget.affordable(widths)`, or take "
            f"`budget.spread()`: the model may not have the widths {widths}."
        )
    for name, number in budget.multiples.items():
        if widths[name] != budget.widths[name] and widths[name] % number:
            raise ValueError(
                f"Growth method '{method.name}' must take what `budget.rounded(added)` or "
                f"`budget.spread()` returns: the width of '{name}' must be a multiple of {number}. "
                f"Received: {widths[name]}"
            )


def draw(
    item: VariableChannels, axis: AxisChannels, widening: Widening, rng: np.random.Generator
) -> np.ndarray:
    """Draws what to add to a variable so that its fresh channels start as the layer's first ones.

    Args:
        item: The variable.
        axis: The axis that carries the group's channels.
        widening: The widening, of which only the sources count.
        rng: The source of the draw.

    Returns:
        An array for `Widening.incoming` or `outgoing`: draws of the layer's own initializer where
        channels are fresh and there is one, zeros elsewhere.
    """
    chosen = {widening.group: widening}
    shape = list(item.variable.shape)
    shape[axis.axis] = len(gather_index(axis.segments, chosen))
    if item.initializer is None:
        values = np.zeros(shape, "float32")
    else:
        values = initial_values(item.initializer, tuple(shape), rng) - np.float32(axis.fresh)
    run = group_positions(axis.segments, chosen, widening.group)
    values = np.take(values, run, axis=axis.axis)
    fresh = np.isin(np.arange(len(run)), fresh_positions(axis.segments, widening))
    return np.where(along(fresh, axis.axis, values.ndim), values, np.float32(0))
