"""The penalty's window: for how many more epochs the penalty is part of the training loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from keras_grow.channels.graph import ChannelGraph
from keras_grow.layers import Growable
from keras_grow.penalty.similarity import SimilarityPenalty, mean_similarity


def penalised_kernels(graph: ChannelGraph) -> list[tuple[keras.Variable, int]]:
    """Returns the kernels of the layers that can grow, each with the axis of its neurons."""
    return [
        (item.variable, axis.axis)
        for item in graph.variables
        if item.is_kernel and isinstance(item.layer, Growable)
        for axis in item.axes
        if axis.role in ("output", "through")
        and any(segment.group in graph.growable for segment in axis.segments)
    ]


def model_similarity(graph: ChannelGraph) -> float:
    """Returns the mean over the layers that can grow of Eq. 2, for the present weights."""
    values = [mean_similarity(kernel, axis) for kernel, axis in penalised_kernels(graph)]
    return float(keras.ops.mean(keras.ops.stack(values)))


class PenaltyWindow:
    """A penalty on the kernels of a model, armed for some epochs after a growth.

    It holds a few variables of its own, so that arming and disarming it retraces nothing: a
    counter of the epochs left, the sums of weights that Eq. 4 compares with, and the running mean
    of the drift.

    Args:
        penalty: The penalty.
        kernels: Pairs of a kernel and the axis of its neurons.
        epochs_left: Epochs for which it stays armed.
        sums: The sums of weights to compare with. Defaults to the present ones.
    """

    def __init__(
        self,
        penalty: SimilarityPenalty,
        kernels: Sequence[tuple[keras.Variable, int]],
        epochs_left: int,
        sums: Sequence[float] | None = None,
    ):
        self.penalty = penalty
        self.kernels = [kernel for kernel, _ in kernels]
        self.axes = [axis for _, axis in kernels]
        if sums is None:
            # The penalty's own sums, to the last bit: |log r| has a kink where nothing changed.
            zeros = keras.ops.zeros(len(self.kernels))
            sums = keras.ops.convert_to_numpy(penalty(self.kernels, self.axes, zeros).sums)
        self._epochs_left = _state(epochs_left, "int32")
        self._sums = _state(sums, "float32")
        self._drift = _state(0.0, "float32")
        self._steps = _state(0.0, "float32")

    @property
    def epochs_left(self) -> int:
        """Number of epochs for which the penalty is still part of the training loss."""
        return int(self._epochs_left.numpy())

    def loss(self) -> Any:
        """Returns the penalty of the present weights, or zero outside the window.

        Called once per training step, before the update.
        """
        armed = keras.ops.greater(self._epochs_left, 0)
        loss, drift, sums = keras.ops.cond(armed, self._armed, self._idle)
        if self.penalty.reference == "step":
            self._sums.assign(sums)
        self._drift.assign_add(drift)
        self._steps.assign_add(keras.ops.cast(armed, "float32"))
        return loss

    def _armed(self) -> tuple:
        terms = self.penalty(self.kernels, self.axes, keras.ops.convert_to_tensor(self._sums))
        return terms.loss, terms.drift, terms.sums

    def _idle(self) -> tuple:
        zero = keras.ops.zeros((), "float32")
        return zero, zero, keras.ops.convert_to_tensor(self._sums)

    def end_epoch(self) -> float:
        """Counts an epoch, and returns its mean drift (Eq. 4): 0 where the window was closed."""
        steps = float(self._steps.numpy())
        drift = float(self._drift.numpy()) / steps if steps else 0.0
        self._drift.assign(0.0)
        self._steps.assign(0.0)
        self._epochs_left.assign(max(self.epochs_left - 1, 0))
        return drift

    def get_config(self) -> dict:
        """Returns what `from_config` needs, beside the kernels."""
        return {
            "penalty": keras.saving.serialize_keras_object(self.penalty),
            "epochs_left": self.epochs_left,
            "sums": [float(value) for value in self._sums.numpy()],
            "drift": float(self._drift.numpy()),
            "steps": float(self._steps.numpy()),
        }

    @classmethod
    def from_config(cls, config: dict, kernels: Sequence) -> PenaltyWindow:
        """Makes a window from what `get_config` returned."""
        penalty = keras.saving.deserialize_keras_object(config["penalty"])
        window = cls(penalty, kernels, config["epochs_left"], config["sums"])
        window._drift.assign(config.get("drift", 0.0))
        window._steps.assign(config.get("steps", 0.0))
        return window


def _state(value, dtype: str) -> keras.Variable:
    return keras.Variable(value, dtype=dtype, trainable=False, aggregation="only_first_replica")
