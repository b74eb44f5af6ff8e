"""The cells of the paper's tables: which runs of recipes/cifar.py they are.

A row is one network, trained in one way; a cell is a row with one seed, that is, one run of
recipes/cifar.py in a folder of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import common

METHODS = ("random", "net2wider", "splitting", "firefly", "gradmax")
PAPER_METHODS = ("random", "splitting", "firefly")
MODELS = ("vgg16", "mobilenet")
# Which terms of the penalty are in the loss, as options of cifar.py.
SETTINGS = {
    "neither": ["--no-penalty"],
    "weight_sum": ["--penalty", "--penalty-weight", "0"],
    "similarity": ["--penalty", "--weight-sum", "0"],
    "both": ["--penalty"],
}
# Rows that the paper lacks: the final size from the start, for as many epochs or as many FLOPs.
STATIC = ("static-epochs", "static-flops")
# The grown run whose size they have: it spreads growth evenly, so the size is the same every time.
STATIC_SIZE = ("random", "neither")

# The paper's Eq. 5, which has no weight for the similarity; its lambda isn't published.
EQUATION_5 = {"penalty-weight": 1.0, "weight-sum": 0.01}
# Presets, as options of cifar.py. "quick" was chosen to fit two cores in one and a half hours.
PRESETS = {
    "paper": {"epochs": 250, "every": 50, **EQUATION_5},
    "quick": {
        "train-examples": 3000,
        "epochs": 15,
        "every": 3,
        "penalty-epochs": 2,
        "test-every": 15,
        **EQUATION_5,
    },
}


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        dataset: "cifar10" or "cifar100".
        model: "vgg16" or "mobilenet".
        method: A growth method, or one of `STATIC`.
        setting: One of `SETTINGS`; "neither" for the static rows.
    """

    dataset: str
    model: str
    method: str
    setting: str

    def folder(self, seed: int) -> str:
        """Returns the name of the folder of one of its cells."""
        return f"{self.dataset}-{self.model}-{self.method}-{self.setting}-seed{seed}"

    @property
    def size_of(self) -> Row | None:
        """The grown row whose final size a static row has from the start."""
        if self.method not in STATIC:
            return None
        return Row(self.dataset, self.model, *STATIC_SIZE)


def rows_of(tables: Iterable[int]) -> list[Row]:
    """Returns the rows of some of the paper's tables, each once, with the rows that it lacks.

    Args:
        tables: 1 (CIFAR-10), 2 (CIFAR-100), 3 (each term of the penalty alone; VGG16, CIFAR-10).
    """
    rows: dict[Row, None] = {}
    for table in sorted(tables):
        dataset = "cifar100" if table == 2 else "cifar10"
        if table == 3:
            found = [
                Row(dataset, "vgg16", method, setting)
                for method in PAPER_METHODS
                for setting in SETTINGS
            ]
        else:
            found = [
                Row(dataset, model, method, setting)
                for model in MODELS
                for method in (*METHODS, *STATIC)
                for setting in (("neither",) if method in STATIC else ("neither", "both"))
            ]
        rows.update(dict.fromkeys(found))
    return list(rows)


def only(rows: Sequence[Row], names: Iterable[str]) -> list[Row]:
    """Keeps the rows that match some names: of each kind that is named, one must match.

    Args:
        rows: The rows.
        names: Names of data sets, networks, methods or settings. None: all rows are kept.

    Raises:
        ValueError: if a name is unknown, or nothing is left.
    """
    kinds = {
        "dataset": {row.dataset for row in rows},
        "model": {row.model for row in rows},
        "method": {row.method for row in rows},
        "setting": {row.setting for row in rows},
    }
    known = sorted(set().union(*kinds.values()))
    wanted = set(names)
    if not wanted <= set(known):
        raise ValueError(
            f"--only must name some of {' '.join(known)}. Received: "
            f"{' '.join(sorted(wanted - set(known)))}"
        )
    kept = [
        row
        for row in rows
        if all(getattr(row, kind) in wanted or not wanted & kinds[kind] for kind in kinds)
    ]
    if not kept:
        raise ValueError(f"--only {' '.join(sorted(wanted))} leaves no row")
    return kept


def with_sizes(rows: Sequence[Row]) -> list[Row]:
    """Adds the grown rows whose sizes static rows need, where they are missing."""
    needed = [row.size_of for row in rows if row.size_of]
    return list(dict.fromkeys([*rows, *needed]))


def command(row: Row, seed: int, protocol: dict, folder: Path) -> list[str]:
    """Returns the options of recipes/cifar.py that fill a cell.

    Args:
        row: The row.
        seed: The seed.
        protocol: Option name, without dashes -> value, for all cells.
        folder: Where the cells' folders are; those that a static cell needs must be complete.
    """
    options = dict(protocol)
    if row.size_of:
        grown = folder / row.size_of.folder(seed) / "results.json"
        how = ["--static", "--widths-from", str(grown)]
        options.pop("width", None)
        if row.method == "static-flops":
            options["epochs"] = epochs_of_equal_flops(common.read_run(grown))
            options["test-every"] = options["epochs"]
    else:
        how = ["--method", row.method, *SETTINGS[row.setting]]
    options |= {"dataset": row.dataset, "model": row.model, "seed": seed}
    options["out"] = folder / row.folder(seed)
    flat = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    return [*flat, *how]


def epochs_of_equal_flops(grown: common.Run) -> int:
    """Returns for how many epochs the final size trains at a grown run's training FLOPs."""
    return max(1, round(grown.training_flops / grown.history["training_flops"][-1]))
