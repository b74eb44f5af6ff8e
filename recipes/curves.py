"""Draws runs that other recipes have finished: how they grew, and how alike their neurons are.

    python recipes/curves.py --runs runs/a runs/b runs/c
    python recipes/curves.py --runs runs/a0 runs/a1 runs/b0 runs/b1 --x flops \
        --labels firefly firefly "with penalty" "with penalty"

Runs of one label are seeds of one curve: their mean, and a band from the lowest to the highest.
Without --labels, runs that differ in nothing but the seed have one label.

Writes into --out, from the `results.json` of each folder: growth_curve.png, and
similarity_over_time.png of the runs that logged it; and from the models beside it
similarity_histogram.png (Figure 6), of the first run of each label.

Reference: Sakai and Hotta, Growing Deep Neural Network Considering with Similarity between Neurons.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from quiet import quietly

with quietly():
    import common

    from keras_grow import plots
    from keras_grow.plots.curves import X_LABELS

RESULTS, MODEL = "results.json", "model.keras"
FIGURES = ["growth_curve.png", "similarity_over_time.png", "similarity_histogram.png"]
# What makes no label; of a network that doesn't grow, how it would.
ELSEWHERE = ("seed", "out", "data_dir", "widths_from", "widths", "test_every")
OF_GROWTH = ("method", "rate", "every", "penalty", "penalty_weight", "weight_sum", "penalty_epochs")


def main(argv: list[str] | None = None) -> list[Path]:
    """Runs the recipe with command-line arguments, and returns the figures' files."""
    args = parse(argv)
    runs = [common.read_run(folder / RESULTS) for folder in args.runs]
    labelled: dict[str, list[int]] = {}
    for index, label in enumerate(args.labels or labels_of(runs)):
        labelled.setdefault(label, []).append(index)
    figures = draw(labelled, runs, args)
    for name, figure in figures.items():
        with common.replacing(args.out / name) as partial:
            figure.savefig(partial, dpi=150)
    print(f"{', '.join(figures)} are in {args.out}")
    return [args.out / name for name in figures]


def draw(labelled: dict[str, list[int]], runs: list[common.Run], args) -> dict:
    """Returns file name -> figure, of what the runs have."""
    seeds = {label: [runs[index] for index in of_label] for label, of_label in labelled.items()}
    figures = {FIGURES[0]: plots.growth_curve(seeds, args.x)}
    logged = {
        label: of_label
        for label, of_label in seeds.items()
        if all("similarity" in run.history for run in of_label)
    }
    if logged:
        figures[FIGURES[1]] = plots.similarity_over_time(logged, args.x)
    first = {label: args.runs[of_label[0]] / MODEL for label, of_label in labelled.items()}
    found = {label: common.load_model(path) for label, path in first.items() if path.is_file()}
    if found:
        figures[FIGURES[2]] = plots.similarity_histogram(found, args.layer)
    return figures


def labels_of(runs: list[common.Run]) -> list[str]:
    """Names each run by what is not the same in all of them, but for the seed."""
    asked = [_asked(run) for run in runs]
    names = dict.fromkeys(name for each in asked for name in each)
    differ = [n for n in names if len({repr(each[n]) for each in asked if n in each}) > 1]
    if len({"static" in each for each in asked}) > 1:
        differ = list(dict.fromkeys(["static", "method", *differ]))
    if not differ:
        return [runs[0].recipe] * len(runs)
    return [
        ", ".join(_described(name, each[name]) for name in differ if name in each) for each in asked
    ]


def _asked(run: common.Run) -> dict:
    """Returns the part of a run's configuration that may name it."""
    static = bool(run.configuration.get("static"))
    left_out = {*ELSEWHERE, *(OF_GROWTH if static else ["static"])}
    return {name: value for name, value in run.configuration.items() if name not in left_out}


def _described(name: str, value) -> str:
    called = name.replace("_", " ")
    if isinstance(value, bool):
        return called if value else f"no {called}"
    return value if isinstance(value, str) else f"{called} {value}"


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--runs", type=Path, nargs="+", required=True, help="folders with a results.json")
    add("--labels", nargs="+", help="one for each run; the same for seeds of one curve")
    add("--x", choices=list(X_LABELS), default="epoch", help="horizontal axis")
    add("--layer", type=common.layer, default=2, help="of the histogram: number or name")
    add("--out", type=Path, help="folder for the figures, if not runs/curves-<time>")
    args = parser.parse_args(argv)
    args.out = args.out or common.default_out("curves")
    if args.labels and len(args.labels) != len(args.runs):
        parser.error(
            f"--labels must have one label a run. Received: {len(args.runs)} runs, "
            f"{len(args.labels)} labels"
        )
    taken = [name for name in FIGURES if (args.out / name).exists()]
    if taken:
        parser.error(f"--out {args.out} already holds {', '.join(taken)}: name another folder")
    return args


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        sys.exit(str(error))
