"""The results of the tables' cells, summed up and laid out as Markdown."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev

import common
from published import published
from table_cells import SETTINGS, Row

_SETTING_NAMES = {
    "neither": "-",
    "weight_sum": "weight sum (Eq. 4)",
    "similarity": "similarity (Eq. 3)",
    "both": "both (Eq. 5)",
}


@dataclass(frozen=True)
class Summary:
    """What the runs of one row came to.

    Attributes:
        row: The row.
        accuracies: Test accuracy in per cent, seed by seed.
        seconds: Mean training time, growths included.
        choosing: Mean seconds of it in which neurons were chosen.
        penalty: Mean seconds more than the same seeds without penalty, or `None`.
        neurons: Mean final number of neurons.
        parameters: Mean final number of parameters.
        flops: Mean training floating-point operations.
        similarity: Mean |cosine| between neurons at the end, or `None` where nothing logs it, or
            a run broke down.
        unhelpful: Mean number of neurons taken without a helping score.
        gain: Per seed, the accuracy less that of the same seed without penalty, or `None`.
    """

    row: Row
    accuracies: list[float]
    seconds: float
    choosing: float
    penalty: float | None
    neurons: float
    parameters: float
    flops: float
    similarity: float | None
    unhelpful: float
    gain: list[float] | None

    def to_dict(self) -> dict:
        """Returns the row of the JSON, with the paper's result."""
        paper = published(self.row.dataset, self.row.model, self.row.method, self.row.setting)
        several = len(self.accuracies) > 1
        return {
            **asdict(self),
            "mean": mean(self.accuracies),
            "deviation": stdev(self.accuracies) if several else None,
            "paper": paper and paper._asdict(),
        }


def collect(rows: Sequence[Row], seeds: Sequence[int], folder: Path) -> list[Summary]:
    """Reads the results of all cells of some rows.

    Args:
        rows: The rows.
        seeds: The seeds of their cells.
        folder: Where the cells' folders are.
    """

    def runs(row: Row) -> list[common.Run]:
        return [common.read_run(folder / row.folder(seed) / "results.json") for seed in seeds]

    summaries = []
    for row in rows:
        plain = Row(row.dataset, row.model, row.method, "neither")
        compared = runs(plain) if row.setting != "neither" and plain in rows else None
        summaries.append(_summary(row, runs(row), compared))
    return summaries


def _summary(row: Row, runs: list[common.Run], plain: list[common.Run] | None) -> Summary:
    def average(value: Callable[[common.Run], float]) -> float:
        return mean(value(run) for run in runs)

    accuracies = [100 * run.test_accuracy for run in runs]
    seconds = average(lambda run: run.seconds["training"])
    last = [run.history.get("similarity", [None])[-1] for run in runs]
    return Summary(
        row=row,
        accuracies=accuracies,
        seconds=seconds,
        choosing=average(lambda run: run.seconds["choosing"]),
        penalty=plain and seconds - mean(run.seconds["training"] for run in plain),
        neurons=average(lambda run: run.neurons),
        parameters=average(lambda run: run.parameters),
        flops=average(lambda run: run.training_flops),
        similarity=None if None in last else mean(last),
        unhelpful=average(lambda run: sum(event["unhelpful"] for event in run.growth)),
        gain=plain
        and [
            mine - 100 * other.test_accuracy for mine, other in zip(accuracies, plain, strict=True)
        ],
    )


def tables(summaries: Sequence[Summary]) -> str:
    """Lays the results out as Markdown, a table for each data set and network."""
    parts = []
    for place in dict.fromkeys((s.row.dataset, s.row.model) for s in summaries):
        chosen = [s for s in summaries if (s.row.dataset, s.row.model) == place]
        parts.append(f"### {place[1]} on {place[0]}\n\n{_table(chosen)}")
        if any(s.gain for s in chosen):
            parts.append(f"What the penalty adds, seed by seed:\n\n{_gains(chosen)}")
    parts.append(
        "Accuracies are mean ± standard deviation over the seeds, in per cent of the test split, "
        "measured after the last epoch. Seconds are those of training, growths included, as they "
        'were on this machine with so many cells at a time; "penalty" is the difference to the '
        "same row without it. The paper's columns are of its protocol (250 epochs, one GTX 1080 "
        "Ti): the distance to it is that of the protocols, not of the methods."
    )
    return "\n\n".join(parts)


def _table(summaries: Sequence[Summary]) -> str:
    head = (
        "method | penalty | runs | accuracy | paper | seconds | choosing | penalty (s) | paper (s)"
        " | parameters | TFLOPs | similarity | unhelpful"
    )
    return markdown(head.split(" | "), [_line(s) for s in summaries])


def _line(s: Summary) -> list[str]:
    paper = published(s.row.dataset, s.row.model, s.row.method, s.row.setting)
    return [
        s.row.method,
        _SETTING_NAMES[s.row.setting],
        str(len(s.accuracies)),
        spread(s.accuracies),
        f"{paper.accuracy:.2f}" if paper else "-",
        f"{s.seconds:,.0f}",
        f"{s.choosing:,.1f}",
        "-" if s.penalty is None else f"{s.penalty:+,.1f}",
        f"{paper.seconds:,.0f}" if paper else "-",
        f"{s.parameters:,.0f}",
        f"{s.flops / 1e12:,.2f}",
        "-" if s.similarity is None else f"{s.similarity:.3f}",
        f"{s.unhelpful:.0f}",
    ]


def _gains(summaries: Sequence[Summary]) -> str:
    """A line for each method: the gain of each setting, and whether it exceeds its error."""
    settings = [name for name in SETTINGS if name != "neither"]
    by_row = {(s.row.method, s.row.setting): s for s in summaries if s.gain}
    methods = dict.fromkeys(method for method, _ in by_row)
    lines = [
        [method, *(_gain(by_row.get((method, setting))) for setting in settings)]
        for method in methods
    ]
    return markdown(["method", *(_SETTING_NAMES[setting] for setting in settings)], lines)


def _gain(summary: Summary | None) -> str:
    if summary is None:
        return "-"
    gain = summary.gain
    each = " ".join(f"{value:+.2f}" for value in gain)
    if len(gain) < 2:
        return each
    error = stdev(gain) / math.sqrt(len(gain))
    return f"{mean(gain):+.2f} ± {error:.2f} ({each})"


def spread(values: Sequence[float]) -> str:
    """Returns mean and standard deviation as text."""
    if len(values) < 2:
        return f"{mean(values):.2f}"
    return f"{mean(values):.2f} ± {stdev(values):.2f}"


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
