"""What happened in one growth, as data."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol, TypeVar

import numpy as np

from keras_grow.core.widening import Widening

T = TypeVar("T")


class Widens(Protocol):
    """What an event asks of its model."""

    name: str

    def widen_weights(self, weights: Sequence, since: GrowthEvent) -> list[np.ndarray]: ...


@dataclass(frozen=True)
class GrowthEvent:
    """One growth of a model.

    Attributes:
        epoch: Number of epochs completed before the growth, or `None` outside `fit`.
        method: Name of the growth method.
        rate: The fraction of the neurons that was asked for.
        widths_before: Group name -> channels before.
        widths_after: Group name -> channels after.
        parameters_before: Trainable parameters before.
        parameters_after: Trainable parameters after.
        unhelpful: Number of new neurons that the method took although, by its own score, they do
            not help.
        seconds_choosing: Time the method took to choose, in seconds.
        seconds_widening: Time the widening took, in seconds (without the tracing of the next step).
        sources: Group name -> for each channel afterwards the channel before that it copies, or -1
            for a fresh one; of the groups that were widened.
        outgoing_scale: Group name -> for each channel afterwards the factor on the weights out of
            it; of the groups where one of them isn't 1.
        block: What `deepen` put in, and where, as JSON can hold it; `None` of a widening.

    Example:

    >>> import keras_grow
    >>> event = keras_grow.GrowthEvent(50, "random", 0.5, {"conv1": 4}, {"conv1": 6}, 40, 60)
    >>> event.neurons_before, event.neurons_after
    (4, 6)
    >>> print(event)
    epoch 50: random grew 4 -> 6 neurons, 40 -> 60 parameters, 0.0 s
    """

    epoch: int | None
    method: str
    rate: float
    widths_before: dict[str, int]
    widths_after: dict[str, int]
    parameters_before: int
    parameters_after: int
    unhelpful: int = 0
    seconds_choosing: float = 0.0
    seconds_widening: float = 0.0
    sources: dict[str, list[int]] = field(default_factory=dict)
    outgoing_scale: dict[str, list[float]] = field(default_factory=dict)
    block: dict[str, Any] | None = None

    @property
    def neurons_before(self) -> int:
        """Channels of all growable groups before the growth."""
        return sum(self.widths_before.values())

    @property
    def neurons_after(self) -> int:
        """Channels of all growable groups after the growth."""
        return sum(self.widths_after.values())

    @property
    def seconds(self) -> float:
        """Time of the growth, choosing and widening, in seconds."""
        return self.seconds_choosing + self.seconds_widening

    @property
    def keeps_widenings(self) -> bool:
        """Whether the event says what its channels copy. Files of version 0.1 don't."""
        return self._widened <= set(self.sources)

    @property
    def _widened(self) -> set[str]:
        before = self.widths_before
        return {n for n, width in self.widths_after.items() if width != before.get(n, width)}

    def renamed(self, values: Mapping[str, T]) -> dict[str, T]:
        """Returns what is known of groups before a block was put in, by their names after it.

        A block has channels of its own; what read those before it reads its now.
        """
        if self.block is None:
            return dict(values)
        groups = self.block["groups"]
        return {now: values[then] for now, then in groups.items() if then in values}

    @property
    def widenings(self) -> list[Widening]:
        """What was done to each group that was widened, without what was added to the weights.

        Where the event doesn't keep it, the first channels are the ones from before.
        """
        first = {
            name: [*range(self.widths_before[name])]
            + [-1] * (self.widths_after[name] - self.widths_before[name])
            for name in sorted(self._widened - set(self.sources))
        }
        return [
            Widening(name, sources, self.outgoing_scale.get(name))
            for name, sources in (first | self.sources).items()
        ]

    def widen(self, weights: Sequence) -> list[np.ndarray]:
        """Takes weights from just before this growth to the present widths of its model.

        See `GrowableModel.widen_weights`.

        Args:
            weights: Arrays as `model.get_weights()` returned them before the growth.

        Raises:
            ValueError: if the event belongs to no model (any more), or the weights don't fit.
        """
        model = self._model and self._model()
        if model is None:
            raise ValueError(
                "This event belongs to no model. Take it from `model.growth_history`, or call "
                "`model.widen_weights(weights)`."
            )
        return model.widen_weights(weights, since=self)

    # The model that has grown, referred to weakly: an event is data, and not compared by it.
    _model = None

    def bound_to(self, model: Widens) -> GrowthEvent:
        """Returns the event, as one of a model's."""
        event = replace(self)
        object.__setattr__(event, "_model", weakref.ref(model))
        return event

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_model"}

    def with_names(self, names: Mapping[str, str]) -> GrowthEvent:
        """Returns the event of the same network with other layer names.

        Args:
            names: Group name -> its other name.
        """
        fields = ("widths_before", "widths_after", "sources", "outgoing_scale")
        renamed = {
            field: {names.get(name, name): value for name, value in getattr(self, field).items()}
            for field in fields
        }
        block = self.block
        if block is not None:
            groups = {
                names.get(now, now): names.get(then, then) for now, then in block["groups"].items()
            }
            ends = {key: names.get(block[key], block[key]) for key in ("after", "output")}
            block = {**block, **ends, "groups": groups}
        return replace(self, **renamed, block=block)

    def to_dict(self) -> dict:
        """Returns the event as a dictionary that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> GrowthEvent:
        """Reads an event from what `to_dict` returned."""
        return cls(**values)

    def __str__(self) -> str:
        when = "" if self.epoch is None else f"epoch {self.epoch}: "
        if self.block is not None:
            return (
                f"{when}a block up to `{self.block['output']}` follows `{self.block['after']}`, "
                f"{self.parameters_before:,} -> {self.parameters_after:,} parameters, "
                f"{self.seconds:.1f} s"
            )
        least = f" ({self.unhelpful} without a helping score)" if self.unhelpful else ""
        return (
            f"{when}{self.method} grew {self.neurons_before:,} -> {self.neurons_after:,} neurons"
            f"{least}, {self.parameters_before:,} -> {self.parameters_after:,} parameters, "
            f"{self.seconds:.1f} s"
        )
