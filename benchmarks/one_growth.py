"""One growth in a process of its own, for its peak memory: `growth.py` starts it.

What is measured: the seconds of choosing and of widening, and the high-water mark of the
process's resident memory before the growth (the network, its slots, the batches, and the training
steps that `--steps` asks for) and after it. With `--trace` the peak of what NumPy and Python
allocate during the growth is measured too, and the seconds, which tracing lengthens, are not for
use. The mark is Linux's `VmHWM`: `ru_maxrss` of a new process starts at its parent's.

    python benchmarks/one_growth.py --model vgg16:64 --method firefly --steps 2
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tracemalloc
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import measure
import numpy as np
import tensorflow as tf

from keras_grow import methods
from keras_grow.methods.scoring_data import DrawnData

# Enough for every method at its defaults, and what `fit` keeps of a stream.
BATCHES = 32


def main(argv: list[str] | None = None) -> dict:
    """Grows one network once, and writes what it took as JSON.

    Args:
        argv: The arguments. Defaults to those of the command line.

    Returns:
        What the JSON file holds.
    """
    args = parse(argv)
    name, width = args.model
    model = measure.compiled(measure.build(name, width), args.jit_compile)
    model.optimizer.build(model.trainable_variables)
    data = scoring_data(args.batch_size) if methods.get(args.method).needs_data else None
    step_seconds = train(model, args) if args.steps else None
    before = peak_mib()
    if args.trace:
        tracemalloc.start()
    event = model.grow(args.rate, args.method, data=data, max_widths=args.max_width)
    results = {
        "seconds_choosing": event.seconds_choosing,
        "seconds_widening": event.seconds_widening,
        "step_seconds": step_seconds,
        "peak_before_mib": before,
        # Linux adds resident pages up late: what it calls the peak may sink by a page or two.
        "peak_after_mib": max(before, peak_mib()),
        "peak_traced_mib": traced_mib() if args.trace else None,
        "gpu_peak_mib": gpu_peak_mib(),
        "parameters_before": event.parameters_before,
        "parameters_after": event.parameters_after,
        "widths_after": event.widths_after,
    }
    return measure.write(args.out, "one_growth", args, results)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Reads the arguments."""
    parser = measure.arguments(__doc__)
    parser.add_argument("--model", type=measure.model_and_width, default=("vgg16", 16))
    parser.add_argument("--method", choices=methods.NAMES, default="net2wider")
    parser.add_argument("--rate", type=float, default=0.35)
    parser.add_argument("--max-width", type=measure.positive_int)
    parser.add_argument("--steps", type=int, default=0, help="training steps before the growth")
    parser.add_argument("--trace", action="store_true", help="by tracemalloc")
    return parser.parse_args(argv)


def scoring_data(batch_size: int) -> DrawnData:
    """Returns data that is scored in the batches that training would have."""
    x, y = measure.images(BATCHES * batch_size)
    return DrawnData(x, y, batch_size=batch_size)


def train(model, args: argparse.Namespace) -> float:
    """Takes steps after a first one that traces; returns the median seconds of a step."""
    x, y = measure.images(args.batch_size)
    step = measure.Stepper(model, x, y, args.batch_size)
    step()
    return float(np.median([measure.timed(step) for _ in range(args.steps)]))


def peak_mib() -> float:
    """Returns the most resident memory that this process has had, in MiB."""
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 2**10
    unit = 1 if sys.platform == "darwin" else 2**10  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def traced_mib() -> float:
    """Returns the most that was allocated since tracing began, in MiB, and ends tracing."""
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak / 2**20


def gpu_peak_mib() -> float | None:
    """Returns the most memory that TensorFlow has taken of the first GPU, in MiB."""
    if not tf.config.list_physical_devices("GPU"):
        return None
    return tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**20


if __name__ == "__main__":
    main()
