"""Which growth method helps: a student that learns from a teacher, and grows on its plateau.

    python benchmarks/teacher.py                              # every problem and method, 5 seeds
    python benchmarks/teacher.py --problems relu --methods random firefly "firefly split=0.1"
    python benchmarks/teacher.py --methods net2wider net2wider/none      # beside random/none, too

A teacher of 24 hidden units labels normal inputs; a student of 4 units learns them until it stands
still, grows once (`GrowthCallback`, its defaults), and trains on for ten epochs. Prints the loss on
other inputs, over the seeds, relative to the variance of the labels, and in how many seeds a method
is better than `random` with the same penalty: the default, or what is named after a slash: "paper",
"none", or a measure with its weight per neuron, "energy 0.1", or "energy 0.1 relative" to the loss.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import keras
import numpy as np

import keras_grow

INPUTS, TEACHER, EXAMPLES, BATCH = 16, 24, 2048, 64
PLATEAU, AFTERWARDS = 30, 10  # epochs before and after the growth


@dataclass(frozen=True)
class Problem:
    """A teacher, and a student with its training.

    Attributes:
        activation: Of both.
        layers: Hidden layers of both.
        width: Units of each hidden layer of the student.
        rate: Neurons that the growth adds, as a fraction.
        optimizer: Name and learning rate.
        outputs: Number of outputs.
    """

    activation: str = "relu"
    layers: int = 1
    width: int = 4
    rate: float = 1.0
    optimizer: tuple[str, float] = ("adam", 0.01)
    outputs: int = 1


PROBLEMS = {
    "relu": Problem(),
    "tanh": Problem("tanh"),
    "two layers": Problem(layers=2, width=6),
    "wide": Problem(width=12, rate=0.35, outputs=4),
    "sgd": Problem(optimizer=("sgd", 0.02)),
    "slow": Problem(optimizer=("adam", 0.002)),
}
METHODS = ["random", "net2wider", "splitting", "firefly", "gradmax"]


def network(problem: Problem, width: int, layer: type) -> tuple:
    """Returns inputs and outputs of a network of some width."""
    inputs = x = keras.Input((INPUTS,))
    for _ in range(problem.layers):
        x = layer(width, activation=problem.activation)(x)
    return inputs, keras.layers.Dense(problem.outputs)(x)


def examples(problem: Problem, seed: int) -> list[np.ndarray]:
    """Returns inputs and labels to learn from, and others to test by."""
    keras.utils.set_random_seed(1000 + seed)
    teacher = keras.Model(*network(problem, TEACHER, keras.layers.Dense))
    for layer in teacher.layers[1:]:
        layer.kernel.assign(keras.random.normal(layer.kernel.shape))
        layer.bias.assign(keras.random.normal(layer.bias.shape))
    x = np.random.default_rng(seed).normal(size=(2 * EXAMPLES, INPUTS)).astype("float32")
    y = teacher.predict(x, batch_size=EXAMPLES, verbose=0)
    y = (y - y.mean(0)) / y.std(0)
    return [
        part for half in (slice(EXAMPLES), slice(EXAMPLES, None)) for part in (x[half], y[half])
    ]


def method_of(text: str, seed: int) -> keras_grow.GrowthMethod:
    """Makes a method of its name and arguments, such as "firefly split=0.1"."""
    name, *arguments = text.partition("/")[0].split()
    config = keras_grow.methods.get(name).get_config()
    given = {
        key: ast.literal_eval(value) for key, _, value in (a.partition("=") for a in arguments)
    }
    return type(keras_grow.methods.get(name))(**{**config, **given, "seed": seed})


def penalty_of(text: str) -> keras_grow.SimilarityPenalty | str | None:
    """Returns the penalty that is named after the slash."""
    name, *given = (text.partition("/")[2] or "default").split()
    if given:
        weight, *relative = given
        return keras_grow.SimilarityPenalty(
            float(weight), 0.0, measure=name, per="neuron", relative=bool(relative)
        )
    return None if name == "none" else name


def reference(text: str) -> str:
    """Returns what a method is compared with: `random`, with the same penalty."""
    _, slash, penalty = text.partition("/")
    return f"random{slash}{penalty}"


def loss_after(problem: Problem, text: str, seed: int, data: list[np.ndarray]) -> float:
    """Trains a student, and returns its loss on the other inputs."""
    x, y, other_x, other_y = data
    keras.utils.set_random_seed(seed)
    layer = keras_grow.layers.GrowableDense
    student = keras_grow.GrowableModel(*network(problem, problem.width, layer))
    name, rate = problem.optimizer
    optimizer = keras.optimizers.get({"class_name": name, "config": {"learning_rate": rate}})
    student.compile(optimizer, "mse", steps_per_execution=EXAMPLES // BATCH)
    grow = keras_grow.GrowthCallback(
        problem.rate,
        PLATEAU,
        method_of(text, seed),
        penalty_of(text),
        verbose=0,
    )
    epochs = PLATEAU + AFTERWARDS
    student.fit(x, y, batch_size=BATCH, epochs=epochs, callbacks=[grow], verbose=0)
    return float(student.evaluate(other_x, other_y, batch_size=EXAMPLES, verbose=0))


def main(argv: list[str] | None = None) -> dict:
    """Runs the benchmark, and returns problem -> method -> losses."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--problems", nargs="+", choices=list(PROBLEMS), default=list(PROBLEMS))
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--json", type=Path, help="write the losses there, too")
    args = parser.parse_args(argv)
    methods = list(dict.fromkeys([*map(reference, args.methods), *args.methods]))
    found: dict[str, dict[str, list[float]]] = {}
    print("| problem | method | loss | better than random |\n|---|---|---|---|")
    for name in args.problems:
        data = {seed: examples(PROBLEMS[name], seed) for seed in args.seeds}
        found[name] = {}
        for method in methods:
            losses = [loss_after(PROBLEMS[name], method, s, data[s]) for s in args.seeds]
            found[name][method] = losses
            others = found[name][reference(method)]
            better = sum(a < b for a, b in zip(losses, others, strict=True))
            spread = f" ± {stdev(losses):.3f}" if len(losses) > 1 else ""
            print(
                f"| {name} | {method} | {mean(losses):.3f}{spread} | {better} of {len(losses)} |",
                flush=True,
            )
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))
    return found


if __name__ == "__main__":
    main()
