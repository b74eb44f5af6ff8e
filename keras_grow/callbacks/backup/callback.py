"""GrowthBackup: a training run that was killed goes on where it was."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_grow.backend import sync_state
from keras_grow.backend.tf_data import is_dataset, make_iterators
from keras_grow.callbacks.backup import keras_callbacks
from keras_grow.callbacks.backup import state as training_state
from keras_grow.callbacks.backup.file import read_backup, write_backup
from keras_grow.callbacks.backup.skipped_steps import SkippedSteps
from keras_grow.core import keras_private
from keras_grow.model import check_growable_model
from keras_grow.utils.checks import check_positive_int
from keras_grow.utils.files import PARTIAL

FILE = "latest.backup"


class GrowthBackup(keras.callbacks.Callback):
    """Backs up a training run of a `GrowableModel`, and goes on from the backup in the next `fit`.

    As `keras.callbacks.BackupAndRestore`, for models that grow: run the same script again after
    it was killed, and `fit` widens the model to where it was, puts everything back (weights,
    optimizer slots, growth history, penalty, schedule, seeds, history of the logs, the patience of
    Keras's own callbacks) and trains the epochs that are missing. What that covers, and what a data
    pipeline must do for a run that goes on to equal one that never stopped, is in `docs/saving.md`.

    A backup is written beside the previous one, which it replaces when it is whole and on the
    disk. Put the callback last, or at least after `GrowthCallback`.

    Args:
        backup_dir: Folder of the backup. Each run needs one of its own.
        save_freq: "epoch" to save at the end of each epoch, or a number of steps to save after
            each so many steps too. A step is a batch. Defaults to "epoch".
        delete_checkpoint: Whether to delete the backup when `fit` has finished. Defaults to True.
            With False, running the script again trains nothing and gives the finished model.
        verbose: 1 prints a line when a run goes on from a backup, 0 prints nothing.

    Raises:
        ValueError: if an argument is wrong; when `fit` begins, if the backup is damaged or another
            network's, naming the file, or if the callback comes before one whose state it saves.
            (Of Keras's own callbacks a warning says so.)
        TypeError: if an argument, or the model that it is used with, is of the wrong type.

    Example:

    >>> import keras, keras_grow, numpy as np, tempfile
    >>> def run(epochs):
    ...     inputs = keras.Input((8,))
    ...     x = keras_grow.layers.GrowableDense(4, activation="relu", name="hidden")(inputs)
    ...     model = keras_grow.GrowableModel(inputs, keras.layers.Dense(3)(x))
    ...     model.compile("sgd", "mse")
    ...     growth = keras_grow.GrowthCallback(0.5, every=1, method="net2wider", verbose=0)
    ...     backup = keras_grow.GrowthBackup(folder, delete_checkpoint=False, verbose=0)
    ...     model.fit(np.ones((8, 8)), np.ones((8, 3)), epochs=epochs, verbose=0,
    ...               callbacks=[growth, backup])
    ...     return model
    >>> folder = tempfile.mkdtemp()
    >>> run(epochs=2).widths
    {'hidden': 6}
    >>> run(epochs=3).widths  # trains one epoch
    {'hidden': 9}
    """

    def __init__(
        self,
        backup_dir: str | os.PathLike,
        save_freq: int | str = "epoch",
        delete_checkpoint: bool = True,
        verbose: int = 1,
    ):
        super().__init__()
        if not isinstance(backup_dir, (str, os.PathLike)):
            raise TypeError(
                f"`backup_dir` must be the path of a folder. Received: backup_dir={backup_dir!r}"
            )
        if not os.fspath(backup_dir):
            raise ValueError("`backup_dir` must not be empty. Received: backup_dir=''")
        if isinstance(save_freq, str) and save_freq != "epoch":
            raise ValueError(
                "`save_freq` must be 'epoch' or a positive number of steps. Received: "
                f"save_freq={save_freq!r}"
            )
        self.path = Path(backup_dir) / FILE
        self.save_freq = save_freq
        if save_freq != "epoch":
            check_positive_int("save_freq", save_freq)
        self.delete_checkpoint, self.verbose = delete_checkpoint, verbose
        self._begin({})

    def _begin(self, content: Mapping[str, Any]) -> None:
        """Sets out from what a backup holds, or from nothing."""
        self._epoch: int = content.get("epoch", 0)
        self._epochs: list[int] = content.get("epochs", [])
        self._logs: dict[str, list] = content.get("logs", {})
        # Steps of the first epoch that have been trained, and what waits until they are passed.
        self._steps_before: int = content.get("step", 0)
        self._waiting: tuple = ()
        self._skipped: SkippedSteps | None = None
        self._step = self._since_saving = 0
        self._history_is_due = bool(content)
        self._metrics_are_due = self._steps_before > 0

    @property
    def epoch(self) -> int:
        """Number of epochs that the backup holds, 0 where there is none: the epoch to go on with.

        Raises:
            ValueError: if the backup is damaged.
        """
        return read_backup(self.path)[0]["epoch"] if self.path.exists() else 0

    def set_model(self, model: keras.Model) -> None:
        """Takes the model that `fit` trains; refuses one of another kind."""
        otherwise = "; for other models there is `keras.callbacks.BackupAndRestore`"
        check_growable_model(model, "GrowthBackup", otherwise)
        super().set_model(model)

    def on_train_begin(self, logs=None) -> None:
        """Goes on from the backup, where there is one."""
        self._begin({})
        self._check_order()
        for callback in self._stateful():
            callback.get_state()  # one that can't be saved says so now, not after an epoch
        for leftover in self.path.parent.glob(PARTIAL + "*"):  # of a process killed while writing
            shutil.rmtree(leftover)
        if self.path.exists():
            self._restore()

    def _stateful(self) -> list:
        """Returns the callbacks that keep a state, all of which must come before this one."""
        callbacks = self.model.fit_context.arguments["callbacks"]
        stateful = [c for c in callbacks if hasattr(c, "get_state") and hasattr(c, "set_state")]
        for callback in stateful:
            if self in callbacks[: callbacks.index(callback)]:
                raise ValueError(
                    f"`GrowthBackup` must come after `{type(callback).__name__}` in `callbacks`, "
                    "so that it saves what that has done. Put it last."
                )
        return stateful

    def _of_keras(self) -> list:
        """Returns Keras's own callbacks before this one that remember anything."""
        callbacks = self.model.fit_context.arguments["callbacks"]
        return [c for c in callbacks[: callbacks.index(self)] if _remembers(c)]

    def _check_order(self) -> None:
        """Warns of callbacks of Keras whose state can't be saved, as they act after this one."""
        callbacks = self.model.fit_context.arguments["callbacks"]
        late = [c for c in callbacks[callbacks.index(self) :] if _remembers(c)]
        if late:
            warnings.warn(
                f"`GrowthBackup` comes before `{type(late[0]).__name__}` in `callbacks`, which "
                "will start anew in a run that goes on. Put `GrowthBackup` last.",
                stacklevel=2,
            )

    def _restore(self) -> None:
        content, arrays = read_backup(self.path)
        try:
            self._check_steps(content)
            callbacks = self._stateful(), self._of_keras()
            training_state.restore(self.model, *callbacks, content, arrays)
        except ValueError as error:
            raise ValueError(
                f"{self.path} can't be gone on from: {error}. Build and compile the model as in "
                "the run that was backed up, or give `GrowthBackup` another folder to train from "
                "the beginning."
            ) from error
        self._begin(content)
        self._waiting = (content, arrays) if self._steps_before else ()
        training_state.set_random_state(content["random"])
        if not self._steps_before:
            training_state.restore_kept(self.model, content, arrays)
        self._pass_epochs(content["epoch"])
        stopped = keras_callbacks.has_stopped(self._of_keras())
        first_epoch = self.params["epochs"] if stopped else content["epoch"]
        keras_private.set_first_epoch(self.model, first_epoch)
        self._say(content)

    def _pass_epochs(self, epoch: int) -> None:
        """Has a data set that is read once an epoch come in the order that is due."""
        given = self.model.fit_context.arguments
        data = given["x"]
        if is_dataset(data) and given["steps_per_epoch"] is None:
            make_iterators(data, keras_private.iterators_of(epoch - given["initial_epoch"]))

    def _check_steps(self, content: Mapping[str, Any]) -> None:
        if content["step"] and content["steps_per_execution"] != self.model.steps_per_execution:
            raise ValueError(
                "it was written in the middle of an epoch with steps_per_execution="
                f"{content['steps_per_execution']}, the model has {self.model.steps_per_execution}"
            )

    def _say(self, content: Mapping[str, Any]) -> None:
        if self.verbose:
            steps = f" and {content['step']} steps" if content["step"] else ""
            print(f"GrowthBackup: goes on after {content['epoch']} epochs{steps}, from {self.path}")

    def on_epoch_begin(self, epoch, logs=None) -> None:
        """Notes what the epoch starts from; in one that was interrupted, passes over its steps."""
        self._settle()
        self._epoch, self._step = epoch, 0
        self._random = training_state.random_state()
        if self._steps_before:
            self._skipped = SkippedSteps(self.model)
            self.model.fit_context.at_end.callback(self._skipped.end)

    def _settle(self) -> None:
        """Does what must wait until `fit` has begun: Keras empties its history as it begins."""
        keras_private.set_first_epoch(self.model, None)
        history = getattr(self.model, "history", None)
        if self._history_is_due and isinstance(history, keras.callbacks.History):
            history.epoch = list(self._epochs)
            history.history = {name: list(values) for name, values in self._logs.items()}
        self._history_is_due = False

    def on_train_batch_begin(self, batch, logs=None) -> None:
        """Ends the passing over, when the first step comes that has not been trained."""
        if self._skipped and batch >= self._steps_before:
            self._end_skipping()

    def _end_skipping(self) -> None:
        self._skipped.end()
        training_state.restore_kept(self.model, *self._waiting)
        # They have counted the batches that were passed over.
        training_state.restore_callbacks_of_keras(self._of_keras(), *self._waiting)
        self._step, self._steps_before = self._steps_before, 0
        self._skipped, self._waiting = None, ()

    def on_train_batch_end(self, batch, logs=None) -> None:
        """Saves, where `save_freq` says so."""
        if self._skipped:
            self._restore_metrics()
            return
        if self.save_freq == "epoch":
            return
        self._since_saving += batch + 1 - self._step
        self._step = batch + 1
        if self._since_saving >= self.save_freq:
            self._save(self._epoch, self._step)

    def _restore_metrics(self) -> None:
        """Puts the metrics back after the first step passed over: the epoch began with new ones."""
        if not self._metrics_are_due:
            return
        self._metrics_are_due = False
        sync_state(self.model)
        training_state.restore_metrics(self.model, self._waiting[1], self._skipped.batch)
        self._skipped.logs.update(self.model.get_metrics_result())

    def on_epoch_end(self, epoch, logs=None) -> None:
        """Saves the run as it is between two epochs."""
        if self._skipped:  # the backup came after its last step
            self._end_skipping()
        self._epochs.append(epoch)
        for name, value in (logs or {}).items():
            self._logs.setdefault(name, []).append(np.asarray(value).tolist())
        self._save(epoch + 1, 0)

    def _save(self, epoch: int, step: int) -> None:
        self._since_saving = 0
        sync_state(self.model)
        content, arrays = training_state.capture(self.model, self._stateful(), self._of_keras())
        if not step:
            arrays.pop("metrics")  # an epoch starts with new ones
        position = {"epoch": epoch, "step": step, "epochs": self._epochs, "logs": self._logs}
        # The data of an interrupted epoch is read again from its start.
        generators = self._random if step else training_state.random_state()
        steps = {"steps_per_execution": self.model.steps_per_execution, "random": generators}
        write_backup(self.path, {**content, **position, **steps}, arrays)

    def on_train_end(self, logs=None) -> None:
        """Deletes the backup, if it is not to be kept."""
        self._settle()
        if self.delete_checkpoint:
            _delete(self.path)


def _remembers(callback: Any) -> bool:
    """Tells whether a callback is one of Keras's that remembers anything, and doesn't save it."""
    own = hasattr(callback, "get_state") and hasattr(callback, "set_state")
    return not own and keras_private.memory_of(callback) is not None


def _delete(path: Path) -> None:
    """Deletes a file, and its folder if nothing else is in it."""
    path.unlink(missing_ok=True)
    if path.parent.is_dir() and not any(path.parent.iterdir()):
        path.parent.rmdir()
