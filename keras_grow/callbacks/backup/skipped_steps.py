"""Passes over the first steps of an epoch: their batches are read, and nothing is trained."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras

from keras_grow.backend import as_train_function


class SkippedSteps:
    """Stands in for a model's train function until `end` is called.

    Batches are read from whatever `fit` reads, so that the epoch goes on with the batch that it
    would have come to: no kind of data can be entered in the middle in a way common to all.

    Args:
        model: The model that `fit` trains.

    Attributes:
        batch: The latest batch that was read.
        logs: What every step returns, one and the same dictionary. It may be filled after the
            first one: only then the metrics are known to be built.
    """

    def __init__(self, model: keras.Model):
        self._model = model
        self.batch: Any = None
        self.logs: dict[str, Any] = {}
        self._trains = model.train_function
        model.train_function = as_train_function(self._pass_over)

    def _pass_over(self, iterator: Iterator) -> dict[str, Any]:
        self.batch = next(iterator)
        for _ in range(self._model.steps_per_execution - 1):
            next(iterator, None)  # the last execution of an epoch may be shorter
        return self.logs

    def end(self) -> None:
        """Has the model train again."""
        if self._trains is not None:
            self._model.train_function, self._trains = self._trains, None
