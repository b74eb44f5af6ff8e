"""How a `GrowableModel` takes its steps on TensorFlow, and who else takes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras

from keras_grow.backend.tensorflow.distribution import (
    batch_of_first_replica,
    reducible,
    replicas_span_processes,
)
from keras_grow.backend.tensorflow.tracing import released_gradients


class TrainSteps:
    """Mixin of a model: its steps leave nothing behind, and work where several processes train.

    Keras 3.15 takes the mean of the first batch over the replicas, as a structure, which
    `MultiWorkerMirroredStrategy` refuses (reported in
    https://github.com/keras-team/keras/issues/20585); any replica's batch does as well. Relies on
    `TensorFlowTrainer._maybe_symbolic_build` (keras/src/backend/tensorflow/trainer.py).
    """

    def train_step(self, data):
        """Takes one training step."""
        with released_gradients():
            return reducible(super().train_step(data))

    def test_step(self, data):
        """Evaluates one batch."""
        with released_gradients():
            return reducible(super().test_step(data))

    def predict_step(self, data):
        """Predicts one batch."""
        with released_gradients():
            return super().predict_step(data)

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        if iterator is not None and replicas_span_processes(self.distribute_strategy):
            _, _, batches = next(iter(iterator))
            data_batch = batch_of_first_replica(self.distribute_strategy, next(batches))
            iterator = None
        super()._maybe_symbolic_build(iterator=iterator, data_batch=data_batch)


def as_train_function(step: Callable[[Iterator], dict[str, Any]]) -> Callable:
    """Returns a step that reads batches and returns logs as `fit` calls its train function."""
    return step


def sync_state(model: keras.Model) -> None:
    """Has the model's variables hold their values in the middle of an epoch: they always do."""
