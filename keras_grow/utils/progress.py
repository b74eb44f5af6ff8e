"""A progress bar for waits that turn out long."""

from __future__ import annotations

import contextlib
import contextvars
import sys
import time
from collections.abc import Iterator
from typing import Any

import keras

# Seconds after which a wait deserves a bar.
PATIENCE = 2.0

_hidden = contextvars.ContextVar("hidden", default=False)


@contextlib.contextmanager
def hidden(hide: bool = True) -> Iterator[None]:
    """Within it no bar appears, if `hide`."""
    token = _hidden.set(hide)
    try:
        yield
    finally:
        _hidden.reset(token)


def is_watched() -> bool:
    """Whether somebody can see a bar move: in a terminal or a notebook, not in a log file."""
    return sys.stdout.isatty() or "ipykernel" in sys.modules


class Progress:
    """Keras's progress bar, which appears when the work has taken longer than about two seconds.

    Only where it is watched (`is_watched`), and not within `hidden`.

    Args:
        steps: Number of steps of the work.
        unit: What a step is called.
    """

    def __init__(self, steps: int, unit: str = "step"):
        self._steps, self._unit, self._done = steps, unit, 0
        self._started = time.monotonic()
        self._bar: Any = None
        self.shown = is_watched() and not _hidden.get()

    def advance(self) -> None:
        """Notes that one step is done."""
        self._done += 1
        if self._bar is None and self.shown and time.monotonic() - self._started > PATIENCE:
            self._bar = keras.utils.Progbar(self._steps, unit_name=self._unit)
        if self._bar is not None:
            self._bar.update(self._done)
