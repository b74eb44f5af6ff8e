"""CostMeter: what training takes, epoch by epoch, in the logs."""

from __future__ import annotations

import time
from typing import Any

import keras

from keras_grow.channels.flops import training_flops
from keras_grow.utils.checks import check_positive_int

# What an epoch took is called so in the logs.
SECONDS, FLOPS = "seconds", "training_flops"


class CostMeter(keras.callbacks.Callback):
    """Logs what each epoch takes: its seconds and its floating-point operations.

    The logs get `seconds`, with the growth before the epoch and without validation, and
    `training_flops`, at the width that the network had. So the history of `fit` can be drawn
    against either: `keras_grow.plots.growth_curve(history, x="flops")`.

    Put it first: then an epoch's time includes the growth that precedes it. `GrowthBackup` keeps
    what was measured, so a run that was stopped and went on has the cost of all its parts.

    Args:
        examples: Training examples per epoch.

    Attributes:
        started: When training began: local time, ISO 8601.
        seconds: Of each epoch so far.
        flops: Of each epoch so far.

    Example:

    >>> import keras, keras_grow, numpy as np
    >>> inputs = keras.Input((8,))
    >>> model = keras_grow.GrowableModel(inputs, keras.layers.Dense(3)(inputs))
    >>> model.compile("sgd", "mse")
    >>> meter = keras_grow.CostMeter(examples=20)
    >>> history = model.fit(np.ones((20, 8)), np.ones((20, 3)), epochs=2, verbose=0,
    ...                     callbacks=[meter])
    >>> history.history["training_flops"]  # 20 examples, 8 x 3 multiply-adds, thrice
    [2880, 2880]
    >>> meter.totals() == {"seconds": sum(meter.seconds), "training_flops": 5760, "images": 40}
    True
    """

    def __init__(self, examples: int):
        super().__init__()
        self.examples = check_positive_int("examples", examples)
        self._begin()

    def _begin(self) -> None:
        self.started = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        self.seconds: list[float] = []
        self.flops: list[int] = []
        self._since = time.perf_counter()  # of `elapsed`, less what earlier processes took
        self._ended: float | None = None
        self._begun: float | None = None  # of the epoch, while it trains
        self._trained = 0.0  # seconds of the epoch, up to where the clock was stopped

    @property
    def elapsed(self) -> float:
        """Seconds since training began, validation included, interruptions not."""
        return (self._ended or time.perf_counter()) - self._since

    def totals(self) -> dict[str, Any]:
        """Returns the cost of all epochs so far: `seconds`, `training_flops`, `images`."""
        images = self.examples * len(self.flops)
        return {SECONDS: sum(self.seconds), FLOPS: sum(self.flops), "images": images}

    def set_model(self, model: keras.Model) -> None:
        """Takes the model that `fit` trains; refuses one that can't be counted."""
        training_flops(model, self.examples)  # now, not after an epoch
        super().set_model(model)

    def on_train_begin(self, logs=None) -> None:
        """Begins anew, as Keras's `History` does."""
        self._begin()

    def on_train_end(self, logs=None) -> None:
        """Stops `elapsed`."""
        self._ended = time.perf_counter()

    def on_epoch_begin(self, epoch, logs=None) -> None:
        """Starts the clock, or starts it again in an epoch that was interrupted."""
        self._begun = time.perf_counter()

    def on_test_begin(self, logs=None) -> None:
        """Stops the clock: validation isn't training."""
        self._stop()

    def on_epoch_end(self, epoch, logs=None) -> None:
        """Records the epoch."""
        self._stop()
        self.seconds.append(self._trained)
        self.flops.append(training_flops(self.model, self.examples))
        self._trained = 0.0
        if logs is not None:
            logs.update({SECONDS: self.seconds[-1], FLOPS: self.flops[-1]})

    def get_state(self) -> dict[str, Any]:
        """Returns what has been measured so far."""
        running = 0.0 if self._begun is None else time.perf_counter() - self._begun
        return {
            "started": self.started,
            "seconds": list(self.seconds),
            "flops": list(self.flops),
            "elapsed": self.elapsed,
            "trained": self._trained + running,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from what `get_state` returned."""
        self.started, self._trained = state["started"], state["trained"]
        self.seconds, self.flops = list(state["seconds"]), list(state["flops"])
        self._since = time.perf_counter() - state["elapsed"]

    def _stop(self) -> None:
        if self._begun is not None:
            self._trained += time.perf_counter() - self._begun
            self._begun = None
