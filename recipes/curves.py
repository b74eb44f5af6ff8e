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

import common

from keras_grow import plots, runs

MODEL = "model.keras"
FIGURES = ["growth_curve.png", "similarity_over_time.png", "similarity_histogram.png"]


def main(argv: list[str] | None = None) -> list[Path]:
    """Runs the recipe with command-line arguments, and returns the figures' files."""
    args = parse(argv)
    finished = [runs.read(folder) for folder in args.runs]
    labelled: dict[str, list[int]] = {}
    for index, label in enumerate(args.labels or runs.labels(finished)):
        labelled.setdefault(label, []).append(index)
    figures = draw(labelled, finished, args)
    args.out.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(args.out / name, dpi=150)
    print(f"{', '.join(figures)} are in {args.out}")
    return [args.out / name for name in figures]


def draw(labelled: dict[str, list[int]], finished: list[runs.Run], args) -> dict:
    """Returns file name -> figure, of what the runs have."""
    seeds = {label: [finished[index] for index in group] for label, group in labelled.items()}
    figures = {FIGURES[0]: plots.growth_curve(seeds, args.x)}
    logged = {
        label: group
        for label, group in seeds.items()
        if all("similarity" in run.history for run in group)
    }
    if logged:
        figures[FIGURES[1]] = plots.similarity_over_time(logged, args.x)
    first = {label: args.runs[group[0]] / MODEL for label, group in labelled.items()}
    models = {label: common.load_model(path) for label, path in first.items() if path.is_file()}
    if models:
        figures[FIGURES[2]] = plots.similarity_histogram(models, args.layer)
    return figures


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = common.parser(__doc__)
    add = parser.add_argument
    add("--runs", type=Path, nargs="+", required=True, help="folders with a results.json")
    add("--labels", nargs="+", help="one for each run; the same for seeds of one curve")
    add("--x", choices=["epoch", "seconds", "flops"], default="epoch", help="horizontal axis")
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
