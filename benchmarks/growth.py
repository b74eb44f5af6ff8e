"""What one growth costs, beside one epoch of training; its memory; how it scales.

What is measured, each time on a fresh network that has taken training steps (batches of 128, noise
in the shape of CIFAR-10, SGD with momentum):

- choosing: the method reads the model and, where it needs data, batches of it;
- widening: variables and optimizer slots are computed and swapped in;
- retracing: what the first training step afterwards takes longer than those after it (with
  `--penalty` the penalty is armed first, as `GrowthCallback` does, and its tracing counts);
- epoch: 391 times the median of `--steps` training steps, half of them just before the growth and
  half just after it, taken by a twin of the network that does not grow.

`growth/epoch` is (choosing + widening) / epoch; wanted: at most 0.5. With `--repeats` the methods
take turns, and every figure is a median.

The widening alone: a VGG16 with 512 channels -> 691 by `net2wider`, with its peak memory: of the
process, and of what NumPy and Python allocate, in two processes of their own. Wanted: under 5 s.
`--scaling`: seconds of choosing and peak memory of VGG16 at several widths, each in a process of
its own (see `one_growth.py`).

    python benchmarks/growth.py                     # VGG16 at 16, MobileNetV1 at 32
    python benchmarks/growth.py --all               # also VGG16 at 30 and 56, MobileNetV1 at 108
    python benchmarks/growth.py --models vgg16:56 --methods firefly --no-widening
    python benchmarks/growth.py --models --no-widening --scaling          # only the scaling table
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import measure
import one_growth

import keras_grow
from keras_grow import methods

NETWORKS = [("vgg16", 16), ("mobilenet", 32)]
ALL = [("vgg16", 16), ("vgg16", 30), ("vgg16", 56), ("mobilenet", 32), ("mobilenet", 108)]
SCALING_WIDTHS = [64, 128, 256]
SCALING_METHODS = [name for name in ("firefly", "splitting") if name in methods.NAMES]
COSTS = ("epoch", "choosing", "widening", "first_step", "step_after", "retracing")


def main(argv: list[str] | None = None) -> dict:
    """Runs the benchmark, prints its tables and writes its JSON.

    Args:
        argv: The arguments. Defaults to those of the command line.

    Returns:
        What the JSON file holds.
    """
    args = parse(argv)
    results = {"machine": measure.machine(), "growths": [], "widening": None, "scaling": []}
    print(measure.describe(results["machine"]))
    for name, width in args.models:
        results["growths"] += measure_methods(name, width, args)
    if args.models:
        print(measure.table(*printed_growths(results["growths"])))
    if args.widening:
        results["widening"] = measure_widening(args)
        print(printed_widening(results["widening"]))
    for width in args.scaling:
        results["scaling"] += [measure_scaling(width, m, args) for m in args.scaling_methods]
    if args.scaling:
        print(measure.table(*printed_scaling(results["scaling"])))
    return measure.write(args.out, "growth", args, results)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Reads the arguments."""
    parser = measure.arguments(__doc__)
    parser.add_argument("--models", nargs="*", type=measure.model_and_width, metavar="NAME:WIDTH")
    parser.add_argument("--all", action="store_true", help="the slow networks too")
    parser.add_argument("--methods", nargs="+", choices=methods.NAMES, default=list(methods.NAMES))
    parser.add_argument("--rate", type=float, default=0.35)
    parser.add_argument("--penalty", action="store_true", help="arm the penalty after the growth")
    parser.add_argument("--steps", type=measure.positive_int, default=20)
    parser.add_argument("--epoch-steps", type=measure.positive_int, default=391)
    parser.add_argument("--repeats", type=measure.positive_int, default=1)
    parser.add_argument("--widening", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--wide", nargs=2, type=measure.positive_int, default=[512, 691])
    parser.add_argument("--scaling", nargs="*", type=measure.positive_int, metavar="WIDTH")
    parser.add_argument(
        "--scaling-methods", nargs="+", choices=methods.NAMES, default=SCALING_METHODS
    )
    args = parser.parse_args(argv)
    if args.models is None:
        args.models = ALL if args.all else NETWORKS
    args.scaling = [] if args.scaling is None else args.scaling or SCALING_WIDTHS
    return args


def measure_methods(name: str, width: int, args: argparse.Namespace) -> list[dict]:
    """Measures a growth of one network by every method; the methods take turns."""
    costs: dict[str, list[dict]] = {method: [] for method in args.methods}
    for _ in range(args.repeats):
        for method in args.methods:
            costs[method].append(measure_growth(name, width, method, args))
            print(f"{name} {width} {method}: done", file=sys.stderr)
    return [
        {"model": name, "width": width, "method": method, **summary(runs)}
        for method, runs in costs.items()
    ]


def measure_growth(name: str, width: int, method: str, args: argparse.Namespace) -> dict:
    """Measures one growth of a fresh network."""
    x, y = measure.images(4 * args.batch_size)
    model, twin = (measure.compiled(measure.build(name, width), args.jit_compile) for _ in range(2))
    step, twin_step = (measure.Stepper(m, x, y, args.batch_size) for m in (model, twin))
    for warm in (step, twin_step):
        warm(2)  # traces, and fills caches
    data = one_growth.scoring_data(args.batch_size) if methods.get(method).needs_data else None
    steps = [measure.timed(twin_step) for _ in range((args.steps + 1) // 2)]
    event = model.grow(args.rate, method, data=data)
    steps += [measure.timed(twin_step) for _ in range((args.steps + 1) // 2)]

    def first() -> None:
        if args.penalty:
            model.arm(keras_grow.SimilarityPenalty())
        step()

    first_step = measure.timed(first)
    after = statistics.median(measure.timed(step) for _ in range(min(args.steps, 5)))
    return {
        "epoch": args.epoch_steps * statistics.median(steps),
        "choosing": event.seconds_choosing,
        "widening": event.seconds_widening,
        "first_step": first_step,
        "step_after": after,
        "retracing": first_step - after,
        "neurons": [event.neurons_before, event.neurons_after],
    }


def summary(runs: list[dict]) -> dict:
    """Returns the medians over repeats, and their ratios to the epoch's."""
    seconds = {cost: statistics.median(run[cost] for run in runs) for cost in COSTS}
    growth = seconds["choosing"] + seconds["widening"]
    return {
        "neurons": runs[0]["neurons"],
        "seconds": seconds,
        "ratios": {
            "growth/epoch": growth / seconds["epoch"],
            "all/epoch": (growth + seconds["retracing"]) / seconds["epoch"],
        },
        "runs": runs,
    }


def measure_widening(args: argparse.Namespace) -> dict:
    """Measures the widening of a wide VGG16 alone, in two processes of their own."""
    width, widened = args.wide
    # A rate that reaches the ceiling in every layer: the widths come out exactly.
    growth = [f"--rate={widened / width - 1 + 0.01}", f"--max-width={widened}"]
    timed = alone(f"vgg16:{width}", "net2wider", args, *growth)
    traced = alone(f"vgg16:{width}", "net2wider", args, *growth, "--trace")
    return {**timed, "peak_traced_mib": traced["peak_traced_mib"], "width": width}


def measure_scaling(width: int, method: str, args: argparse.Namespace) -> dict:
    """Measures one row of the scaling table."""
    steps = f"--steps={min(args.steps, 3)}"
    growth = alone(f"vgg16:{width}", method, args, f"--rate={args.rate}", steps)
    print(f"vgg16 {width} {method}: done", file=sys.stderr)
    epoch = args.epoch_steps * growth["step_seconds"]
    growth = {**growth, "epoch": epoch}
    growth["choosing/epoch"] = growth["seconds_choosing"] / epoch
    return {"model": "vgg16", "width": width, "method": method, **growth}


def alone(model: str, method: str, args: argparse.Namespace, *more: str) -> dict:
    """Grows a network once in a process of its own; returns what that cost."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "growth.json"
        command = [sys.executable, one_growth.__file__, f"--model={model}", f"--method={method}"]
        command += [f"--batch-size={args.batch_size}", f"--jit-compile={args.jit_compile}"]
        subprocess.run(
            [*command, *more, f"--out={out}"],
            check=True,
            stdout=sys.stderr,  # our own output is the tables
        )
        content = json.loads(out.read_text())
    return {k: v for k, v in content.items() if k not in ("benchmark", "configuration")}


def printed_growths(rows: list[dict]) -> tuple[list[str], list[list[str]]]:
    """Returns the table of the growths: head, rows."""
    costs = ("choosing", "widening", "retracing", "epoch")
    head = ["model", "width", "method", "neurons", *(f"{c} s" for c in costs)]
    ratios = ("growth/epoch", "all/epoch")
    return [*head, *ratios], [
        [
            row["model"],
            row["width"],
            row["method"],
            " -> ".join(map(str, row["neurons"])),
            *(f"{row['seconds'][cost]:.3f}" for cost in costs),
            *(f"{row['ratios'][name]:.4f}" for name in ratios),
        ]
        for row in rows
    ]


def printed_widening(row: dict) -> str:
    """Returns the lines on the widening alone."""
    after = max(row["widths_after"].values())
    return (
        f"The widening alone, VGG16 {row['width']} -> {after} channels, "
        f"{row['parameters_before']:,} -> {row['parameters_after']:,} parameters and as many "
        f"slots: {row['seconds_widening']:.2f} s; peak of NumPy and Python during the growth "
        f"{row['peak_traced_mib']:,.0f} MiB; peak resident memory of the process "
        f"{row['peak_after_mib']:,.0f} MiB ({row['peak_before_mib']:,.0f} before)"
    )


def printed_scaling(rows: list[dict]) -> tuple[list[str], list[list[str]]]:
    """Returns the table of the scaling: head, rows."""
    columns = {
        "choosing s": "seconds_choosing",
        "epoch s": "epoch",
        "choosing/epoch": "choosing/epoch",
        "peak of training MiB": "peak_before_mib",
        "peak MiB": "peak_after_mib",
        "GPU peak MiB": "gpu_peak_mib",
    }
    return ["model", "width", "method", *columns], [
        [row["model"], row["width"], row["method"]]
        + ["-" if row[key] is None else f"{row[key]:,.2f}" for key in columns.values()]
        for row in rows
    ]


if __name__ == "__main__":
    main()
