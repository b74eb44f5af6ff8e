"""Runs the paper's Tables 1, 2 and 3, and prints ours beside the paper's.

    python recipes/tables.py --preset quick --jobs 2               # 2 cores: about 1 1/2 hours
    python recipes/tables.py --preset quick --only vgg16 random firefly --seeds 0 1 2 3 4
    python recipes/tables.py --preset paper --tables 1 2 3         # 250 epochs, all images: a GPU

Table 1 is CIFAR-10, Table 2 CIFAR-100: growth methods x networks, without and with the similarity
penalty. Table 3 has each term of the penalty alone. Two rows are added to the paper's: the final
size (of `random` without penalty) from the start, for as many epochs and for as many training
floating-point operations.

Each cell is a run of recipes/cifar.py in a process and a folder of its own. What is stopped is
taken up again by the same command: finished cells are kept, the others go on from their last
epoch. Nothing is chosen by the test accuracy. Writes into --out: tables.md and tables.json, and a
folder for each cell, with its results, its model, and what it printed (log.txt). The two files are
of the rows that were asked for last; cells that were not stay in their folders.

Reference: Sakai and Hotta, Growing Deep Neural Network Considering with Similarity between Neurons.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from quiet import quietly

with quietly():
    import common
    import table_text
    from table_cells import PRESETS, Row, command, only, rows_of, with_sizes

# Options of recipes/cifar.py that take the place of the preset's.
GIVEN = ("train-examples", "epochs", "every", "width", "penalty-weight", "weight-sum")
CIFAR = Path(__file__).with_name("cifar.py")


class CellError(RuntimeError):
    """A cell's run has failed."""


def main(argv: list[str] | None = None) -> dict:
    """Runs the recipe with command-line arguments, and returns what it writes to the JSON."""
    args = parse(argv)
    rows = with_sizes(args.rows)
    common.claim(args.out / "protocol.json", args.protocol)
    print(f"{len(rows)} rows of {len(args.seeds)} runs each: {protocol_text(args)}", flush=True)
    for static in (False, True):  # static rows need the sizes of grown ones
        cells = [(r, s) for s in args.seeds for r in rows if bool(r.size_of) is static]
        Cells(args).run(cells)
    found = table_text.collect(rows, args.seeds, args.out)
    result = {
        "protocol": args.protocol,
        "seeds": args.seeds,
        "versions": common.versions(),
        "machine": common.machine(),
        "rows": [summary.to_dict() for summary in found],
    }
    seeds = " ".join(map(str, args.seeds))
    text = f"{protocol_text(args)}, seeds {seeds}\n\n{table_text.tables(found)}"
    for name, content in (("tables.json", json.dumps(result, indent=1)), ("tables.md", text)):
        with common.replacing(args.out / name) as partial:
            partial.write_text(content + "\n")
    print(f"\n{text}\n\ntables.md and tables.json are in {args.out}")
    return result


def protocol_text(args: argparse.Namespace) -> str:
    """Says in a line what every cell has in common."""
    options = " ".join(f"--{name} {value}" for name, value in args.protocol.items())
    return f"preset '{args.preset}', recipes/cifar.py {options}"


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
        """Runs the cells that aren't complete.

        Raises:
            CellError: if one fails; those that run are ended then.
            ValueError: if the results of a complete one are damaged.
        """
        out = self.args.out
        left = [cell for cell in cells if not is_complete(out / cell[0].folder(cell[1]))]
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
        folder = self.args.out / row.folder(seed)
        folder.mkdir(exist_ok=True)
        options = command(row, seed, self.args.protocol, self.args.out)
        if self.args.data_dir:
            options += ["--data-dir", self.args.data_dir]
        with open(folder / "log.txt", "a") as log:
            process = subprocess.Popen(
                [sys.executable, str(CIFAR), *options],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self._threads()},
            )
            self._running.add(process)
            if self._ended:  # this one began while another failed
                process.terminate()
            code = process.wait()
            self._running.discard(process)
        if code:
            end = (folder / "log.txt").read_text().rstrip().rpartition("\n")[2]
            raise CellError(
                f"{row.folder(seed)} failed (exit status {code}): {end}\nAll that it printed is in "
                f"{folder / 'log.txt'}. The same command takes the tables up again."
            )
        run = common.read_run(folder / "results.json")
        accuracy, seconds = 100 * run.test_accuracy, run.seconds["training"]
        return f"{row.folder(seed)}: {accuracy:.2f} %, {seconds:,.0f} s"

    def _threads(self) -> dict[str, str]:
        """Returns the environment in which TensorFlow leaves the other cells their cores."""
        threads = max(1, (os.cpu_count() or 1) // self.args.jobs)
        return {"TF_NUM_INTRAOP_THREADS": str(threads)} if self.args.jobs > 1 else {}


def is_complete(folder: Path) -> bool:
    """Whether a cell has its results; damaged ones are an error, not a reason to overwrite."""
    path = folder / "results.json"
    if not path.exists():
        return False
    common.read_run(path)
    return True


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--preset", choices=list(PRESETS), default="quick", help="how long, on how many images")
    add("--tables", type=int, nargs="+", choices=[1, 2, 3], default=[1, 3], help="which tables")
    add("--only", nargs="+", default=[], help="data sets, networks, methods or settings to keep")
    add("--seeds", type=common.count, nargs="+", default=[0, 1, 2], help="one run each")
    add("--schedule", choices=["cosine", "restarts", "hold"], help="paper: cosine, quick: hold")
    add("--train-examples", type=common.positive_int, help="instead of the preset's")
    add("--epochs", type=common.positive_int, help="instead of the preset's")
    add("--every", type=common.positive_int, help="instead of the preset's")
    add("--width", type=common.positive_int, help="of each layer at the start; vgg16 16")
    add("--penalty-weight", type=common.non_negative, help="of Eq. 2; as in Eq. 5, 1")
    add("--weight-sum", type=common.non_negative, help="lambda, of Eq. 4; 0.01")
    add("--jobs", type=common.positive_int, default=1, help="cells at a time")
    add("--data-dir", help="folder of TensorFlow Datasets, if not its default")
    add("--out", type=Path, help="folder to write to, or to go on in; runs/tables-<preset>")
    args = parser.parse_args(argv)
    args.out = args.out or Path("runs") / f"tables-{args.preset}"
    args.protocol = protocol(args)
    try:
        args.rows = only(rows_of(args.tables), args.only)
    except ValueError as error:
        parser.error(str(error))
    return args


def protocol(args: argparse.Namespace) -> dict:
    """Returns the options of recipes/cifar.py that all cells have in common."""
    chosen = dict(PRESETS[args.preset])
    chosen["schedule"] = args.schedule or ("cosine" if args.preset == "paper" else "hold")
    given = {name: getattr(args, name.replace("-", "_")) for name in GIVEN}
    chosen |= {name: value for name, value in given.items() if value is not None}
    if "test-every" in chosen:
        chosen["test-every"] = chosen["epochs"]
    return chosen


if __name__ == "__main__":
    # A recipe that is told to end ends its cells, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        main()
    except (CellError, ValueError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on")
