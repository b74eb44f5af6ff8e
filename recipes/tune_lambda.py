"""Searches lambda, N and the penalty's weight, judged by images held out from the training split.

    python recipes/tune_lambda.py --train-examples 10000 --epochs 30 --every 6     # Hyperband
    python recipes/tune_lambda.py --tuner bayesian --trials 30 --seeds 3
    python recipes/tune_lambda.py --scan lambda=0,0.001,0.01,0.1,1 --seeds 3
    python recipes/tune_lambda.py --scan epochs=1,2,5,10,20,30 --weight-sum 0.1 --seeds 3

A hyperparameter is a range (1e-4:1), a list (0,0.1,1) or a value (0.01). `--scan` tries a list of
values of one hyperparameter, or every combination of several; the others are then fixed. Network,
data, schedule and training are those of cifar.py, whose other options work here as well.

Each setting trains `--seeds` times, from the same seeds for all settings (the order of the images
differs), and is judged by the mean accuracy after the last epoch: to take the best epoch of each
would be to choose it by the images that judge it. The test split is not looked at. Hyperband
compares settings after fewer epochs than `--epochs`, but not before the first growth; the learning
rate is that of the whole run all the same.

A search that was stopped goes on with the same command and --out. Several processes share one, as
KerasTuner has it: the same command with KERASTUNER_TUNER_ID=chief, then worker-0, worker-1, ...,
each with KERASTUNER_ORACLE_IP and KERASTUNER_ORACLE_PORT of the chief.

Writes into --out: trials.json, a figure accuracy_against_<hyperparameter>.png for each number that
was searched, TensorBoard's files with the hyperparameters (tensorboard/), KerasTuner's (search/).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import cifar
import common
import data
import keras

import keras_grow
from keras_grow import plots, runs, tuning

OBJECTIVE = "val_accuracy"
HELD_OUT, TRIALS = 5000, 20
TUNERS = {
    "hyperband": tuning.Hyperband,
    "bayesian": tuning.BayesianOptimization,
    "random": tuning.RandomSearch,
    "grid": tuning.GridSearch,
}
# What changes nothing of a trial: a search that goes on may have it otherwise. (`penalty_weight` is
# what cifar.py calls `weight`.)
MAY_CHANGE = ("trials", "penalty_weight", *cifar.ELSEWHERE)


class Name(NamedTuple):
    """A hyperparameter: type of its values, name in `--scan`, label, whether its axis is log."""

    kind: type
    scan: str
    label: str
    logarithmic: bool = False


NAMES = {
    "weight_sum": Name(float, "lambda", "lambda, weight of the change of the sum of weights", True),
    "weight": Name(float, "weight", "weight of the similarity", True),
    "penalty_epochs": Name(int, "epochs", "N, penalised epochs after each growth"),
    "rate": Name(float, "rate", "new neurons per old one"),
    "method": Name(str, "method", "method"),
}
SCANS = {each.scan: name for name, each in NAMES.items()}


class LastEpochHyperModel(tuning.GrowthHyperModel):
    """Has a trial judged by its last epoch, the only one after which it is validated."""

    def fit(self, *args, epochs: int, **kwargs) -> dict[str, float]:
        """Trains a model, and returns what its last epoch logged."""
        history = super().fit(*args, epochs=epochs, validation_freq=[epochs], **kwargs).history
        return {name: values[-1] for name, values in history.items()}


def main(argv: list[str] | None = None) -> dict | None:
    """Runs the recipe, and returns what it writes into trials.json (a worker: nothing)."""
    args, training = parse(argv)
    asked = claim(args, training)
    keras.utils.set_random_seed(training.seed)
    keras.config.set_dtype_policy(training.mixed_precision or keras.config.floatx())
    images = data.load(training)
    board = keras.callbacks.TensorBoard(str(args.out / "tensorboard"), write_graph=False)
    tuner = make_tuner(args, training, images)
    tuner.search(
        images.train,
        validation_data=images.validation,
        epochs=training.epochs,
        shuffle=False,  # the data do it
        callbacks=[board, *images.callbacks],
        verbose=1 if sys.stdout.isatty() else 2,
    )
    if is_worker():
        return None  # the chief reports
    trials = tuning.describe(tuner)
    found = {
        "format": "keras_grow.search",
        "version": 1,
        "objective": f"{OBJECTIVE} after the last epoch",
        "configuration": asked,
        "versions": runs.versions(),
        "machine": runs.machine(),
        "trials": trials,
        "by_value": tuning.by_value(trials),
    }
    common.write_json(args.out / "trials.json", found)
    for name, figure in figures(trials).items():
        figure.savefig(args.out / f"accuracy_against_{name}.png", dpi=150)
    print(f"\n{table(trials)}\n\n{table_by_value(found['by_value'])}".rstrip())
    print(f"\ntrials.json and figures are in {args.out}")
    return found


def is_worker() -> bool:
    """Whether this process runs trials for a chief."""
    name = os.environ.get("KERASTUNER_TUNER_ID", "")
    return "KERASTUNER_ORACLE_IP" in os.environ and "chief" not in name


def claim(args: argparse.Namespace, training: argparse.Namespace) -> dict:
    """Makes `--out` the folder of this search, or checks that it is. Returns what was asked for."""
    spaces = {name: as_text(getattr(args, name)) for name in NAMES}
    asked = cifar.configuration(training) | {"tuner": args.tuner, "seeds": args.seeds} | spaces
    asked = {name: value for name, value in asked.items() if name not in MAY_CHANGE}
    path = args.out / "configuration.json"
    others = ("search", "trials.json", runs.RESULTS)
    if not path.exists() and any((args.out / name).exists() for name in others):
        raise common.FolderError(
            f"--out {args.out} holds something else than a search: name another"
        )
    common.claim(path, asked)
    if not is_worker():  # the chief may be writing just now
        for each in sorted((args.out / "search").rglob("*.json")):
            common.read_json(each)
    return asked


def make_tuner(args, training, images: data.Data) -> tuning.GrowthTuner:
    """Returns the tuner, with the trials that are in `--out` already."""
    given = {"max_trials": args.trials, "seed": training.seed + 1}  # KerasTuner takes 0 for `None`
    if args.tuner == "hyperband":
        given = {"max_epochs": training.epochs, "seed": training.seed + 1}
    elif args.tuner == "grid":
        given = {"max_trials": args.trials}
    return TUNERS[args.tuner](
        hypermodel(args, training, lambda: cifar.build_model(training, images)),
        OBJECTIVE,
        executions_per_trial=args.seeds,
        directory=str(args.out),
        project_name="search",
        **given,
    )


def hypermodel(args, training, build: Callable) -> LastEpochHyperModel:
    """Returns the hypermodel; raises a `ValueError` where a hyperparameter is wrong."""
    spaces = {name: getattr(args, name) for name in NAMES}
    if spaces["method"] == training.method:  # with the options that the network needs
        spaces["method"] = cifar.method(training)
    return LastEpochHyperModel(build, **spaces, every=training.every, seed=training.seed)


def table(trials: list[dict]) -> str:
    """Returns the trials as plain text."""
    names = list(trials[0]["hyperparameters"]) if trials else []
    rows = [["trial", *names, "epochs", "val. accuracy %", "params", "seconds", ""]]
    for trial in trials:
        values = [trial["hyperparameters"].get(name, "") for name in names]
        cells = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in values]
        measured = ["", "", "", f"{trial['status']} {trial['error'] or ''}"]
        if trial["mean"] is not None:
            accuracy = f"{100 * trial['mean']:.2f}"
            if trial["deviation"] is not None:
                accuracy += f" +- {100 * trial['deviation']:.2f} ({len(trial['accuracies'])})"
            measured = [accuracy, f"{mean(trial['params']):,.0f}", f"{sum(trial['seconds']):.0f}"]
            measured.append("")
        rows.append([trial["id"], *cells, str(trial["epochs"]), *measured])
    return _aligned(rows)


def table_by_value(found: dict[str, list[dict]]) -> str:
    """Returns what `by_value` found as plain text, of the values that several runs have."""
    rows = [["", "value", "val. accuracy %", "runs"]]
    for name, values in found.items():
        for each in values if all(each["error"] is not None for each in values) else ():
            accuracy = f"{100 * each['mean']:.2f} +- {100 * each['error']:.2f}"
            rows.append([name, f"{each['value']}", accuracy, f"{each['runs']}"])
    return _aligned(rows) if len(rows) > 1 else ""


def figures(trials: list[dict]) -> dict:
    """Draws the accuracy against each number that was searched, of the trials trained longest."""
    trials = tuning.longest(trials)
    drawn = {}
    for name in trials[0]["hyperparameters"] if trials else ():
        if name in NAMES and NAMES[name].kind is not str:
            curves, lines = tuning.curves(trials, name)
            drawn[name] = plots.hyperparameter_curve(
                curves, NAMES[name].label, log=NAMES[name].logarithmic, lines=lines
            )
    return drawn


def _aligned(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def parse(argv: list[str] | None) -> tuple[argparse.Namespace, argparse.Namespace]:
    """Reads the command line: what to search, and how to train (the options of cifar.py)."""
    parser = common.parser(
        __doc__,
        epilog="Every other option is one of cifar.py: see its --help. Of the training images, "
        f"--validation-examples ({HELD_OUT} by default) are held out.",
        allow_abbrev=False,  # they would take what is meant for cifar.py
    )
    add = parser.add_argument
    add("--tuner", choices=list(TUNERS), help="default hyperband, or grid with --scan")
    add("--trials", type=common.positive_int, help=f"the most; {TRIALS}, or for grid all of them")
    add("--seeds", type=common.positive_int, default=1, help="trainings of each setting")
    add("--scan", type=scan, action="append", default=[], help="NAME=V,V,...: " + ", ".join(SCANS))
    add("--out", type=Path, help="folder for the results, if not runs/tune_lambda-<time>")
    add("--weight-sum", type=space(float), help="lambda, of Eq. 4; default 1e-4:1")
    add("--penalty-weight", dest="weight", type=space(float), help="of Eq. 2; default 0.01:1")
    add("--penalty-epochs", type=space(int), help="N; default 1 to --every, 30 at most")
    add("--method", type=space(str), default="firefly", help="how to choose new neurons")
    add("--rate", type=space(float), default=0.35, help="new neurons per old one")
    args, rest = parser.parse_known_args(argv)
    args.out = args.out or common.default_out("tune_lambda")
    defaults = ["--validation-examples", str(HELD_OUT)]
    training = cifar.parse([*defaults, *rest, "--out", str(args.out)])
    try:
        _settle(args, training)
        hypermodel(args, training, build=lambda: None)
    except (TypeError, ValueError) as error:
        parser.error(str(error))
    return args, training


def _settle(args: argparse.Namespace, training: argparse.Namespace) -> None:
    """Fills in what was not given, and refuses what does not go together."""
    if not training.validation_examples:
        raise ValueError("--validation-examples must leave images to judge by")
    if training.static or not training.penalty or training.test_every > 1:
        raise ValueError("--static, --no-penalty and --test-every don't go with a search")
    if training.every >= training.epochs:
        raise ValueError(
            f"--every {training.every} leaves no growth within {training.epochs} epochs"
        )
    if args.scan and args.tuner not in (None, "grid"):
        raise ValueError(f"--scan is a grid: leave out --tuner {args.tuner}")
    args.tuner = args.tuner or ("grid" if args.scan else "hyperband")
    if args.tuner == "hyperband" and args.trials:
        raise ValueError("--trials follow from --epochs with hyperband")
    if args.tuner in ("bayesian", "random"):
        args.trials = args.trials or TRIALS
    for name, values in args.scan:
        setattr(args, name, values)
    most = min(training.every, 30)
    penalty = keras_grow.SimilarityPenalty()
    fixed = (penalty.weight_sum, penalty.weight, min(penalty.epochs, most))
    ranges = ((1e-4, 1.0), (0.01, 1.0), (1, most) if most > 1 else 1)
    for name, default in zip(
        ("weight_sum", "weight", "penalty_epochs"),
        fixed if args.tuner == "grid" else ranges,
        strict=True,
    ):
        if getattr(args, name) is None:
            setattr(args, name, default)
    if not any(isinstance(getattr(args, name), tuple | list) for name in NAMES):
        raise ValueError("there is nothing to search: give one a range (LOW:HIGH) or a list (A,B)")


def space(kind: type) -> Callable[[str], Any]:
    """Returns an argparse type: a value, a range (low:high) or a list (a,b,c)."""

    def read(text: str) -> Any:
        try:
            if ":" in text:
                return tuple(kind(part) for part in text.split(":"))
            values = [kind(part) for part in text.split(",")]
        except ValueError as error:
            raise argparse.ArgumentTypeError(
                f"must be a value, LOW:HIGH or A,B,C of type {kind.__name__}. Received: {text!r}"
            ) from error
        return values if len(values) > 1 else values[0]

    return read


def scan(text: str) -> tuple[str, list]:
    """Argparse type: NAME=V,V,... Returns the hyperparameter's name and its values."""
    name, _, values = text.partition("=")
    if name not in SCANS or "," not in values:
        raise argparse.ArgumentTypeError(
            f"must be NAME=V,V,... with a name of {', '.join(SCANS)}. Received: {text!r}"
        )
    return SCANS[name], space(NAMES[SCANS[name]].kind)(values)


def as_text(given: Any) -> str:
    """Returns a hyperparameter as it is given on the command line."""
    if isinstance(given, tuple | list):
        return (":" if isinstance(given, tuple) else ",").join(map(str, given))
    return str(given)


if __name__ == "__main__":
    try:
        main()
    except (data.DataError, OSError, ValueError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("stopped: the same command with the same --out goes on")
