"""What a search found: its trials, what each value came to, and the curves that show it."""

from __future__ import annotations

import math
from statistics import mean, stdev
from typing import Any

from keras_grow.tuning.tuners import GrowthTuner

_MOST_CURVES = 4


def describe(tuner: GrowthTuner) -> list[dict]:
    """Returns the trials of a search as JSON can hold them: of the longest, the best first.

    Args:
        tuner: A tuner that has searched, whose objective is an accuracy.

    Returns:
        For each trial its `id`, `status`, `hyperparameters`, the `epochs` that it was trained,
        the `accuracies` of its executions after their last epoch with `mean` and `deviation`,
        their `params` and `seconds`, and the `error` of one that failed.
    """
    objective = tuner.oracle.objective.name
    trials = [
        _described(trial, tuner.executions(trial), objective)
        for trial in tuner.oracle.trials.values()
    ]
    return sorted(trials, key=lambda trial: (-trial["epochs"], -(trial["mean"] or 0)))


def _described(trial: Any, executions: list[dict], objective: str) -> dict:
    values, completed = trial.hyperparameters.values, trial.status == "COMPLETED"
    histories = [execution["history"] for execution in executions] if completed else []
    accuracies = [history[objective][-1] for history in histories]
    trained = len(histories[0]["loss"]) if histories else 0
    return {
        "id": trial.trial_id,
        "status": trial.status,
        "hyperparameters": {k: v for k, v in values.items() if not k.startswith("tuner/")},
        "epochs": values.get("tuner/initial_epoch", 0) + trained,
        "accuracies": accuracies,
        "mean": mean(accuracies) if accuracies else None,
        "deviation": stdev(accuracies) if len(accuracies) > 1 else None,
        "params": [history["params"][-1] for history in histories],
        "seconds": [execution["seconds"] for execution in executions],
        "error": None if completed else (trial.message or "").strip().rpartition("\n")[-1],
    }


def longest(trials: list[dict]) -> list[dict]:
    """Returns the completed trials that were trained longest."""
    trials = [trial for trial in trials if trial["mean"] is not None]
    longest = max((trial["epochs"] for trial in trials), default=0)
    return [trial for trial in trials if trial["epochs"] == longest]


def by_value(trials: list[dict]) -> dict[str, list[dict]]:
    """Sums up the trials trained longest: what each value came to, over all that have it.

    In a grid, where every value meets every other one, the values of a hyperparameter differ by
    its own effect alone, and each has many runs. Elsewhere they differ by the company they keep,
    too.

    Args:
        trials: Trials as `describe` returns them.

    Returns:
        Hyperparameter -> for each value, smallest first, `value`, `mean` accuracy, its standard
        `error` (`None` for a single run) and the number of `runs`.
    """
    kept = longest(trials)
    return {
        name: [
            {
                "value": value,
                "mean": mean(got),
                "error": stdev(got) / math.sqrt(len(got)) if len(got) > 1 else None,
                "runs": len(got),
            }
            for value, got in sorted(_pooled(kept, name).items())
        ]
        for name in (kept[0]["hyperparameters"] if kept else ())
    }


def curves(trials: list[dict], name: str) -> tuple[dict[str, dict[float, list[float]]], bool]:
    """Groups trials that differ in one hyperparameter only; where these are many, all of a method.

    Args:
        trials: Trials as `describe` returns them, trained for as long as each other.
        name: The hyperparameter.

    Returns:
        Label -> {value: accuracies}, and whether a line may join the values of a label.
    """
    by_others: dict[str, dict[float, list[float]]] = {}
    of_method: dict[str, list[dict]] = {}
    for trial in trials:
        values = trial["hyperparameters"]
        label = ", ".join(f"{key} {value}" for key, value in values.items() if key != name)
        by_others.setdefault(label, {})[values[name]] = trial["accuracies"]
        of_method.setdefault(values.get("method", "all trials"), []).append(trial)
    if len(by_others) <= _MOST_CURVES and 2 * len(by_others) <= len(trials):
        return by_others, True
    pooled = {label: _pooled(group, name) for label, group in of_method.items()}
    counts = {len(accuracies) for values in pooled.values() for accuracies in values.values()}
    return pooled, len(counts) == 1 and counts != {1}


def _pooled(trials: list[dict], name: str) -> dict[Any, list[float]]:
    """Returns value -> accuracies of all trials that have it."""
    pooled: dict[Any, list[float]] = {}
    for trial in trials:
        pooled.setdefault(trial["hyperparameters"][name], []).extend(trial["accuracies"])
    return pooled
