"""Cells of the tables: runs of recipes/cifar.py, each in a process and a folder of its own."""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

from keras_grow import runs

CIFAR = Path(__file__).with_name("cifar.py")
# Rows that the paper lacks: the final size from the start, for as many epochs or as many FLOPs.
STATIC = ("static-epochs", "static-flops")


class Row(NamedTuple):
    """One network, trained in one way; with a seed it is a cell."""

    dataset: str
    model: str
    method: str
    setting: str

    def folder(self, seed: int) -> str:
        """Returns the name of the folder of one of its cells."""
        return f"{'-'.join(self)}-seed{seed}"

    @property
    def size_of(self) -> Row | None:
        """The grown row whose final size a static row has: `random`, which grows all alike."""
        return Row(*self[:2], "random", "neither") if self.method in STATIC else None


class CellError(RuntimeError):
    """A cell's run has failed."""


class Cells:
    """Runs cells, each in a process of its own, some at a time.

    Args:
        args: The recipe's arguments.
    """

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self._running: set[subprocess.Popen] = set()
        self._ended = False

    def run(self, cells: Sequence[tuple[Row, int]]) -> None:
        """Runs the cells that aren't finished.

        Raises:
            CellError: if one fails; those that run are ended then.
            ValueError: if the results of a finished one are damaged.
        """
        left = [(r, s) for r, s in cells if not finished(self.args.out / r.folder(s))]
        with ThreadPoolExecutor(self.args.jobs) as pool:
            futures = [pool.submit(self._run, row, seed) for row, seed in left]
            try:
                for number, future in enumerate(as_completed(futures), start=1):
                    print(f"[{number}/{len(left)}] {future.result()}", flush=True)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                self._ended = True
                for process in list(self._running):
                    process.terminate()
                raise

    def _run(self, row: Row, seed: int) -> str:
        """Runs one cell, and says what came out."""
        name, minutes = row.folder(seed), (self.args.ends - time.monotonic()) / 60
        folder = self.args.out / name
        waits = row.size_of and not finished(self.args.out / row.size_of.folder(seed))
        if minutes < 0.001 or waits:
            return f"{name}: for another time"
        command = [sys.executable, str(CIFAR), *options(row, seed, self.args, minutes)]
        folder.mkdir(exist_ok=True)
        with open(folder / "log.txt", "a") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env={**self._shares(), **os.environ}
            )
            self._running.add(process)
            if self._ended:  # this one began while another failed
                process.terminate()
            code = process.wait()
            self._running.discard(process)
        if code:
            end = (folder / "log.txt").read_text().rstrip().rpartition("\n")[2]
            raise CellError(
                f"{name} failed (exit status {code}): {end}\nAll that it printed is in "
                f"{folder / 'log.txt'}. The same command takes the tables up again."
            )
        if not finished(folder):
            return f"{name}: to be continued"
        run = runs.read(folder)
        return f"{name}: {100 * run.test_accuracy:.2f} %, {run.seconds['training']:,.0f} s"

    def _shares(self) -> dict[str, str]:
        """Returns the environment in which a cell leaves the others their cores and memory."""
        if self.args.jobs == 1:
            return {}
        threads = max(1, (os.cpu_count() or 1) // self.args.jobs)
        return {"TF_NUM_INTRAOP_THREADS": str(threads), "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


def finished(folder: Path) -> bool:
    """Whether a cell has its results; damaged ones are an error, not a reason to overwrite."""
    return (folder / runs.RESULTS).exists() and bool(runs.read(folder))


def options(row: Row, seed: int, args: argparse.Namespace, minutes: float) -> list[str]:
    """Returns the options of recipes/cifar.py that fill a cell in at most so many minutes."""
    chosen = dict(args.protocol)
    if row.size_of:
        grown = args.out / row.size_of.folder(seed) / runs.RESULTS
        how = ["--static", "--widths-from", str(grown), *args.settings[row.setting][1]]
        chosen.pop("width", None)
        if row.method == "static-flops":
            run = runs.read(grown)
            epochs = run.training_flops / run.history["training_flops"][-1]
            chosen["epochs"] = math.ceil(epochs)
            if "test-every" in chosen:  # once, at the end
                chosen["test-every"] = chosen["epochs"]
    else:
        how = ["--method", row.method, *args.settings[row.setting][1]]
    chosen |= {"dataset": row.dataset, "model": row.model, "seed": seed}
    chosen["out"] = args.out / row.folder(seed)
    chosen |= {"minutes": f"{minutes:.3f}"} if math.isfinite(minutes) else {}
    return [*(text for name, value in chosen.items() for text in (f"--{name}", str(value))), *how]
