"""When to grow: schedules for `GrowthCallback`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from keras_grow.utils.checks import check_number, check_positive_int


class Schedule:
    """Base class of the growth schedules: decides after which epochs a model grows.

    Override `due`; override `observe` too where it depends on what training measures, and then
    `get_state` and `set_state`, so that `GrowthBackup` can resume a run.

    Example:

    >>> import keras_grow
    >>> class Doubling(keras_grow.Schedule):
    ...     def due(self, epoch):
    ...         return epoch > 0 and epoch & (epoch - 1) == 0
    >>> [epoch for epoch in range(10) if Doubling().due(epoch)]
    [1, 2, 4, 8]
    """

    def due(self, epoch: int) -> bool:
        """Tells whether the model grows now.

        Args:
            epoch: Number of epochs completed (0 before the first).
        """
        raise NotImplementedError(f"{type(self).__name__} must override `due`")

    def may_grow(self, epochs: int) -> bool:
        """Tells whether a `fit` of so many epochs can come to a growth: `GrowthCallback` warns.

        Override it where that is known before training begins. Defaults to True.
        """
        return True

    def observe(self, epoch: int, logs: Mapping[str, Any]) -> None:
        """Sees what an epoch logged.

        Args:
            epoch: Number of epochs completed, this one included.
            logs: The epoch's logs.
        """

    def grown(self, epoch: int) -> None:
        """Is told that the model has grown after `epoch` epochs."""

    def get_state(self) -> dict[str, Any]:
        """Returns what `set_state` needs to go on in another process, as JSON can hold it.

        Override it, and `set_state`, where `observe` or `grown` keeps anything.
        """
        if (type(self).observe, type(self).grown) != (Schedule.observe, Schedule.grown):
            raise NotImplementedError(
                f"{type(self).__name__} overrides `observe` or `grown`, so a backup must know what "
                "it keeps: override `get_state` and `set_state` too"
            )
        return {}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `get_state` returned."""


class Every(Schedule):
    """Grows every `epochs` epochs.

    Args:
        epochs: Epochs between growths.
        until: The last epoch after which the model may grow. Defaults to no limit.

    Example:

    >>> import keras_grow
    >>> [epoch for epoch in range(200) if keras_grow.Every(50).due(epoch)]
    [50, 100, 150]
    """

    def __init__(self, epochs: int, until: int | None = None):
        self.epochs = check_positive_int("every", epochs)
        self.until = math.inf if until is None else check_positive_int("until", until)

    def due(self, epoch: int) -> bool:
        """See `Schedule.due`."""
        return 0 < epoch <= self.until and epoch % self.epochs == 0

    def may_grow(self, epochs: int) -> bool:
        """See `Schedule.may_grow`. The last epoch is followed by no growth."""
        return self.epochs < epochs


class At(Schedule):
    """Grows after the given epochs.

    Args:
        epochs: Numbers of completed epochs.

    Example:

    >>> import keras_grow
    >>> [epoch for epoch in range(20) if keras_grow.At([3, 12]).due(epoch)]
    [3, 12]
    """

    def __init__(self, epochs: Iterable[int]):
        if isinstance(epochs, str) or not isinstance(epochs, Iterable):
            raise TypeError(
                f"`epochs` must be a sequence of positive integers. Received: epochs={epochs!r}"
            )
        self.epochs = frozenset(check_positive_int("epochs", epoch) for epoch in epochs)
        if not self.epochs:
            raise ValueError("`epochs` must name at least one epoch. Received: epochs=[]")

    def due(self, epoch: int) -> bool:
        """See `Schedule.due`."""
        return epoch in self.epochs

    def may_grow(self, epochs: int) -> bool:
        """See `Schedule.may_grow`. The last epoch is followed by no growth."""
        return min(self.epochs) < epochs


class OnPlateau(Schedule):
    """Grows when a logged quantity has stopped improving.

    Args:
        monitor: Name in the epoch's logs. Defaults to "val_loss".
        patience: Epochs without an improvement (and since the last growth) before a growth.
        min_delta: The least change that counts as an improvement, over the epochs since the last
            one, as in Keras's `EarlyStopping`.
        mode: "min" or "max". Defaults to "min"; "max" suits accuracies.
        max_growths: The most growths. Defaults to no limit.

    Raises:
        TypeError: if an argument is of the wrong type.
        ValueError: if `mode` is neither, a number is negative, or (during `fit`) if the logs lack
            `monitor`.

    Example:

    >>> import keras_grow
    >>> schedule = keras_grow.OnPlateau("loss", patience=2)
    >>> due = []
    >>> for epoch, loss in enumerate([1.0, 0.5, 0.5, 0.5, 0.5], start=1):
    ...     schedule.observe(epoch, {"loss": loss})
    ...     due.append(schedule.due(epoch))
    >>> due
    [False, False, False, True, True]
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        patience: int = 5,
        min_delta: float = 0.0,
        mode: str = "min",
        max_growths: int | None = None,
    ):
        if mode not in ("min", "max"):
            raise ValueError(f"`mode` must be 'min' or 'max'. Received: mode={mode!r}")
        if not isinstance(monitor, str):
            raise TypeError(f"`monitor` must be a string. Received: monitor={monitor!r}")
        self.monitor, self.mode = monitor, mode
        self.min_delta = check_number("min_delta", min_delta)
        self.patience = check_positive_int("patience", patience)
        self.growths_left = (
            math.inf if max_growths is None else check_positive_int("max_growths", max_growths)
        )
        self._best, self._waited = math.inf, 0

    def observe(self, epoch: int, logs: Mapping[str, Any]) -> None:
        """See `Schedule.observe`."""
        if self.monitor not in logs:
            raise ValueError(
                f"`OnPlateau` monitors '{self.monitor}', which this training doesn't log. Logged: "
                f"{sorted(logs)}"
            )
        value = float(logs[self.monitor]) * (1 if self.mode == "min" else -1)
        if value < self._best - self.min_delta:
            self._best, self._waited = value, 0
        else:
            self._waited += 1

    def due(self, epoch: int) -> bool:
        """See `Schedule.due`."""
        return self.growths_left > 0 and self._waited >= self.patience

    def grown(self, epoch: int) -> None:
        """See `Schedule.grown`. The wider model starts a plateau of its own."""
        self.growths_left -= 1
        self._best, self._waited = math.inf, 0

    def get_state(self) -> dict[str, Any]:
        """See `Schedule.get_state`."""
        return {"best": self._best, "waited": self._waited, "growths_left": self.growths_left}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """See `Schedule.set_state`."""
        self._best, self._waited = state["best"], state["waited"]
        self.growths_left = state["growths_left"]


def get(every: int | Schedule) -> Schedule:
    """Returns the given schedule, or `Every(every)`."""
    return every if isinstance(every, Schedule) else Every(every)
