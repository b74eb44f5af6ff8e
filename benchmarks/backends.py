"""Keras's backends beside each other, or two versions of the package: training and growing.

What is measured, of each arm, in turns: seconds of whole training steps by `fit` (input included,
batches of noise in the shape of CIFAR-10, SGD with momentum), and of one growth by each method:
choosing the neurons, widening, and tracing the training step anew. Each arm is a process of its
own, which waits while the others take their turns. A ratio is the quotient of two medians over the
rounds; beside it the extremes of the rounds.

    python benchmarks/backends.py                        # TensorFlow and JAX
    python benchmarks/backends.py --arms new=tensorflow: old=tensorflow:../another-checkout
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import measure

from keras_grow import methods

NETWORKS = [("vgg16", 16), ("vgg16", 56), ("mobilenet", 32)]


class Process:
    """An arm in a process of its own, which works only while it is asked to.

    Args:
        backend: Keras's backend.
        checkout: Folder of the package, or an empty string for the one that is installed.
        arguments: The arguments of `arm.py`.
    """

    def __init__(self, backend: str, checkout: str, arguments: list):
        environment = {**os.environ, "KERAS_BACKEND": backend}
        if checkout:
            environment["PYTHONPATH"] = str(Path(checkout).resolve())
        script = Path(__file__).parent / "arm.py"
        self._process = subprocess.Popen(
            [sys.executable, str(script), *map(str, arguments)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_) -> None:
        self._process.stdin.close()
        self._process.wait()

    def ask(self, command: str, argument: int | str) -> dict[str, float]:
        """Has the process do something, and returns the seconds that it took."""
        print(json.dumps([command, argument]), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict:
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"an arm has ended with status {self._process.wait()}: see above")
        return json.loads(line)


def main(argv: list[str] | None = None) -> dict:
    """Runs the benchmark, prints its tables and writes its JSON."""
    args = parse(argv)
    where = measure.machine()
    print(measure.describe(where))
    rows = [row for network in args.models for row in measure_network(*network, args)]
    base = next(iter(args.arms))
    head = ["network", "what", *(f"{name}, s" for name in args.arms)]
    head += [f"{name}/{base}" for name in args.arms if name != base]
    print(measure.table(head, [printed(row, base) for row in rows]))
    return measure.write(args.out, "backends", args, {"machine": where, "rows": rows})


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Reads the arguments."""
    parser = measure.arguments(__doc__)
    parser.add_argument("--models", nargs="+", type=measure.model_and_width, metavar="NAME:WIDTH")
    parser.add_argument("--arms", nargs="+", default=["tensorflow=tensorflow:", "jax=jax:"],
                        metavar="NAME=BACKEND:CHECKOUT")  # fmt: skip
    parser.add_argument("--methods", nargs="*", choices=methods.NAMES, default=methods.NAMES)
    parser.add_argument("--rounds", type=measure.positive_int, default=5)
    parser.add_argument("--growths", type=measure.positive_int, default=2, help="rounds of growing")
    parser.add_argument("--steps", type=measure.positive_int, default=8, help="steps per turn")
    args = parser.parse_args(argv)
    args.models = args.models or NETWORKS
    args.arms = {
        name: tuple(place.split(":", 1)) for name, place in (arm.split("=", 1) for arm in args.arms)
    }
    return args


def measure_network(name: str, width: int, args: argparse.Namespace) -> list[dict]:
    """Measures one network in all arms; returns one row for each thing that takes time."""
    with ExitStack() as stack:
        shape = [name, width, args.batch_size, args.steps]
        arms = {
            label: stack.enter_context(Process(*place, shape)) for label, place in args.arms.items()
        }
        commands = [("train", args.steps)] * (args.rounds + 1)
        commands += [("grow", method) for method in args.methods] * args.growths
        seconds: dict[tuple, dict[str, list[float]]] = {}
        for turn, command in enumerate(commands):
            labels = list(arms)
            for label in labels[turn % len(labels) :] + labels[: turn % len(labels)]:
                answer = arms[label].ask(*command)
                if turn:  # the first turn warms up
                    for what, value in answer.items():
                        key = (what, command[1] if command[0] == "grow" else "")
                        per_arm = seconds.setdefault(key, {name: [] for name in arms})
                        per_arm[label].append(value)
    return [
        {"network": f"{name}:{width}", "what": f"{what} {of}".strip(), "seconds": arms}
        for (what, of), arms in seconds.items()
    ]


def printed(row: dict, base: str) -> list[str]:
    """Returns a row of the table."""
    seconds = row["seconds"]
    cells = [f"{measure.spread(values)['median']:.2f}" for values in seconds.values()]
    for name, values in seconds.items():
        if name != base:
            quotient = measure.ratio(values, seconds[base])
            cells.append("{of_medians:.2f} ({min:.2f} to {max:.2f})".format(**quotient))
    return [row["network"], row["what"], *cells]


if __name__ == "__main__":
    main()
