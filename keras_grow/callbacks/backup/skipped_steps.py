"""Passes over the first steps of an epoch: their batches are read, and nothing is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras

from keras_grow.backend import as_train_function


class SkippedSteps:
    """Stands in for a model's train function until `end` is called.

    Batches are read from whatever `fit` reads, so that the epoch goes on with the batch that it
    would have come to: no kind of data can be entered in the middle in a way common to all.

    Args:
        model: The model that `fit` trains.
        on_first_batch: Called with the first batch that is read.
    """

    def __init__(self, model: keras.Model, on_first_batch: Callable[[Any], None]):
        self._model = model
        self._on_first_batch: Callable[[Any], None] | None = on_first_batch
        self._trains = model.train_function
        model.train_function = as_train_function(self._pass_over)

    def _pass_over(self, iterator: Iterator) -> dict[str, Any]:
        batch = next(iterator)
        if self._on_first_batch is not None:
            self._on_first_batch(batch)
            self._on_first_batch = None
        for _ in range(self._model.steps_per_execution - 1):
            next(iterator, None)  # the last execution of an epoch may be shorter
        return self._model.get_metrics_result()

    def end(self) -> None:
        """Has the model train again."""
        if self._trains is not None:
            self._model.train_function, self._trains = self._trains, None
