"""What a search found: accuracy against one hyperparameter, with the spread over repetitions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_grow.plots.figure import add_key, labelled_things, new_figure, style_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_TICKS = 8
MARKERS = "osD^"


def hyperparameter_curve(
    results: Any,
    xlabel: str,
    ylabel: str = "validation accuracy (%)",
    log: bool = False,
    lines: bool = True,
) -> Figure:
    """Draws accuracy against a hyperparameter.

    A marker is the mean over the repetitions of a value; its thin bar goes from the lowest to the
    highest, its thick one a standard error of the mean to each side. Zero has a place at the left
    of a logarithmic axis.

    Args:
        results: A mapping from value of the hyperparameter to accuracies (from 0 to 1), one per
            repetition; or a mapping from label to such a mapping.
        xlabel: Name of the hyperparameter.
        ylabel: Label of the accuracies.
        log: Whether the axis of the hyperparameter is logarithmic.
        lines: Whether to join the values of a label: yes for a scan, no for a random search, where
            other hyperparameters differ as well.

    Returns:
        A matplotlib `Figure` with one panel.

    Raises:
        ValueError: If there is nothing to draw, or a value that the axis can't show.

    Example:

    >>> figure = hyperparameter_curve({0: [0.81, 0.83], 0.01: [0.84, 0.85]}, "lambda", log=True)
    >>> figure.axes[0].get_xlabel()
    'lambda'
    """
    labelled = _checked(results)
    values = sorted({float(value) for runs in labelled.values() for value in runs})
    figure = new_figure(3.6)
    axes = figure.subplots()
    for index, (label, runs) in enumerate(labelled.items()):
        style = style_of(index, len(labelled))
        style["linestyle"] = style["linestyle"] if lines else "none"
        _draw(axes, label, runs, {**style, "marker": MARKERS[index % len(MARKERS)]})
    _scale(axes, values, log)
    axes.set(xlabel=xlabel, ylabel=f"{ylabel}\n{_spread(labelled)}")
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    if list(labelled) != [""]:
        add_key(figure, axes)
    return figure


def _checked(results: Any) -> dict[str, Mapping[float, Sequence[float]]]:
    things = labelled_things(results, "results")
    several = all(isinstance(runs, Mapping) for runs in things.values())
    labelled = things if several else {"": things}
    for label, runs in labelled.items():
        for value, accuracies in runs.items():
            if not len(accuracies) or not np.isfinite([float(value), *accuracies]).all():
                raise ValueError(
                    f"Each value must have accuracies, and all must be finite. Received: {value} "
                    f"with {list(accuracies)} for {label!r}"
                )
        if not runs:
            raise ValueError(f"There is nothing to draw for {label!r}.")
    return labelled


def _draw(axes: Axes, label: str, runs: Mapping, style: Mapping) -> None:
    x = np.array(sorted(runs), dtype=float)
    percent = [100 * np.asarray(runs[value], dtype=float) for value in sorted(runs)]
    mean = np.array([each.mean() for each in percent])
    low = mean - [each.min() for each in percent]
    high = [each.max() for each in percent] - mean
    axes.errorbar(x, mean, yerr=[low, high], label=label, capsize=3, **style)
    error = [each.std(ddof=1) / np.sqrt(each.size) if each.size > 1 else 0.0 for each in percent]
    axes.errorbar(x, mean, yerr=error, linestyle="none", elinewidth=4, color=style["color"])


def _spread(labelled: Mapping[str, Mapping]) -> str:
    """Says what the markers and bars are."""
    counts = sorted({len(each) for runs in labelled.values() for each in runs.values()})
    if counts == [1]:
        return "one run each"
    number = " to ".join(map(str, dict.fromkeys([counts[0], counts[-1]])))
    return f"mean, its error, and range of {number}"


def _scale(axes: Axes, values: Sequence[float], log: bool) -> None:
    """Sets the scale of the hyperparameter, with ticks at its values where they are few."""
    if log:
        if values[0] < 0:
            raise ValueError(
                f"`log` must be False where a value is negative. Received: {values[0]}"
            )
        positive = [value for value in values if value > 0]
        axes.set_xscale("symlog", linthresh=positive[0] if positive else 1.0)
    if len(values) <= MOST_TICKS:
        axes.set_xticks(values, [f"{value:g}" for value in values])
        axes.set_xticks([], minor=True)
