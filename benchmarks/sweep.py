"""What grows in models that people build, and whether an exact growth is exact.

    python benchmarks/sweep.py
    python benchmarks/sweep.py --applications --methods random

Every model is converted by `from_keras`, grown by `Net2Wider(noise=0)`, compared with what it put
out before, saved, loaded and converted to plain layers; then a copy of it takes one training step,
grows by each method, and takes another one. Printed are the share of the trainable parameters in
variables that touch a group that can grow, the largest change of an output relative to the largest
output, and seconds: of finding the groups, and of the exact growth. Of outputs that `applications`
make, the softmax is left out: a saturated one would hide an error.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import measure
import numpy as np
import zoo
import zoo_parts

import keras_grow
from keras_grow import GrowableModel, methods
from keras_grow.channels.graph import ChannelGraph, count_weights, find_groups
from keras_grow.methods import Net2Wider

# Name -> the smallest input that it takes.
APPLICATIONS = {
    "VGG16": 32,
    "ResNet50": 32,
    "MobileNetV2": 32,
    "DenseNet121": 32,
    "EfficientNetB0": 32,
    "NASNetMobile": 32,
    "ConvNeXtTiny": 32,
    "Xception": 71,
    "InceptionResNetV2": 75,
}
METHODS = ("random", "firefly", "gradmax", "splitting")
RATE = 0.35


@dataclass
class Row:
    """What was found of one model.

    Attributes:
        model: Its name.
        parameters: Number of its trainable parameters.
        growable: The share of them in variables that touch a group that can grow.
        exactness: Relative change of the outputs by an exact growth; `None` where nothing grew.
        saved: That between the grown model and itself, saved and loaded.
        plain: That between the grown model and its copy of plain layers.
        seconds_walk: Of finding the groups.
        seconds_growth: Of the exact growth.
        reasons: Why groups don't grow, and of how many layers each is the reason.
        steps: Method -> whether a step, a growth and another step went well, or the error.
    """

    model: str
    parameters: int
    growable: float
    exactness: float | None = None
    saved: float | None = None
    plain: float | None = None
    seconds_walk: float = 0.0
    seconds_growth: float = 0.0
    reasons: dict[str, int] = field(default_factory=dict)
    steps: dict[str, str] = field(default_factory=dict)


def application(name: str, size: int | None = None) -> keras.Model:
    """Builds one of `keras.applications` at its smallest input, without its softmax."""
    size = size or APPLICATIONS[name]
    build = getattr(keras.applications, name)
    return build(weights=None, input_shape=(size, size, 3), classes=10, classifier_activation=None)


def disturbed(model: keras.Model, by: float = 0.1, seed: int = 0) -> keras.Model:
    """Adds noise to the weights: what starts at zero or one is then something else."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        if "float" in variable.dtype:
            noise = by * rng.standard_normal(variable.shape)
            variable.assign_add(np.abs(noise) if "variance" in variable.name else noise)
    return model


def batch(model: keras.Model, count: int = 4, seed: int = 0) -> tuple[Any, Any]:
    """Draws inputs, and targets of the outputs' shapes: lists where there are several."""
    rng = np.random.default_rng(seed)
    inputs = [
        rng.integers(1, zoo_parts.VOCABULARY, (count, *tensor.shape[1:]))
        if "int" in tensor.dtype
        else rng.standard_normal((count, *tensor.shape[1:]), dtype="float32")
        for tensor in model.inputs
    ]
    outputs = [rng.standard_normal((count, *t.shape[1:]), dtype="float32") for t in model.outputs]
    return tuple(each if len(each) > 1 else each[0] for each in (inputs, outputs))


def outputs_of(model: keras.Model, inputs: Any) -> list[np.ndarray]:
    """Returns what a model makes of inputs, as a list of arrays."""
    return [np.asarray(value) for value in keras.tree.flatten(model(inputs, training=False))]


