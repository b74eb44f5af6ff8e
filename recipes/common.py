"""What the recipes share: a run's results as JSON, the meter that fills them, argument types.

A run is one file, `results.json`, that other recipes read: what was asked for, on which machine,
what happened epoch by epoch and growth by growth, and what came out. It is complete or not there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

import keras_grow
from keras_grow.channels.flops import training_flops
from keras_grow.utils.files import replacing

FORMAT = "keras_grow.run"
VERSION = 1  # rises when a field changes its meaning or goes


@dataclass(frozen=True)
class Run:
    """The results of one training run.

    Attributes:
        recipe: Name of the recipe.
        configuration: Its arguments, by name.
        versions: Of Python and of the packages.
        machine: Platform, number of CPUs, names of the devices.
        started: Local time, ISO 8601.
        history: Name -> one value per epoch; a value that isn't finite is `None`.
        growth: One `GrowthEvent.to_dict()` per growth.
        seconds: "total" (all of `fit`), "training" (growths included, validation not), and what
            the growths took of it: "choosing", "widening".
        training_flops: Floating-point operations, each epoch at its width.
        widths: Channel group -> final width.
        neurons: Sum of the widths.
        parameters: Final number of trainable parameters.
        test_loss: After the last epoch.
        test_accuracy: After the last epoch, from 0 to 1.
    """

    recipe: str
    configuration: dict[str, Any]
    versions: dict[str, str]
    machine: dict[str, Any]
    started: str
    history: dict[str, list[float | None]]
    growth: list[dict[str, Any]]
    seconds: dict[str, float]
    training_flops: int
    widths: dict[str, int]
    neurons: int
    parameters: int
    test_loss: float | None
    test_accuracy: float

    def to_dict(self) -> dict[str, Any]:
        """Returns the run as it stands in its file."""
        return {"format": FORMAT, "version": VERSION, **_finite(asdict(self))}


def write_run(path: str | os.PathLike, run: Run) -> None:
    """Writes a run: completely, or not at all."""
    text = json.dumps(run.to_dict(), indent=1, allow_nan=False)
    with replacing(path) as partial:
        partial.write_text(text + "\n")


def read_run(path: str | os.PathLike) -> Run:
    """Reads what `write_run` wrote.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, or isn't the results of a run.
    """
    try:
        content = json.loads(Path(path).read_text())
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"No results at {path}. A recipe writes `results.json` into its --out folder when it "
            "has finished."
        ) from error
    except ValueError as error:  # not JSON, or not even text
        raise ValueError(
            f"{path} is damaged or only half written: {error}. Delete it and run the recipe again."
        ) from error
    return _run_from(content, path)


def _run_from(content: Any, path: str | os.PathLike) -> Run:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(
            f"{path} is not the results of a recipe: it has no entry format='{FORMAT}'"
        )
    if content.get("version") != VERSION:
        raise ValueError(
            f"{path} has results of another version than this one reads ({VERSION}). Use the "
            f"keras_grow that wrote it. Received: version={content.get('version')!r}"
        )
    names = [field.name for field in fields(Run)]
    missing = [name for name in names if name not in content]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}. Delete it and run the recipe again.")
    return Run(**{name: content[name] for name in names})


class FolderError(ValueError):
    """A folder that was named for results is for something else."""


def claim(path: Path, asked: dict[str, Any]) -> None:
    """Writes down what a folder is for, or makes sure that it is for the same.

    Args:
        path: A JSON file in the folder.
        asked: What it is for: a configuration, as JSON has it.

    Raises:
        FolderError: if the folder is for something else, or the file is damaged.
    """
    if not path.exists():
        with replacing(path) as partial:
            partial.write_text(json.dumps(asked, indent=1) + "\n")
        return
    before = read_json(path)
    if not isinstance(before, dict):
        raise FolderError(f"{path} is not a configuration. Name another folder: --out")
    other = [
        f"{name} was {before.get(name)}, now {asked.get(name)}"
        for name in sorted({*before, *asked})
        if before.get(name) != asked.get(name)
    ]
    if other:
        raise FolderError(
            f"{path.parent} is of another configuration ({'; '.join(other)}). Ask for that one to "
            "go on with it, or name another folder: --out"
        )


def read_json(path: Path) -> Any:
    """Reads what an earlier start of a recipe left in its folder.

    Raises:
        FolderError: if the file is damaged.
    """
    try:
        return json.loads(path.read_text())
    except ValueError as error:  # not JSON, or not even text
        raise FolderError(
            f"{path} is damaged or only half written: {error}. Bring back a copy of the folder, or "
            "name another: --out"
        ) from error


def load_model(path: str | os.PathLike) -> keras.Model:
    """Loads a saved model, not compiled.

    Raises:
        ValueError: if the file is damaged, or something else.
    """
    try:
        return keras.models.load_model(path, compile=False)
    except Exception as error:  # Keras's errors for a damaged file have no common class
        raise ValueError(f"{path} can't be loaded as a Keras model: {error}") from error


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that a result depends on."""
    return {
        "python": platform.python_version(),
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
        "keras_grow": keras_grow.__version__,
    }


