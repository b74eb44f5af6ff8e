"""Accuracy, loss and size of networks while they grow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from keras_grow.plots.curves import Curve, curves_of, label_x
from keras_grow.plots.figure import add_key, draw_curve, new_figure, style_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def growth_curve(runs: Any, x: str = "epoch", metric: str = "accuracy") -> Figure:
    """Draws a metric, the loss and the number of parameters while networks grow.

    One run shows training and held-out data; several show held-out data only, where they have it.
    A triangle marks each growth. Several seeds of one label become their mean and a band from
    the lowest to the highest, over the epochs that all of them have.

    Args:
        runs: A run, or a mapping from label to a run or to a list of runs (seeds). A run is the
            `History` that `fit` returns, or the content of a recipe's `results.json`, or another
            mapping with `"history"` (name to one value an epoch, as in `History.history`) and,
            optionally, `"growth"` (`GrowthEvent`s, or mappings with `"epoch"`, the number of
            epochs completed at the growth).
        x: `"epoch"`, `"seconds"` or `"flops"`. The latter two are summed up from the columns
            `seconds` and `training_flops` of the history, what each epoch took.
        metric: Name of the metric in the upper panel, without `val_`.

    Returns:
        A matplotlib `Figure` with a panel for the metric, one for the loss and, where a run logs
        `params`, one for the trainable parameters.

    Raises:
        ValueError: If a history lacks what is to be drawn.

    Example:

    >>> history = {"accuracy": [0.5, 0.7, 0.8], "loss": [1.2, 0.8, 0.6], "params": [90, 90, 160]}
    >>> figure = growth_curve({"history": history, "growth": [{"epoch": 2}]})
    >>> [axes.get_ylabel() for axes in figure.axes]
    ['accuracy (%)', 'loss', 'trainable\\nparameters']
    """
    names = list(dict.fromkeys([metric, "loss"]))
    curves = curves_of(runs, x, names)
    if any("params" in curve.columns for curve in curves.values()):
        names.append("params")
    heights = [1.0 if name == "params" else 2.0 for name in names]
    figure = new_figure(1.2 + 1.1 * sum(heights))
    panels = figure.subplots(len(names), sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for name, axes in zip(names, panels, strict=True):
        _draw_panel(axes, curves, name)
    label_x(panels[-1], x)
    add_key(figure, panels[0])
    return figure


def _draw_panel(axes: Axes, curves: Mapping[str, Curve], name: str) -> None:
    alone = len(curves) == 1
    for index, (label, curve) in enumerate(curves.items()):
        style = style_of(index, len(curves))
        if name != "params":
            _draw_lines(axes, label, curve, name, style, alone, _validated(curves, name))
        elif "params" in curve.columns:
            # A width holds for the whole of its epoch, so the first step begins at 0.
            params = curve.columns["params"].mean(axis=0)
            x, y = [0.0, *curve.x], [params[0], *params]
            axes.plot(x, y, drawstyle="steps-pre", **style)
    title = _scale(axes, name)
    if not alone and all(f"val_{name}" in curve.columns for curve in curves.values()):
        title = f"held-out\n{title}"
    elif not alone and name != "params" and not _validated(curves, name):
        title = f"training\n{title}"
    axes.set_ylabel(title)
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)


def _validated(curves: Mapping[str, Curve], name: str) -> bool:
    """Whether any of the runs was validated along the way."""
    return any(f"val_{name}" in curve.columns for curve in curves.values())


def _scale(axes: Axes, name: str) -> str:
    """Sets an axis as its quantity needs it, and returns its title."""
    from matplotlib.ticker import EngFormatter, PercentFormatter

    if name == "params":
        axes.yaxis.set_major_formatter(EngFormatter(sep=" "))
        axes.set_ylim(bottom=0)
        return "trainable\nparameters"
    title = name.replace("_", " ")
    if "acc" in name:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
        return f"{title} (%)"
    if name == "loss" and axes.dataLim.y1 > 10 * axes.dataLim.y0 > 0:
        axes.set_yscale("log")
    return title


def _draw_lines(
    axes: Axes,
    label: str,
    curve: Curve,
    name: str,
    style: dict,
    alone: bool,
    others_validated: bool,
) -> None:
    main = f"val_{name}" if f"val_{name}" in curve.columns else name
    if alone and main != name:
        if name in curve.columns:
            axes.plot(*curve.mean(name), color="0.55", linewidth=1.0, label="training")
        draw_curve(axes, f"{label} held-out".strip(), curve, main, style)
    else:
        # In the company of held-out values, training ones are named.
        called = f"{label}, training" if others_validated and main == name else label
        draw_curve(axes, called or name, curve, main, style)
    for position in curve.growth_x if alone else ():
        axes.axvline(position, color="0.6", linewidth=0.8, linestyle=":")