def change(before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> float:
    """Returns the largest change of an output, relative to the largest output."""
    return float(
        max(np.max(np.abs(a - b)) / np.max(np.abs(b)) for a, b in zip(after, before, strict=True))
    )


def growable_share(graph: ChannelGraph) -> float:
    """Returns the share of the trainable parameters in variables that touch what can grow."""
    found = {
        id(item.variable): item.variable
        for item in graph.variables
        if any(s.group in graph.growable for axis in item.axes for s in axis.segments)
    }
    trainable = graph.model.trainable_variables
    return count_weights(v for v in trainable if id(v) in found) / count_weights(trainable)


def reasons(graph: ChannelGraph) -> dict[str, int]:
    """Counts the layers that each reason keeps from growing, outputs of the model left out."""
    report = keras_grow.channels.report.report(graph.model, graph)
    found: dict[str, int] = {}
    for row in report.frozen:
        if row.reason != "it is an output of the model":
            found[row.reason] = found.get(row.reason, 0) + 1
    return found


def growing(plain: keras.Model) -> GrowableModel:
    """Converts a model and compiles it; steps are run eagerly, which traces nothing."""
    model = GrowableModel.from_keras(plain)
    model.compile(keras.optimizers.SGD(0.001, momentum=0.9), "mse", run_eagerly=True)
    model.optimizer.build(model.trainable_variables)
    return model


def sweep(
    name: str,
    build: Callable[[], keras.Model],
    tried: Sequence[str] = METHODS,
    by: float = 0.1,
    tell: Callable[[GrowableModel], None] | None = None,
) -> Row:
    """Grows a model and measures what `Row` says.

    Args:
        name: Its name.
        build: Builds it.
        tried: Names of the methods that are tried.
        by: Standard deviation of the noise that is added to its weights before.
        tell: Called with the model that has grown exactly.
    """
    plain = disturbed(build(), by)
    model = growing(plain)
    started = time.perf_counter()
    graph = find_groups(model)
    row = Row(name, count_weights(model.trainable_variables), growable_share(graph))
    row.seconds_walk = time.perf_counter() - started
    row.reasons = reasons(graph)
    if not graph.growable:
        return row
    inputs, outputs = batch(model)
    before = outputs_of(model, inputs)
    started = time.perf_counter()
    model.grow(RATE, Net2Wider(noise=0, seed=0))
    row.seconds_growth = time.perf_counter() - started
    after = outputs_of(model, inputs)
    row.exactness = change(before, after)
    row.plain = change(after, outputs_of(model.to_keras(), inputs))
    row.saved = change(after, outputs_of(_saved_and_loaded(model), inputs))
    if tell is not None:
        tell(model)
    row.steps = {method: grows_in_training(plain, method, inputs, outputs) for method in tried}
    return row


def grows_in_training(plain: keras.Model, method: str, inputs: Any, outputs: Any) -> str:
    """Trains, grows and trains again: "yes", or the error."""
    model = growing(plain)
    try:
        model.train_on_batch(inputs, outputs)
        data = (inputs, outputs) if methods.get(method).needs_data else None
        event = model.grow(RATE, method, data=data)
        loss = float(np.ravel(model.train_on_batch(inputs, outputs))[0])
    except Exception as error:  # the table says what became of each
        return f"{type(error).__name__}: {error}"
    return "yes" if event and np.isfinite(loss) else f"{event}, loss {loss}"


def _saved_and_loaded(model: keras.Model) -> keras.Model:
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.keras")
        model.save(path)
        return keras.saving.load_model(path)


def tabulated(rows: Sequence[Row]) -> str:
    """Returns the table in Markdown."""
    tried = list(rows[0].steps)
    head = ["model", "parameters", "can grow", "exact to", "saved", "plain", *tried]
    cells = [
        [
            row.model,
            f"{row.parameters:,}",
            f"{100 * row.growable:.1f} %",
            *(_small(error) for error in (row.exactness, row.saved, row.plain)),
            *(row.steps.get(method, "-").split(":")[0] for method in tried),
            f"{row.seconds_walk:.2f}",
            f"{row.seconds_growth:.2f}",
        ]
        for row in rows
    ]
    return measure.table([*head, "walk, s", "growth, s"], cells)


def _small(error: float | None) -> str:
    return "-" if error is None else f"{error:.0e}" if error else "0"


def main(argv: list[str] | None = None) -> dict:
    """Sweeps over the models, prints a table and what is frozen, and writes all of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--applications", action="store_true", help="in place of the small models")
    parser.add_argument("--models", nargs="*", help="names of those that are wanted")
    parser.add_argument("--methods", nargs="*", default=METHODS, choices=methods.NAMES)
    parser.add_argument("--out", type=Path, help="JSON file; by default under runs/")
    args = parser.parse_args(argv)
    builders = zoo.MODELS
    if args.applications:
        builders = {name: lambda name=name: application(name) for name in APPLICATIONS}
    wanted = args.models or list(builders)
    where, rows = measure.machine(), []
    for name in wanted:
        keras.utils.clear_session()
        keras.utils.set_random_seed(0)
        by = 0.0 if args.applications else 0.1  # a hundred layers would make it any size
        rows.append(sweep(name, builders[name], args.methods, by))
        print(json.dumps(asdict(rows[-1])), flush=True)
    print(f"\n{measure.describe(where)}\n\n{tabulated(rows)}")
    return measure.write(args.out, "sweep", args, {"machine": where, "rows": [*map(asdict, rows)]})


if __name__ == "__main__":
    main()