def machine() -> dict[str, Any]:
    """Describes the machine that a time was measured on."""
    gpus = tf.config.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    return {
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "devices": ["CPU", *(detail.get("device_name", "GPU") for detail in details)],
    }


class Meter(keras.callbacks.Callback):
    """Measures seconds and counts floating-point operations, epoch by epoch.

    Put it first: then an epoch's time includes the growth that precedes it. `GrowthBackup` keeps
    what it has measured, so a run that was stopped and went on has the times of all its parts.

    Args:
        examples: Training examples per epoch.

    Attributes:
        seconds: Training time of each epoch, with its growth and without validation.
        flops: Floating-point operations of each epoch, at the width that it had.
    """

    def __init__(self, examples: int):
        super().__init__()
        self.examples = examples
        self.seconds: list[float] = []
        self.flops: list[int] = []
        self._earlier = 0.0
        self._started = self._begun = time.perf_counter()
        self._trained: float | None = None

    @property
    def total(self) -> float:
        """Seconds since training began, validation included, interruptions not."""
        return self._earlier + time.perf_counter() - self._started

    def get_state(self) -> dict:
        """Returns what has been measured so far."""
        return {"seconds": self.seconds, "flops": self.flops, "total": self.total}

    def set_state(self, state: dict) -> None:
        """Goes on from what `get_state` returned."""
        self.seconds, self.flops = list(state["seconds"]), list(state["flops"])
        self._earlier, self._started = state["total"], time.perf_counter()

    def on_epoch_begin(self, epoch, logs=None) -> None:
        """Starts the clock."""
        self._begun, self._trained = time.perf_counter(), None

    def on_test_begin(self, logs=None) -> None:
        """Stops the clock: validation isn't training."""
        if self._trained is None:
            self._trained = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None) -> None:
        """Records the epoch, and adds the learning rate to its logs."""
        ended = time.perf_counter() if self._trained is None else self._trained
        self.seconds.append(ended - self._begun)
        self.flops.append(training_flops(self.model, self.examples))
        if logs is not None:
            logs["learning_rate"] = float(self.model.optimizer.learning_rate)


def seconds_of(meter: Meter, events: list[keras_grow.GrowthEvent]) -> dict:
    """Returns the `seconds` of a `Run`; ask when training has just ended."""
    return {
        "total": meter.total,
        "training": sum(meter.seconds),
        "choosing": sum(event.seconds_choosing for event in events),
        "widening": sum(event.seconds_widening for event in events),
    }


def learning_rate(args: argparse.Namespace, steps_per_epoch: int):
    """Returns the schedule that `--schedule` and `--learning-rate` ask for.

    Growths happen every `args.every` of `args.epochs` epochs, whether or not this run grows: a
    static baseline has the same learning rate at the same step.
    """
    growths = range(args.every, args.epochs, args.every)
    return keras_grow.schedules.get(
        args.schedule,
        args.learning_rate,
        total_steps=args.epochs * steps_per_epoch,
        growth_steps=[epoch * steps_per_epoch for epoch in growths],
    )


@contextlib.contextmanager
def dtype_policy(name: str | None) -> Iterator[None]:
    """Sets Keras's global dtype policy for a while; `None` leaves it."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(before if name is None else name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def default_out(recipe: str) -> Path:
    """Returns a folder for the results of a run that starts now."""
    return Path("runs") / f"{recipe}-{time.strftime('%Y%m%d-%H%M%S')}"


def positive_int(text: str) -> int:
    """Argparse type: an integer of at least 1."""
    return _number(text, int, lambda value: value >= 1, "a positive integer")


def count(text: str) -> int:
    """Argparse type: an integer of at least 0."""
    return _number(text, int, lambda value: value >= 0, "an integer of at least 0")


def positive(text: str) -> float:
    """Argparse type: a number above 0."""
    return _number(text, float, lambda value: value > 0, "a positive number")


def non_negative(text: str) -> float:
    """Argparse type: a number of at least 0."""
    return _number(text, float, lambda value: value >= 0, "a number of at least 0")


def fraction(text: str) -> float:
    """Argparse type: a number of at least 0 and below 1."""
    return _number(text, float, lambda value: 0 <= value < 1, "a number from 0 to below 1")


def layer(text: str) -> int | str:
    """Argparse type: the number of a layer, or else its name."""
    return int(text) if text.lstrip("-").isdigit() else text


def _number(text: str, kind: type, valid, wanted: str):
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or not valid(value):
        raise argparse.ArgumentTypeError(f"must be {wanted}. Received: {text!r}")
    return value


def _finite(value: Any) -> Any:
    """Replaces NaN and infinities, which JSON doesn't have, by `None`."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
