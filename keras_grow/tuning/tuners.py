"""KerasTuner's tuners for models that grow: they keep whole models, and every execution apart.

A stock tuner builds a trial's model anew from its hyperparameters and loads weights into it, which
do not fit once the model has grown. These tuners are used in the same way, and save and load
`.keras` files instead. They rely on two things that KerasTuner 1.4.8 keeps private:
`Tuner._build_hypermodel` (keras_tuner/src/engine/tuner.py), the one place where a tuner makes the
model of an execution, and the brackets of `HyperbandOracle` (keras_tuner/src/tuners/hyperband.py).
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import json
import math
import time
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_grow.utils.checks import check_positive_int
from keras_grow.utils.files import replacing

try:
    import keras_tuner

    # KerasTuner imports it in the middle of each trial, and does not name it as a requirement.
    importlib.import_module("tensorboard")
except ImportError as error:
    raise ImportError(
        "`keras_grow.tuning` needs KerasTuner, and KerasTuner needs TensorBoard to run a trial: "
        f"pip install keras-tuner tensorboard. Missing: {error.name}"
    ) from error

BEST = "best.keras"
LAST = "last-{execution}.keras"
EXECUTIONS = "executions.json"


class GrowthTuner:
    """Makes a KerasTuner tuner keep grown models. Name it before the tuner to derive from.

    - `get_best_models` gives back the grown, trained model of a trial's best epoch.
    - Where a trial goes on from an earlier one (Hyperband), each execution continues its own
      model: widths, weights, the optimizer's state, and the penalty's window. It continues from
      the last epoch, so that no growth is left out.
    - `executions` tells what each execution of a trial measured; KerasTuner keeps the mean.
    - Where the hypermodel has a `seed`, execution number i of every trial draws from seed and i.
    - The global dtype policy is that under which the tuner was made; a stock tuner trains in
      float32 unless `build` sets another.

    Custom losses, metrics and schedules must be registered with Keras, as for `load_model`.

    Example:

    >>> import keras_tuner
    >>> class MyTuner(GrowthTuner, keras_tuner.BayesianOptimization):
    ...     pass
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._dtype_policy = keras.config.dtype_policy()
        self._keeper: _Keeper | None = None

    def run_trial(self, trial, *args, callbacks=None, **kwargs):
        """Runs the executions of a trial."""
        self._keeper = _Keeper(
            Path(self.get_trial_dir(trial.trial_id)),
            self.oracle.objective,
            keep_last="tuner/epochs" in trial.hyperparameters.values,
        )
        callbacks = [*(callbacks or ()), self._keeper]
        return super().run_trial(trial, *args, callbacks=callbacks, **kwargs)

    def load_model(self, trial) -> keras.Model:
        """Loads the model of a trial's best epoch, as wide as it was then."""
        return self._load(trial.trial_id, BEST)

    def executions(self, trial) -> list[dict[str, Any]]:
        """Returns what each execution of a trial measured.

        Args:
            trial: A `keras_tuner` trial, such as `tuner.oracle.get_best_trials(1)[0]`.

        Returns:
            One dictionary per execution that has finished: `history` (name to one value per
            epoch, `None` where it isn't finite), `growth` (`GrowthEvent.to_dict()`s) and `seconds`.

        Raises:
            ValueError: if the trial's file is damaged.
        """
        path = Path(self.get_trial_dir(trial.trial_id), EXECUTIONS)
        try:
            return json.loads(path.read_text()) if path.exists() else []
        except ValueError as error:
            raise ValueError(f"{path} is damaged or only half written: {error}") from error

    def _build_hypermodel(self, hp) -> keras.Model:
        # KerasTuner has just cleared the session, and the policy with it.
        keras.config.set_dtype_policy(self._dtype_policy)
        execution = self._keeper.execution
        seed = getattr(self.hypermodel, "seed", None)
        if seed is not None:
            # Other draws in a later round, or it would see the same order of the data again.
            entropy = [seed, execution, hp.values.get("tuner/initial_epoch", 0)]
            keras.utils.set_random_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))
        earlier = hp.values.get("tuner/trial_id")
        if earlier is None:
            return super()._build_hypermodel(hp)
        return self._load(earlier, LAST.format(execution=execution))

    def _load(self, trial_id: str, name: str) -> keras.Model:
        path = Path(self.get_trial_dir(trial_id), name)
        if not path.exists():
            raise keras_tuner.errors.FatalValueError(
                f"Trial {trial_id} has left no model at {path}: it has not finished, has failed, "
                "or was run by another tuner than those of `keras_grow.tuning`."
            )
        strategy = self.distribution_strategy
        with strategy.scope() if strategy else contextlib.nullcontext():
            try:
                return keras.models.load_model(path)
            except (OSError, ValueError, TypeError, zipfile.BadZipFile) as error:
                raise keras_tuner.errors.FatalValueError(
                    f"The model of trial {trial_id} can't be loaded from {path}: {error}"
                ) from error


