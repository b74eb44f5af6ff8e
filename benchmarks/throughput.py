"""Training throughput of a `GrowableModel` beside the same network in plain Keras layers.

What is measured: images per second of whole training steps (forward, backward, update; SGD with
momentum, no metrics) on noise in the shape of CIFAR-10, in arms that take turns, the first four
in one process and from the same weights:

- plain: `model.to_keras()`, Keras's own layers;
- off: the `GrowableModel`, never armed;
- armed: the `GrowableModel` after `model.arm(SimilarityPenalty())`, the paper's penalty;
- parted: the same with the default of `GrowthCallback`, which parts copies;
- torch: the same VGG16 in PyTorch, eager and channels-last, where PyTorch is installed; in a
  process of its own that waits while the others take their turns.

How: the compiled train function that `fit` uses is called on a `tf.data` iterator, so that no
Python but the call itself is timed. A round is `--steps` steps of every arm; a ratio is the
quotient of the arms' medians over the rounds, with the extremes of the rounds beside it. Wanted:
off/plain >= 1.0 (VGG16: >= 1.2), armed/off and parted/off >= 0.98.

    python benchmarks/throughput.py            # VGG16 at 16, 22 and 56, MobileNetV1 at 32 and 43
    python benchmarks/throughput.py --all      # MobileNetV1 at 108 too

22 and 43 are what 16 and 32 grow to: widths that are no multiple of four.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Otherwise TensorFlow takes the whole GPU, and leaves PyTorch nothing.
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")

import measure

import keras_grow

NETWORKS = [("vgg16", 16), ("vgg16", 22), ("vgg16", 56), ("mobilenet", 32), ("mobilenet", 43)]
ALL = [*NETWORKS, ("mobilenet", 108)]
PENALTIES = {
    "armed": {},
    "parted": keras_grow.GrowthCallback(0.35).penalty.get_config(),
}
RATIOS = {
    "off/plain": ("off", "plain"),
    "armed/off": ("armed", "off"),
    "parted/off": ("parted", "off"),
    "off/torch": ("off", "torch"),
}


def main(argv: list[str] | None = None) -> dict:
    """Runs the benchmark, prints its table and writes its JSON.

    Args:
        argv: The arguments. Defaults to those of the command line.

    Returns:
        What the JSON file holds.
    """
    args = parse(argv)
    where = measure.machine()
    print(measure.describe(where))
    if not torch_is_installed():
        print("PyTorch is not installed: no such column.")
    rows = [measure_network(name, width, args) for name, width in args.models]
    print(measure.table(*printed(rows)))
    return measure.write(args.out, "throughput", args, {"machine": where, "rows": rows})


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Reads the arguments."""
    parser = measure.arguments(__doc__)
    parser.add_argument("--models", nargs="+", type=measure.model_and_width, metavar="NAME:WIDTH")
    parser.add_argument("--all", action="store_true", help="the slow networks too")
    parser.add_argument("--rounds", type=measure.positive_int, default=12)
    parser.add_argument("--steps", type=measure.positive_int, default=4, help="steps per turn")
    args = parser.parse_args(argv)
    args.models = args.models or (ALL if args.all else NETWORKS)
    return args


def torch_is_installed() -> bool:
    """Returns whether the PyTorch arm can run."""
    return importlib.util.find_spec("torch") is not None


def measure_network(name: str, width: int, args: argparse.Namespace) -> dict:
    """Measures one network in all arms."""
    images = args.steps * args.batch_size
    arms = make_arms(name, width, args)
    with ExitStack() as stack:
        if name == "vgg16" and torch_is_installed():
            arms["torch"] = stack.enter_context(TorchArm(width, args.batch_size))
        for arm in arms.values():
            arm(2)  # traces, and fills caches
        turns = {label: lambda arm=arm: arm(args.steps) for label, arm in arms.items()}
        seconds = measure.interleave(turns, args.rounds)
    speeds = {label: [images / t for t in times] for label, times in seconds.items()}
    return {
        "model": name,
        "width": width,
        "parameters": arms["plain"].model.count_params(),
        "images_per_second": {label: measure.spread(values) for label, values in speeds.items()},
        "ratios": {
            label: measure.ratio(speeds[above], speeds[below])
            for label, (above, below) in RATIOS.items()
            if below in speeds
        },
    }


def make_arms(name: str, width: int, args: argparse.Namespace) -> dict:
    """Returns what takes the steps of each arm, by the arm's name."""
    x, y = measure.images(4 * args.batch_size)
    off = measure.compiled(measure.build(name, width), args.jit_compile)
    plain = measure.compiled(off.to_keras(), args.jit_compile)
    models = {"plain": plain, "off": off}
    for label, given in PENALTIES.items():
        models[label] = measure.compiled(keras_grow.GrowableModel.from_keras(off), args.jit_compile)
        models[label].arm(keras_grow.SimilarityPenalty(**given))
    return {label: measure.Stepper(m, x, y, args.batch_size) for label, m in models.items()}


class TorchArm:
    """Takes steps in a PyTorch process, which ends with the `with` block.

    Args:
        width: Width of the VGG16.
        batch_size: Examples per step.
    """

    def __init__(self, width: int, batch_size: int):
        script = Path(__file__).parent / "pytorch.py"
        command = [sys.executable, str(script), f"--width={width}", f"--batch-size={batch_size}"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.parameters = int(self._answer())

    def __call__(self, steps: int = 1) -> None:
        """Takes steps, and waits for the last one."""
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        self._answer()

    def _answer(self) -> str:
        line = self._process.stdout.readline()
        if not line:
            self._process.communicate()
            raise RuntimeError("The PyTorch process has ended. Its messages are above.")
        return line

    def __enter__(self) -> TorchArm:
        return self

    def __exit__(self, *error) -> None:
        self._process.communicate()  # closes its input, and so ends it


def printed(rows: list[dict]) -> tuple[list[str], list[list[str]]]:
    """Returns the table's head and rows: median images/s, and ratios (smallest to largest)."""
    labels = ["plain", "off", "armed", "parted", *(["torch"] if torch_is_installed() else [])]
    ratios = [label for label, (_, below) in RATIOS.items() if below in labels]
    head = ["model", "width", *(f"{label} img/s" for label in labels), *ratios]
    return head, [
        [
            row["model"],
            row["width"],
            *(speed_cell(row["images_per_second"].get(label)) for label in labels),
            *(ratio_cell(row["ratios"].get(label)) for label in ratios),
        ]
        for row in rows
    ]


def speed_cell(speed: dict | None) -> str:
    """Returns a median as it is printed."""
    return "-" if speed is None else f"{speed['median']:.1f}"


def ratio_cell(ratio: dict | None) -> str:
    """Returns a ratio as it is printed."""
    if ratio is None:
        return "-"
    return f"{ratio['of_medians']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})"


if __name__ == "__main__":
    main()
