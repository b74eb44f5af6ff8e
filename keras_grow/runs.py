"""The results of a training run as a JSON file, and what figures and tables read of them.

A file is complete or not there. It says what was asked for, on which machine, what happened epoch
by epoch and growth by growth, and what came out.
"""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_grow._version import __version__
from keras_grow.backend import accelerators, backend_version
from keras_grow.callbacks.cost import CostMeter
from keras_grow.channels.graph import count_weights
from keras_grow.utils.checks import check_positive_int
from keras_grow.utils.files import replacing

__all__ = ["RESULTS", "Run", "find", "labels", "machine", "read", "versions", "write"]

RESULTS = "results.json"  # in a folder of its own for each run
FORMAT = "keras_grow.run"
VERSION = 1  # rises when a field changes its meaning or goes

# What is asked for and makes no other network: two runs that differ in it have one label.
_ELSEWHERE = """seed out data data_dir widths_from widths test_every minutes save_every
    steps_per_execution""".split()
_OF_GROWTH = "method rate every penalty penalty_weight weight_sum penalty_epochs".split()


@dataclass(frozen=True)
class Run:
    """The results of one training run.

    Attributes:
        recipe: Name of the script.
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

    Example:

    >>> import keras, keras_grow, numpy as np, tempfile
    >>> inputs = keras.Input((8,))
    >>> x = keras_grow.layers.GrowableDense(4, name="hidden")(inputs)
    >>> model = keras_grow.GrowableModel(inputs, keras.layers.Dense(3)(x))
    >>> model.compile("sgd", "mse", metrics=["accuracy"])
    >>> meter = keras_grow.CostMeter(examples=20)
    >>> history = model.fit(np.ones((20, 8)), np.ones((20, 3)), verbose=0, callbacks=[meter])
    >>> test = {"loss": 0.5, "accuracy": 0.75}
    >>> run = Run.of(history, meter, test, recipe="example", configuration={"seed": 0})
    >>> folder = tempfile.mkdtemp()
    >>> write(f"{folder}/{RESULTS}", run)
    >>> read(folder).parameters, read(folder).training_flops
    (51, 5280)
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

    @classmethod
    def of(
        cls,
        history: keras.callbacks.History,
        meter: CostMeter,
        test: Mapping[str, float],
        recipe: str,
        configuration: Mapping[str, Any],
    ) -> Run:
        """Returns the results of a `fit` of a `GrowableModel`.

        Args:
            history: What `fit` returned.
            meter: The `CostMeter` that it had among its callbacks.
            test: "loss" and "accuracy" of the trained model.
            recipe: Name of the script.
            configuration: Its arguments, by name, as JSON can hold them.
        """
        model = history.model
        events, cost = model.growth_history, meter.totals()
        return cls(
            recipe=recipe,
            configuration=dict(configuration),
            versions=versions(),
            machine=machine(),
            started=meter.started,
            history=dict(history.history),
            growth=[event.to_dict() for event in events],
            seconds={
                "total": meter.elapsed,
                "training": cost["seconds"],
                "choosing": sum(event.seconds_choosing for event in events),
                "widening": sum(event.seconds_widening for event in events),
            },
            training_flops=cost["training_flops"],
            widths=model.widths,
            neurons=model.neurons,
            parameters=count_weights(model.trainable_variables),
            test_loss=test["loss"],
            test_accuracy=test["accuracy"],
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns the run as it stands in its file."""
        return {"format": FORMAT, "version": VERSION, **_finite(asdict(self))}


def write(path: str | os.PathLike, run: Run) -> None:
    """Writes a run: completely, or not at all."""
    text = json.dumps(run.to_dict(), indent=1, allow_nan=False)
    with replacing(path) as partial:
        partial.write_text(text + "\n")


def read(path: str | os.PathLike) -> Run:
    """Reads what `write` wrote.

    Args:
        path: The file, or the folder where it is `results.json`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, or isn't the results of a run.
    """
    path = Path(path)
    path = path / RESULTS if path.is_dir() else path
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"No results at {path}. A recipe writes `{RESULTS}` into its --out folder when it has "
            "finished."
        ) from error
    except ValueError as error:  # not JSON, or not even text
        raise ValueError(
            f"{path} is damaged or only half written: {error}. Delete it and run the recipe again."
        ) from error
    return _run_from(content, path)


def find(folder: str | os.PathLike) -> list[Path]:
    """Returns the folders within a folder that hold the results of a run, in order of name."""
    return sorted(path.parent for path in Path(folder).rglob(RESULTS))