class _Keeper(keras.callbacks.Callback):
    """Saves the models of one trial, and what its executions measure.

    Args:
        folder: The trial's folder.
        objective: The tuner's objective.
        keep_last: Whether a later trial may go on from the model of an execution's last epoch.

    Attributes:
        execution: Number of executions that have finished.
    """

    def __init__(self, folder: Path, objective: Any, keep_last: bool):
        super().__init__()
        self.folder, self.objective, self.keep_last = folder, objective, keep_last
        self.execution = 0
        self._best = math.inf if objective.direction == "min" else -math.inf
        self._records: list[dict] = []
        self._history: dict[str, list] = {}
        self._begun = 0.0

    def __deepcopy__(self, memo) -> _Keeper:
        return self  # KerasTuner copies callbacks for each execution; this one counts them

    def on_train_begin(self, logs=None) -> None:
        """Starts the record of an execution."""
        self._history, self._begun = defaultdict(list), time.perf_counter()

    def on_epoch_end(self, epoch, logs=None) -> None:
        """Records the epoch, and saves the model where it is the best one so far."""
        for name, value in (logs or {}).items():
            self._history[name].append(float(value) if math.isfinite(value) else None)
        if not self.objective.has_value(logs):
            if math.isinf(self._best):  # perhaps `HyperModel.fit` computes it, after the last epoch
                self.model.save(self.folder / BEST)
            return
        value = self.objective.get_value(logs)
        if self.objective.better_than(value, self._best):
            self._best = value
            self.model.save(self.folder / BEST)

    def on_train_end(self, logs=None) -> None:
        """Writes the record of the execution."""
        if self.keep_last:
            self.model.save(self.folder / LAST.format(execution=self.execution))
        growth = [event.to_dict() for event in getattr(self.model, "growth_history", [])]
        seconds = time.perf_counter() - self._begun
        self._records.append({"history": self._history, "growth": growth, "seconds": seconds})
        with replacing(self.folder / EXECUTIONS) as partial:
            partial.write_text(json.dumps(self._records, allow_nan=False))
        self.execution += 1


class Hyperband(GrowthTuner, keras_tuner.Hyperband):
    """`keras_tuner.Hyperband`, for models that grow. See `GrowthTuner`.

    A schedule of growth counts a trial's epochs through all of its rounds (`OnPlateau` begins
    anew in each). Networks that haven't grown yet don't tell how well they grow, so no round ends
    before the first growth.

    Args:
        *args: See `keras_tuner.Hyperband`.
        min_epochs: The fewest epochs of a round. Defaults to one more than the epochs before the
            first growth of a `GrowthHyperModel`, where `every` is a number (or numbers).
        **kwargs: See `keras_tuner.Hyperband`.

    Raises:
        ValueError: if `max_epochs` is less than `min_epochs`.
    """

    def __init__(self, *args, min_epochs: int | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        if min_epochs is None:
            min_epochs = 1 + getattr(self.hypermodel, "epochs_before_growth", 0)
        check_positive_int("min_epochs", min_epochs)
        # A worker asks its chief; a search that is taken up again has its brackets.
        if isinstance(self.oracle, keras_tuner.oracles.HyperbandOracle) and not self.oracle.trials:
            _begin_brackets(self.oracle, min_epochs)


def _begin_brackets(oracle: keras_tuner.oracles.HyperbandOracle, min_epochs: int) -> None:
    """Makes the first bracket anew, as `HyperbandOracle.__init__` does with `min_epochs = 1`."""
    if oracle.max_epochs < min_epochs:
        raise ValueError(
            f"`max_epochs` must be at least {min_epochs}, so that a model grows and trains on. "
            f"Received: max_epochs={oracle.max_epochs}"
        )
    oracle.min_epochs = min_epochs
    oracle._current_bracket = oracle._get_num_brackets() - 1
    oracle._brackets = []
    oracle._start_new_bracket()


class BayesianOptimization(GrowthTuner, keras_tuner.BayesianOptimization):
    """`keras_tuner.BayesianOptimization`, for models that grow. See `GrowthTuner`."""


class RandomSearch(GrowthTuner, keras_tuner.RandomSearch):
    """`keras_tuner.RandomSearch`, for models that grow. See `GrowthTuner`."""


class GridOracle(keras_tuner.Oracle):
    """Tries every combination of the hyperparameters' values, once.

    KerasTuner's own forgets where it was when a search is taken up again. This one looks at the
    trials that there are, and takes the first combination that is not among them.
    """

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """Returns the values of the next trial. See `keras_tuner.Oracle.populate_space`."""
        space = self.get_space()
        names = {hp.name for hp in space.space}
        tried = [
            {name: value for name, value in trial.hyperparameters.values.items() if name in names}
            for trial in self.trials.values()
        ]
        for values in _combinations(space):
            if values not in tried:
                return {"status": "RUNNING", "values": values}
        return {"status": "STOPPED"}


def _combinations(space):
    """Yields every combination of values, of the hyperparameters that are active in it."""
    every = [[(hp, value) for value in hp.values] for hp in space.space]
    for combination in itertools.product(*every):
        space.values = {hp.name: value for hp, value in combination}
        yield {hp.name: value for hp, value in combination if space.is_active(hp)}


class GridSearch(GrowthTuner, keras_tuner.Tuner):
    """Tries every combination of values, for models that grow. See `GrowthTuner`.

    Args:
        hypermodel: A `keras_tuner.HyperModel`, such as a `GrowthHyperModel`.
        objective: Name of what to optimise, or a `keras_tuner.Objective`.
        max_trials: The most combinations to try. Defaults to all.
        hyperparameters: `keras_tuner.HyperParameters` that override those of the hypermodel.
        max_retries_per_trial: How often to try a trial again that has failed.
        max_consecutive_failed_trials: The search ends after so many failed trials in a row.
        **kwargs: See `keras_tuner.Tuner`.
    """

    def __init__(
        self,
        hypermodel=None,
        objective=None,
        max_trials: int | None = None,
        hyperparameters=None,
        max_retries_per_trial: int = 0,
        max_consecutive_failed_trials: int = 3,
        **kwargs,
    ):
        oracle = GridOracle(
            objective=objective,
            max_trials=max_trials,
            hyperparameters=hyperparameters,
            max_retries_per_trial=max_retries_per_trial,
            max_consecutive_failed_trials=max_consecutive_failed_trials,
        )
        super().__init__(oracle, hypermodel, **kwargs)
