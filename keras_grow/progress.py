"""A progress bar for waits that turn out long."""

from __future__ import annotations

import time
from typing import Any

import keras

# Seconds after which a wait deserves a bar.
PATIENCE = 2.0


class Progress:
    """Keras's progress bar, which appears when the work has taken longer than about two seconds.

    Args:
        steps: Number of steps of the work.
        unit: What a step is called.
    """

    def __init__(self, steps: int, unit: str = "step"):
        self._steps, self._unit, self._done = steps, unit, 0
        self._started = time.monotonic()
        self._bar: Any = None

    def advance(self) -> None:
        """Notes that one step is done."""
        self._done += 1
        if self._bar is None and time.monotonic() - self._started > PATIENCE:
            self._bar = keras.utils.Progbar(self._steps, unit_name=self._unit)
        if self._bar is not None:
            self._bar.update(self._done)
