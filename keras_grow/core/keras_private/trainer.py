"""What `fit` keeps while it runs (Keras 3.15)."""

from __future__ import annotations

from typing import Any

import keras

from keras_grow.backend import forget_traces, strategy_scope


def forget_compiled_functions(model: keras.Model) -> None:
    """Has the train, test and predict functions built anew: the old ones hold the old variables.

    `fit` makes its train function once, before its first epoch, so one that exists is remade at
    once (keras/src/backend/tensorflow/trainer.py).
    """
    training = model.train_function is not None
    model.train_function = model.test_function = model.predict_function = None
    forget_traces()
    if training:
        model.make_train_function(force=True)


def know_layers(model: keras.Model) -> None:
    """Has a compiled model know which layers it has now, and whether they train.

    It would warn in `fit`.

    Relies on `Trainer._compiled_trainable_state` (keras/src/trainers/trainer.py), which not every
    Keras 3 has.
    """
    known = getattr(model, "_compiled_trainable_state", None)
    if known is not None:
        # Another dictionary: TensorFlow can't export a model if one that it tracks has changed.
        layers = model._flatten_layers()
        model._compiled_trainable_state = {e: known.get(e, e.trainable) for e in layers}


def set_first_epoch(model: keras.Model, epoch: int | None) -> None:
    """Has the `fit` that has just begun start at an epoch; `None` leaves it where the user said.

    Relies on `Trainer._initial_epoch`, which `fit` reads after `on_train_begin`, as
    `keras.callbacks.BackupAndRestore` does (keras/src/callbacks/backup_and_restore.py).
    """
    model._initial_epoch = epoch


def iterators_of(epochs: int) -> int:
    """Returns how many iterators `fit` makes of a data set of known length in some epochs.

    Relies on `EpochIterator._enumerate_iterator` (keras/src/trainers/epoch_iterator.py): without
    `steps_per_epoch` it makes one as an epoch begins, and another, which it doesn't read, as the
    epoch ends.
    """
    return 2 * epochs


def build_metrics(model: keras.Model, batch: Any) -> None:
    """Makes the variables of a model's metrics, if its first step hasn't made them yet.

    Relies on `TensorFlowTrainer._symbolic_build` (keras/src/trainers/trainer.py).
    """
    with strategy_scope(model):
        model._symbolic_build(data_batch=batch)
