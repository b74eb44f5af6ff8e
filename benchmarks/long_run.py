"""Many growths in one process: does memory, or the time of a growth, creep up?

A small network (a convolution with batch normalisation, and a dense layer) of as many neurons as
there are growths grows by one neuron before each epoch of two steps, with the penalty armed. For
every 25 growths the table has, at their end, after a garbage collection:

- RSS MiB: the resident memory of the process;
- objects: the Python objects that the garbage collector knows of;
- graphs: TensorFlow's graphs of traced functions among them;
- functions: compiled functions that TensorFlow's runtime holds;

and the medians over the 25 growths of the seconds of an epoch (growth, tracing anew, two steps),
and of the growth alone.

On a CPU, oneDNN keeps the kernels that it compiled for each new shape, up to 1,024 of them: RSS
rises with the number of shapes until then. `TF_ENABLE_ONEDNN_OPTS=0` shows the rest.

    python benchmarks/long_run.py
    TF_ENABLE_ONEDNN_OPTS=0 python benchmarks/long_run.py --methods net2wider --growths 200
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import measure
import tensorflow as tf
from tensorflow.python.eager import context

import keras_grow
from keras_grow import layers, methods

COLUMNS = "growths parameters RSS_MiB objects graphs functions epoch_s growth_s".split()


def main(argv: list[str] | None = None) -> dict:
    """Runs the benchmark, prints its tables and writes its JSON.

    Args:
        argv: The arguments. Defaults to those of the command line.

    Returns:
        What the JSON file holds.
    """
    args = parse(argv)
    results = {"machine": measure.machine(), "runs": {}}
    print(measure.describe(results["machine"]))
    for method in args.methods:
        rows = run(method, args)
        results["runs"][method] = {"rows": rows, "rise": rise(rows)}
        print(measure.table(*printed(method, rows)))
        print(summary(method, results["runs"][method]["rise"]))
    return measure.write(args.out, "long_run", args, results)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Reads the arguments."""
    parser = measure.arguments(__doc__)
    parser.set_defaults(batch_size=16)
    parser.add_argument(
        "--methods", nargs="+", choices=methods.NAMES, default=["net2wider", "splitting"]
    )
    parser.add_argument("--growths", type=measure.positive_int, default=200)
    parser.add_argument("--every", type=measure.positive_int, default=25, help="growths per row")
    args = parser.parse_args(argv)
    if args.growths < 2 * args.every:
        parser.error(f"--growths must be at least twice --every. Received: {args.growths}")
    return args


def run(method: str, args: argparse.Namespace) -> list[dict]:
    """Grows a network by one neuron before each epoch; returns one row per `--every` growths."""
    model = measure.compiled(network(args.growths), args.jit_compile)
    x, y = measure.images(2 * args.batch_size)
    record = Record(args.every)
    growth = keras_grow.GrowthCallback(1 / args.growths, every=1, method=method, verbose=0)
    model.fit(
        x[:, :4, :4],
        y,
        batch_size=args.batch_size,
        epochs=args.growths + 1,  # nothing grows before the first
        callbacks=[record, growth],
        verbose=0,
    )
    return record.rows


def network(neurons: int) -> keras_grow.GrowableModel:
    """Builds a network of so many neurons that can grow, on images of 4 x 4 pixels."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4, 4, 3))
    x = layers.GrowableConv2D(neurons // 2, 3, padding="same", use_bias=False)(inputs)
    x = layers.GrowableBatchNormalization()(x)
    x = keras.layers.Activation("silu")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = layers.GrowableDense(neurons - neurons // 2, activation="relu")(x)
    return keras_grow.GrowableModel(inputs, keras.layers.Dense(10)(x))


class Record(keras.callbacks.Callback):
    """Measures epochs and the process. Put it before the callback that grows.

    Args:
        every: Growths per row.
    """

    def __init__(self, every: int):
        super().__init__()
        self.every = every
        self.rows: list[dict] = []
        self._epochs: list[float] = []
        self._started = 0.0

    def on_epoch_begin(self, epoch, logs=None) -> None:
        """Starts the clock."""
        self._started = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None) -> None:
        """Stops the clock, and adds a row when it is time."""
        if epoch:
            self._epochs.append(time.perf_counter() - self._started)
        if len(self._epochs) == self.every:
            self.rows.append(self._row())
            self._epochs = []
            print(f"{self.rows[-1]['growths']} growths: done", file=sys.stderr)

    def _row(self) -> dict:
        history = self.model.growth_history
        return {
            "growths": len(history),
            "parameters": history[-1].parameters_after,
            **census(),
            "epoch_s": statistics.median(self._epochs),
            "growth_s": statistics.median(event.seconds for event in history[-self.every :]),
        }


def census() -> dict[str, float]:
    """Counts what is alive in this process, after a garbage collection."""
    gc.collect()
    objects = gc.get_objects()
    return {
        "RSS_MiB": resident_mib(),
        "objects": len(objects),
        # By type: some objects answer `isinstance` by importing what they stand for.
        "graphs": sum(issubclass(type(thing), tf.Graph) for thing in objects),
        "functions": len(context.context().list_function_names()),
    }


def resident_mib() -> float:
    """Returns the resident memory of this process, in MiB (Linux; elsewhere NaN)."""
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 2**10
    return float("nan")


def rise(rows: list[dict]) -> dict[str, float]:
    """Returns what came on top per growth from the first row to the last, and how time changed."""
    first, last = rows[0], rows[-1]
    growths = last["growths"] - first["growths"]
    per_growth = ("RSS_MiB", "objects", "graphs", "functions")
    return {
        **{name: (last[name] - first[name]) / growths for name in per_growth},
        "epoch_s": last["epoch_s"] / first["epoch_s"],
        "growth_s": last["growth_s"] / first["growth_s"],
    }


def printed(method: str, rows: list[dict]) -> tuple[list, list]:
    """Returns the head and the rows of a printed table."""
    digits = {"RSS_MiB": ".1f", "epoch_s": ".3f", "growth_s": ".3f"}
    cells = [[format(row[name], digits.get(name, ",")) for name in COLUMNS] for row in rows]
    head = ["method", *(name.replace("_", " ") for name in COLUMNS)]
    return head, [[method, *row] for row in cells]


def summary(method: str, change: dict[str, float]) -> str:
    """Says in one line what a run left behind."""
    return (
        f"{method}: per growth, from the first row to the last, {change['RSS_MiB']:+.2f} MiB, "
        f"{change['objects']:+.1f} objects, {change['graphs']:+.2f} graphs; "
        f"an epoch took {change['epoch_s']:.2f} times as long, a growth {change['growth_s']:.2f}\n"
    )


if __name__ == "__main__":
    main()
