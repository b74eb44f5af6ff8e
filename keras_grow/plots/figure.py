"""What the figures share: their size, their colours and line styles, their keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAGE_WIDTH = 7.0  # inches: the text width of a page, so that ten-point labels stay ten points
PAGE_CHARACTERS = 76  # of a key, in one row across the page
LINE_STYLES = ("-", "--", "-.", ":")


def new_figure(height: float, layout: str = "constrained") -> Figure:
    """Returns an empty figure, as wide as a page, that pyplot knows nothing of."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Figures need matplotlib: pip install matplotlib") from error
    return Figure(figsize=(PAGE_WIDTH, height), layout=layout)


def style_of(index: int, count: int) -> dict:
    """Colour, from dark to just short of what vanishes on white paper, and line style."""
    from matplotlib import colormaps

    color = colormaps["cividis"](0.7 * index / max(count - 1, 1))
    return {"color": color, "linestyle": LINE_STYLES[index % len(LINE_STYLES)]}


def labelled_things(things: Any, what: str) -> dict:
    """One thing, or a mapping from labels to things, as a mapping."""
    labelled = dict(things) if isinstance(things, Mapping) else {"": things}
    if not labelled:
        raise ValueError(f"There is nothing to draw: `{what}` must not be empty.")
    return labelled


def draw_curve(axes: Axes, label: str, curve: Any, name: str, style: Mapping) -> None:
    """Draws a column of a `Curve`: mean over its seeds, their range as a band, growths marked."""
    values = curve.columns[name]
    if len(values) > 1:
        known = np.isfinite(values).all(axis=0)
        low, high = values.min(axis=0)[known], values.max(axis=0)[known]
        axes.fill_between(curve.x[known], low, high, color=style["color"], alpha=0.2, linewidth=0)
        label = f"{label} (mean and range of {len(values)})"
    axes.plot(*curve.mean(name), label=label, **style)
    if curve.growths.size:
        marks = {"color": style["color"], "linestyle": "none", "marker": "^", "markersize": 7}
        called = None if "growth" in axes.get_legend_handles_labels()[1] else "growth"
        axes.plot(curve.growth_x, curve.at_growths(name), label=called, zorder=3, **marks)


def add_key(figure: Figure, axes: Axes) -> None:
    """Puts the labels of a panel above the figure, growths last."""
    key = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    key.update({"growth": key.pop("growth")} if "growth" in key else {})
    figure.legend(key.values(), key.keys(), loc="outside upper center", ncols=_columns(list(key)))


def _columns(labels: list[str]) -> int:
    """Returns in how many columns of equal width the labels of a key fit on a page."""
    widest = max(map(len, labels)) + 5  # with the line beside it
    return max(1, min(len(labels), PAGE_CHARACTERS // widest))
