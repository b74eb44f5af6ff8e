"""What a search found: its trials as JSON, as a table and as figures."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, Any, NamedTuple

import common

from keras_grow.plots.tuning import hyperparameter_curve
from keras_grow.tuning.hypermodel import GrowthTuner

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMAT = "keras_grow.search"
VERSION = 1  # rises when a field changes its meaning or goes
OBJECTIVE = "val_accuracy"
MOST_CURVES = 4


class Name(NamedTuple):
    """A hyperparameter: the type of its values, its label, and whether its axis is logarithmic."""

    kind: type
    label: str
    logarithmic: bool = False


NAMES = {
    "weight_sum": Name(float, "lambda, weight of the change of the sum of weights", True),
    "weight": Name(float, "weight of the similarity", True),
    "penalty_epochs": Name(int, "N, penalised epochs after each growth"),
    "rate": Name(float, "new neurons per old one"),
    "method": Name(str, "method"),
}


def describe_all(tuner: GrowthTuner, asked: dict) -> dict:
    """Returns what is written into trials.json: of the longest trials, the best first."""
    trials = [describe(trial, tuner.executions(trial)) for trial in tuner.oracle.trials.values()]
    trials.sort(key=lambda trial: (-trial["epochs"], -(trial["mean"] or 0)))
    return {
        "format": FORMAT,
        "version": VERSION,
        "objective": f"{OBJECTIVE} after the last epoch",
        "configuration": asked,
        "versions": common.versions(),
        "machine": common.machine(),
        "trials": trials,
        "by_value": by_value(trials),
    }


def describe(trial, executions: list[dict]) -> dict:
    """Returns a trial as JSON can hold it: hyperparameters, and each execution's results."""
    values = trial.hyperparameters.values
    completed = trial.status == "COMPLETED"
    histories = [execution["history"] for execution in executions] if completed else []
    accuracies = [history[OBJECTIVE][-1] for history in histories]
    trained = len(histories[0]["loss"]) if histories else 0
    return {
        "id": trial.trial_id,
        "status": trial.status,
        "hyperparameters": {k: v for k, v in values.items() if not k.startswith("tuner/")},
        "epochs": values.get("tuner/initial_epoch", 0) + trained,
        "accuracies": accuracies,
        "mean": statistics.mean(accuracies) if accuracies else None,
        "deviation": statistics.stdev(accuracies) if len(accuracies) > 1 else None,
        "params": [history["params"][-1] for history in histories],
        "seconds": [execution["seconds"] for execution in executions],
        "error": None if completed else (trial.message or "").strip().rpartition("\n")[-1],
    }


def table(trials: list[dict]) -> str:
    """Returns the trials as plain text."""
    names = list(trials[0]["hyperparameters"]) if trials else []
    rows = [["trial", *names, "epochs", "val. accuracy %", "params", "seconds", ""]]
    for trial in trials:
        values = [trial["hyperparameters"].get(name, "") for name in names]
        cells = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in values]
        rows.append([trial["id"], *cells, str(trial["epochs"]), *_measured(trial)])
    return _aligned(rows)


def _aligned(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _measured(trial: dict) -> list[str]:
    if trial["mean"] is None:
        return ["", "", "", f"{trial['status']} {trial['error'] or ''}"]
    accuracy = f"{100 * trial['mean']:.2f}"
    if trial["deviation"] is not None:
        accuracy += f" +- {100 * trial['deviation']:.2f} ({len(trial['accuracies'])})"
    params = f"{statistics.mean(trial['params']):,.0f}"
    return [accuracy, params, f"{sum(trial['seconds']):.0f}", ""]


def by_value(trials: list[dict]) -> dict[str, list[dict]]:
    """Sums up the trials trained longest: what each value came to, over all that have it.

    In a grid, where every value meets every other one, the values of a hyperparameter differ by
    its own effect alone, and each has many runs. Elsewhere they differ by the company they keep,
    too.

    Returns:
        Hyperparameter -> for each value, smallest first, `value`, `mean` accuracy, its standard
        `error` (`None` for a single run) and the number of `runs`.
    """
    kept = _longest(trials)
    return {
        name: [
            {"value": value, **_estimated(accuracies)}
            for value, accuracies in sorted(_pooled(kept, name).items())
        ]
        for name in (kept[0]["hyperparameters"] if kept else ())
    }


def _longest(trials: list[dict]) -> list[dict]:
    """Returns the completed trials that were trained longest."""
    trials = [trial for trial in trials if trial["mean"] is not None]
    longest = max((trial["epochs"] for trial in trials), default=0)
    return [trial for trial in trials if trial["epochs"] == longest]


def _pooled(trials: list[dict], name: str) -> dict[Any, list[float]]:
    """Returns value -> accuracies of all trials that have it."""
    pooled: dict[Any, list[float]] = {}
    for trial in trials:
        pooled.setdefault(trial["hyperparameters"][name], []).extend(trial["accuracies"])
    return pooled


def _estimated(accuracies: list[float]) -> dict:
    runs = len(accuracies)
    error = statistics.stdev(accuracies) / math.sqrt(runs) if runs > 1 else None
    return {"mean": statistics.mean(accuracies), "error": error, "runs": runs}


def table_by_value(found: dict[str, list[dict]]) -> str:
    """Returns what `by_value` found as plain text, of the values that several runs have."""
    rows = [["", "value", "val. accuracy %", "runs"]]
    for name, values in found.items():
        for each in values if all(each["error"] is not None for each in values) else ():
            accuracy = f"{100 * each['mean']:.2f} +- {100 * each['error']:.2f}"
            rows.append([name, f"{each['value']}", accuracy, f"{each['runs']}"])
    return _aligned(rows) if len(rows) > 1 else ""


def figures(trials: list[dict]) -> dict[str, Figure]:
    """Draws the accuracy against each number that was searched, of the trials trained longest."""
    trials = _longest(trials)
    drawn = {}
    for name in trials[0]["hyperparameters"] if trials else ():
        if name in NAMES and NAMES[name].kind is not str:
            curves, lines = series(trials, name)
            _, label, log = NAMES[name]
            drawn[name] = hyperparameter_curve(curves, label, log=log, lines=lines)
    return drawn


def series(trials: list[dict], name: str) -> tuple[dict[str, dict[float, list[float]]], bool]:
    """Groups trials that differ in one hyperparameter only; where these are many, all of a method.

    Returns:
        Label -> {value: accuracies}, and whether a line may join the values of a label.
    """
    curves: dict[str, dict[float, list[float]]] = {}
    for trial in trials:
        others = {k: v for k, v in trial["hyperparameters"].items() if k != name}
        label = ", ".join(f"{key} {value}" for key, value in others.items())
        curves.setdefault(label, {})[trial["hyperparameters"][name]] = trial["accuracies"]
    if len(curves) <= MOST_CURVES and 2 * len(curves) <= len(trials):
        return curves, True
    of_method: dict[str, list[dict]] = {}
    for trial in trials:
        label = trial["hyperparameters"].get("method", "all trials")
        of_method.setdefault(label, []).append(trial)
    pooled = {label: _pooled(group, name) for label, group in of_method.items()}
    counts = {len(accuracies) for values in pooled.values() for accuracies in values.values()}
    return pooled, len(counts) == 1 and counts != {1}
