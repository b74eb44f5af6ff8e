"""What happened in one growth, as data."""

from __future__ import annotations

from dataclasses import asdict, dataclass


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

    def to_dict(self) -> dict:
        """Returns the event as a dictionary that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> GrowthEvent:
        """Reads an event from what `to_dict` returned."""
        return cls(**values)

    def __str__(self) -> str:
        when = "" if self.epoch is None else f"epoch {self.epoch}: "
        least = f" ({self.unhelpful} without a helping score)" if self.unhelpful else ""
        return (
            f"{when}{self.method} grew {self.neurons_before:,} -> {self.neurons_after:,} neurons"
            f"{least}, {self.parameters_before:,} -> {self.parameters_after:,} parameters, "
            f"{self.seconds:.1f} s"
        )
