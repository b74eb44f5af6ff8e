"""What the benchmarks share: interleaved timing, the machine, synthetic data, tables, JSON.

Arms that are compared take turns within one process, in an order that rotates, so that whatever
else the machine does slows all of them alike. A ratio is the quotient of two medians; beside it
stand the smallest and largest ratio within one round. (Not named `common`: the recipes have a
module of that name.)
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import keras_grow

MODELS = {"vgg16": keras_grow.models.VGG16, "mobilenet": keras_grow.models.MobileNetV1}
PACKAGES = ("keras", "tensorflow", "keras-grow", "numpy", "torch")
JIT = {"auto": "auto", "on": True, "off": False}


def interleave(arms: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Runs every arm once per round, each round starting with another arm.

    Args:
        arms: Name -> what is timed. It must not return before its work is done.
        rounds: Number of rounds.

    Returns:
        Name -> seconds, one entry per round.
    """
    names = list(arms)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            seconds[name].append(timed(arms[name]))
    return seconds


def timed(call: Callable[[], Any]) -> float:
    """Returns the seconds that a call takes."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Returns the median, the extremes and the values themselves."""
    values = list(values)
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "values": values,
    }


def ratio(above: Sequence[float], below: Sequence[float]) -> dict[str, float]:
    """Returns the quotient of two medians, and the extremes of the quotients round by round."""
    quotients = [a / b for a, b in zip(above, below, strict=True)]
    return {
        "of_medians": statistics.median(above) / statistics.median(below),
        "min": min(quotients),
        "max": max(quotients),
    }


def machine() -> dict[str, Any]:
    """Describes the machine, the versions and the day of a measurement."""
    gpus = tf.config.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    return {
        "cpu": _cpu_name(),
        "cores": _cores(),
        "gpus": [detail.get("device_name", "GPU") for detail in details],
        "platform": platform.platform(),
        "versions": {"python": platform.python_version(), **_versions()},
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _cores() -> int:
    """Returns the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def images(examples: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns noise in the shape of CIFAR-10: `(examples, 32, 32, 3)` float32, and labels."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((examples, 32, 32, 3), dtype="float32")
    return x, rng.integers(0, 10, examples)


def compiled(model: keras.Model, jit_compile: str = "auto") -> keras.Model:
    """Compiles a model as the recipes do, less the metrics, which are the same for all arms."""
    model.compile(
        keras.optimizers.SGD(0.01, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=JIT[jit_compile],
    )
    return model


class Stepper:
    """Takes training steps by the compiled train function that `fit` uses, without `fit`'s Python.

    Args:
        model: A compiled model.
        x: Images.
        y: Labels.
        batch_size: Examples per step.
    """

    def __init__(self, model: keras.Model, x: np.ndarray, y: np.ndarray, batch_size: int):
        self.model = model
        data = tf.data.Dataset.from_tensor_slices((x, y)).batch(batch_size, drop_remainder=True)
        self._batches = iter(data.cache().repeat().prefetch(2))
        model.make_train_function()

    def __call__(self, steps: int = 1) -> None:
        """Takes steps, and waits for the last one."""
        for _ in range(steps):
            logs = self.model.train_function(self._batches)  # a growth replaces the function
        keras.tree.map_structure(np.asarray, logs)


def model_and_width(text: str) -> tuple[str, int]:
    """Argparse type: "vgg16:16" -> ("vgg16", 16)."""
    name, _, width = text.partition(":")
    if name not in MODELS or not width.isdigit() or int(width) < 1:
        raise argparse.ArgumentTypeError(
            f"must be one of {', '.join(MODELS)}, a colon and a width. Received: {text!r}"
        )
    return name, int(width)


def build(name: str, width: int) -> keras_grow.GrowableModel:
    """Builds a network of the same initial weights each time."""
    keras.utils.set_random_seed(0)
    return MODELS[name](width=width)


def positive_int(text: str) -> int:
    """Argparse type: an integer of at least 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer. Received: {text!r}")
    return int(text)


def arguments(description: str) -> argparse.ArgumentParser:
    """Returns a parser of the arguments that every benchmark has."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch-size", type=positive_int, default=128)
    parser.add_argument("--jit-compile", choices=JIT, default="auto", help="XLA, as Keras has it")
    parser.add_argument("--out", type=Path, help="JSON file; by default under runs/")
    return parser


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Returns a table in Markdown that is readable as plain text.

    Example:

    >>> print(table(["model", "images/s"], [["vgg16", 3150]]))
    | model | images/s |
    | ----- | -------- |
    | vgg16 | 3150     |
    """
    lines = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def describe(where: Mapping[str, Any]) -> str:
    """Returns one line that says where and when something was measured."""
    versions = ", ".join(f"{name} {v}" for name, v in where["versions"].items() if v)
    load = "" if where["load"] is None else f"; load {where['load']:.1f} at the start"
    devices = "".join(f", {gpu}" for gpu in where["gpus"])
    return f"{where['cpu']}, {where['cores']} cores{devices}; {versions}; {where['date']}{load}"


def write(out: Path | None, benchmark: str, args: argparse.Namespace, results: dict) -> dict:
    """Writes a benchmark's results, with its arguments, and returns them.

    Args:
        out: The file, or `None` for one under `runs/` named after the benchmark and the time.
        benchmark: Name of the benchmark.
        args: Its arguments.
        results: The machine, and the rows.
    """
    path = out or Path("runs") / f"benchmark-{benchmark}-{time.strftime('%Y%m%d-%H%M%S')}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    configuration = {name: value for name, value in vars(args).items() if name != "out"}
    content = {"benchmark": benchmark, "configuration": configuration, **results}
    text = json.dumps(content, indent=1)
    path.write_text(text + "\n")
    print(f"Written to {path}")
    return json.loads(text)