def labels(runs: Sequence[Run]) -> list[str]:
    """Names each run by what is not the same in all of them, but for the seed.

    Example:

    >>> from types import SimpleNamespace as Results
    >>> asked = [{"method": m, "seed": s} for m in ("random", "firefly") for s in (0, 1)]
    >>> labels([Results(recipe="cifar", configuration=each) for each in asked])
    ['random', 'random', 'firefly', 'firefly']
    """
    asked = [_asked(run) for run in runs]
    names = dict.fromkeys(name for each in asked for name in each)
    differ = [n for n in names if len({repr(each[n]) for each in asked if n in each}) > 1]
    if len({"static" in each for each in asked}) > 1:
        differ = list(dict.fromkeys(["static", "method", *differ]))
    if not differ:
        return [runs[0].recipe] * len(runs)
    return [
        ", ".join(_described(name, each[name]) for name in differ if name in each) for each in asked
    ]


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that a result depends on."""
    return {
        "python": platform.python_version(),
        "keras": keras.__version__,
        **backend_version(),
        "keras_grow": __version__,
    }


def machine() -> dict[str, Any]:
    """Describes the machine that a time was measured on."""
    return {
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "devices": ["CPU", *accelerators()],
    }


def columns(run: Any) -> dict[str, np.ndarray]:
    """Returns the history of a run, one value an epoch.

    Args:
        run: A `Run`, its dictionary, Keras's `History`, or another mapping or object with
            `history` and, optionally, `growth`, `parameters` and a `configuration` that says how
            many epochs apart validations were (`test_every`).

    Returns:
        Name -> values, NaN in epochs without one. A run that doesn't grow has its `params`, too.
    """
    history = _part(run, "history")
    if not isinstance(history, Mapping) or not history:
        raise ValueError(f"a run must have a non-empty 'history'. Received: {run!r:.200}")
    epochs = max(len(values) for values in history.values())
    every = (_part(run, "configuration") or {}).get("test_every", 1)
    check_positive_int("test_every", every)
    found = {name: _column(name, values, epochs, every) for name, values in history.items()}
    size = _part(run, "parameters")
    if size is not None and not growths(run):
        found.setdefault("params", np.full(epochs, float(size)))
    return found


def growths(run: Any) -> list[int]:
    """Returns the number of completed epochs at each growth of a run, as `columns` takes it.

    Growths by hand outside of `fit` have none.
    """
    events = _part(run, "growth", "events")
    if events is None:
        events = getattr(getattr(run, "model", None), "growth_history", [])
    epochs = [e["epoch"] if isinstance(e, Mapping) else e.epoch for e in events]
    return [epoch for epoch in epochs if epoch is not None]


def _part(run: Any, *names: str) -> Any:
    """Returns the first of these entries or attributes that a run has."""
    for name in names:
        value = run.get(name) if isinstance(run, Mapping) else getattr(run, name, None)
        if value is not None:
            return value
    return None


def _column(name: str, values: Sequence, epochs: int, test_every: int) -> np.ndarray:
    """Returns one value an epoch; NaN in epochs without validation (`validation_freq`)."""
    column = np.full(epochs, np.nan)
    at = slice(test_every - 1, None, test_every) if name.startswith("val_") else slice(None)
    if not len(values) == len(column[at]) > 0:
        raise ValueError(
            f"a column must have one value an epoch. Received: {len(values)} values of {name!r} "
            f"in {epochs} epochs. (Where validation was less frequent, the run needs the epochs "
            "between as configuration={'test_every': n}.)"
        )
    column[at] = np.asarray(values, dtype=float)
    return column


def _run_from(content: Any, path: Path) -> Run:
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


def _asked(run: Run) -> dict[str, Any]:
    """Returns the part of a run's configuration that may name it."""
    # Of a network that doesn't grow, how it would have grown names nothing.
    left_out = {*_ELSEWHERE, *(_OF_GROWTH if run.configuration.get("static") else ["static"])}
    return {name: value for name, value in run.configuration.items() if name not in left_out}


def _described(name: str, value: Any) -> str:
    called = name.replace("_", " ")
    if isinstance(value, bool):
        return called if value else f"no {called}"
    return value if isinstance(value, str) else f"{called} {value}"


def _finite(value: Any) -> Any:
    """Replaces NaN and infinities, which JSON doesn't have, by `None`."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
