"""How a `GrowableModel` takes its steps on JAX: as every Keras model."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras


class TrainSteps:
    """Mixin of a model: nothing needs to be done, as JAX's steps are pure functions."""


def as_train_function(step: Callable[[Iterator], dict[str, Any]]) -> Callable:
    """Returns a step that reads batches and returns logs as `fit` calls its train function."""
    return lambda state, iterator: (step(iterator), state)


def sync_state(model: keras.Model) -> None:
    """Has the model's variables hold their values in the middle of an epoch.

    There `fit` keeps them beside the variables (`JAXTrainer.jax_state_sync`, public).
    """
    model.jax_state_sync()


def fast_batch_norm(layer: Any, inputs: Any, training: bool) -> None:
    """Returns `None`: XLA fuses Keras's own layer by itself."""


def forget_traces() -> None:
    """Forgets what is kept of traced functions: nothing beyond the functions' own lives."""


def collect_garbage() -> None:
    """Frees what a growth leaves: old functions in reference cycles, with the old variables."""
    gc.collect()


def released_gradients() -> AbstractContextManager[None]:
    """Has what is traced in its scope leave nothing behind: nothing is."""
    return nullcontext()


def make_unusable(value: Any) -> None:
    """Leaves a variable's former value: a traced function holds no variables, only shapes."""
