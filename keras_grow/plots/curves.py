"""Runs, as `fit` or a recipe leaves them, made into the curves that a figure draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from keras_grow.callbacks.cost import FLOPS, SECONDS
from keras_grow.plots.figure import labelled_things
from keras_grow.runs import columns as columns_of
from keras_grow.runs import growths as growths_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

X_LABELS = {"epoch": "epoch", "seconds": "training time (s)", "flops": "training cost (FLOPs)"}
COSTS = {"seconds": SECONDS, "flops": FLOPS}  # what it is called in a history


def label_x(axes: Axes, x: str) -> None:
    """Labels the horizontal axis of curves, which begins at zero."""
    axes.set_xlabel(X_LABELS[x])
    axes.set_xlim(left=0)
    if x == "flops":
        from matplotlib.ticker import EngFormatter

        axes.xaxis.set_major_formatter(EngFormatter(sep=" "))


class Curve(NamedTuple):
    """The seeds of one label.

    Attributes:
        x: Position of each epoch's end, `(epochs,)`.
        columns: Name -> values, `(seeds, epochs)`; NaN where there is none.
        growths: Number of epochs completed at each growth, in order.
    """

    x: np.ndarray
    columns: dict[str, np.ndarray]
    growths: np.ndarray

    @property
    def growth_x(self) -> np.ndarray:
        """Positions of the growths."""
        return self.x[self.growths - 1]  # epochs count from 1, indices from 0

    def mean(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns positions and mean over the seeds of a column, where every seed has a value."""
        mean = self.columns[name].mean(axis=0)
        known = np.isfinite(mean)
        return self.x[known], mean[known]

    def at_growths(self, name: str) -> np.ndarray:
        """Returns the mean of a column at the growths, between two values where it has none."""
        x, mean = self.mean(name)
        return np.interp(self.growth_x, x, mean) if x.size else np.full(self.growths.shape, np.nan)


def curves_of(runs: Any, x: str, names: Sequence[str]) -> dict[str, Curve]:
    """Reads runs as `growth_curve` takes them.

    Args:
        runs: See `growth_curve`.
        x: One of `X_LABELS`.
        names: Columns that every run must have, with or without `val_`.

    Returns:
        Label -> its curve.
    """
    if x not in X_LABELS:
        raise ValueError(f"`x` must be one of {list(X_LABELS)}. Received: x={x!r}")
    single = hasattr(runs, "history") or (isinstance(runs, Mapping) and "history" in runs)
    labelled = labelled_things({"": runs} if single else runs, "runs")
    return {str(label): _curve(label, seeds, x, names) for label, seeds in labelled.items()}


def _curve(label: Any, runs: Any, x: str, names: Sequence[str]) -> Curve:
    seeds = list(runs) if isinstance(runs, Sequence) and not isinstance(runs, str) else [runs]
    if not seeds:
        raise ValueError(f"`runs` has no run for {label!r}.")
    histories = [_history(label, run) for run in seeds]
    shared = sorted(set.intersection(*(set(history) for history in histories)))
    for name in (*names, *([COSTS[x]] if x in COSTS else [])):
        if not {name, f"val_{name}"} & set(shared):
            raise ValueError(f"Run {label!r} has no {name!r} in its history, but {shared}.")
    epochs = min(history[shared[0]].size for history in histories)
    columns = {name: np.stack([h[name][:epochs] for h in histories]) for name in shared}
    growths = {epoch for run in seeds for epoch in growths_of(run) if 0 < epoch <= epochs}
    positions = np.arange(1.0, epochs + 1)
    if x in COSTS:
        positions = np.cumsum(columns[COSTS[x]], axis=1).mean(axis=0)
    return Curve(positions, columns, np.array(sorted(growths), dtype=int))


def _history(label: Any, run: Any) -> dict[str, np.ndarray]:
    """Returns the columns that can be drawn."""
    try:
        columns = columns_of(run)
    except ValueError as error:
        raise ValueError(f"Run {label!r}: {error}") from error
    # Validated once, at the end: a point is no curve, the training metric is one.
    epochs = max(column.size for column in columns.values())
    single = [n for n, c in columns.items() if np.isfinite(c).sum() < min(2, epochs)]
    for name in single:
        if name.startswith("val_") and name.removeprefix("val_") in columns:
            del columns[name]
    return columns
