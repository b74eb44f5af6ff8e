"""What belongs to one call of `GrowableModel.fit`, from its beginning to its end."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import keras

from keras_grow.growing.events import GrowthEvent
from keras_grow.methods.scoring_data import PassingData, ScoringData, training_data
from keras_grow.utils.checks import check_callbacks

_DATA = "x y sample_weight class_weight batch_size validation_split shuffle".split()


class FitContext:
    """What a `fit` was given, and what lives as long as it runs.

    Args:
        model: The model that trains.
        arguments: What `fit` was given, by name.

    Attributes:
        arguments: The same, callbacks as a tuple.
        data: What growth methods can score neurons on; `None` where no callback needs any.
        at_end: A stack of what is to be done when `fit` ends, also by an exception.
    """

    def __init__(self, model: keras.Model, arguments: Mapping[str, Any]):
        callbacks = arguments["callbacks"]
        check_callbacks(callbacks)
        # A `CallbackList` holds the callbacks itself.
        callbacks = keras.tree.flatten(getattr(callbacks, "callbacks", callbacks) or [])
        self._model = model
        self.arguments = {**arguments, "callbacks": tuple(callbacks)}
        self.data: ScoringData | None = None
        if any(getattr(callback, "needs_data", False) for callback in callbacks):
            self.data = training_data(**{name: arguments[name] for name in _DATA})
        self.at_end = ExitStack()

    def arguments_of_keras(self) -> dict[str, Any]:
        """Returns what `keras.Model.fit` is called with."""
        own = keras.callbacks.LambdaCallback(on_epoch_end=self._end_epoch)
        changed: dict[str, Any] = {}
        if isinstance(self.data, PassingData):
            # An adapter knows the class weights already.
            changed = {"x": self.data.stream, "class_weight": None}
            own.on_train_batch_end = self.data.step_done
        # First, so that all others see what it logs.
        return {**self.arguments, **changed, "callbacks": [own, *self.arguments["callbacks"]]}

    def tell_of_growth(self, event: GrowthEvent) -> None:
        """Calls the callbacks of this `fit` that define `on_growth(event)`."""
        for callback in self.arguments["callbacks"]:
            if hasattr(callback, "on_growth"):
                callback.on_growth(event)

    def _end_epoch(self, epoch: int, logs: dict | None) -> None:
        """Counts down the penalty's window, once an epoch, whoever armed it."""
        window = self._model.penalty_window
        if window is not None and logs is not None:
            logs.update(window.end_epoch())
