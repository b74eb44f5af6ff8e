"""Figures of growing networks: what growth did over time, to the neurons and to what they see.

Every function returns a matplotlib `Figure` made without `pyplot`, so that nothing is kept alive
or shown behind the caller's back. Line styles differ as well as colours, and the colours are
cividis, so that the figures survive grey printing.
"""

import contextlib
import io
import math
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import keras
import numpy as np

from keras_grow.layers import Growable
from keras_grow.similarity import similarity_map

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAGE_WIDTH = 7.0  # inches: the text width of a page, so that ten-point labels stay ten points
LINE_STYLES = ("-", "--", "-.", ":")
X_LABELS = {"epoch": "epoch", "seconds": "training time (s)", "flops": "training cost (FLOPs)"}
SALIENCY_METHODS = {"gradcam": "Grad-CAM", "gradcam++": "Grad-CAM++", "scorecam": "Score-CAM"}


def _new_figure(height: float, layout: str = "constrained") -> "Figure":
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Figures need matplotlib: pip install 'keras-grow[recipes]'") from error
    return Figure(figsize=(PAGE_WIDTH, height), layout=layout)


def _style(index: int, count: int) -> dict:
    """Colour, from dark to just short of what vanishes on white paper, and line style."""
    from matplotlib import colormaps

    color = colormaps["cividis"](0.7 * index / max(count - 1, 1))
    return {"color": color, "linestyle": LINE_STYLES[index % len(LINE_STYLES)]}


def _labelled(things: Any, what: str) -> dict:
    """One thing, or a mapping from labels to things, as a mapping."""
    labelled = dict(things) if isinstance(things, Mapping) else {"": things}
    if not labelled:
        raise ValueError(f"There is nothing to draw: `{what}` must not be empty.")
    return labelled


class _Curve(NamedTuple):
    """The seeds of one label: positions (epochs,), columns (seeds, epochs), growths (epochs)."""

    x: np.ndarray
    columns: dict[str, np.ndarray]
    growths: np.ndarray


def growth_curve(runs: Any, x: str = "epoch", metric: str = "accuracy") -> "Figure":
    """Draws a metric, the loss and the number of parameters while networks grow.

    One run shows training and held-out data; several show held-out data only, where they have it.
    A triangle marks each growth. Several seeds of one label become their mean and a band from
    the lowest to the highest, over the epochs that all of them have.

    Args:
        runs: A run, or a mapping from label to a run or to a list of runs (seeds). A run is the
            `History` that `fit` returns, or a mapping with `"history"` (name to one value an
            epoch, as in `History.history`) and, optionally, `"events"` (`GrowthEvent`s, or
            mappings with `"epoch"`, the number of epochs completed at the growth).
        x: `"epoch"`, `"seconds"` or `"flops"`. The latter two are columns of the history that
            hold the sum up to each epoch's end.
        metric: Name of the metric in the upper panel, without `val_`.

    Returns:
        A matplotlib `Figure` with a panel for the metric, one for the loss and, where a run logs
        `params`, one for the trainable parameters.

    Raises:
        ValueError: If a history lacks what is to be drawn.

    Example:

    >>> history = {"accuracy": [0.5, 0.7, 0.8], "loss": [1.2, 0.8, 0.6], "params": [90, 90, 160]}
    >>> figure = growth_curve({"history": history, "events": [{"epoch": 2}]})
    >>> [axes.get_ylabel() for axes in figure.axes]
    ['accuracy (%)', 'loss', 'trainable\\nparameters']
    """
    if x not in X_LABELS:
        raise ValueError(f"`x` must be one of {list(X_LABELS)}. Received: x={x!r}")
    single = hasattr(runs, "history") or (isinstance(runs, Mapping) and "history" in runs)
    labelled = _labelled({"": runs} if single else runs, "runs")
    curves = {str(label): _curve(label, seeds, x, metric) for label, seeds in labelled.items()}
    names = list(dict.fromkeys([metric, "loss"]))
    if any("params" in curve.columns for curve in curves.values()):
        names.append("params")
    heights = [1.0 if name == "params" else 2.0 for name in names]
    figure = _new_figure(1.2 + 1.1 * sum(heights))
    panels = figure.subplots(len(names), sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for name, axes in zip(names, panels, strict=True):
        _draw_panel(axes, curves, name)
    panels[-1].set_xlabel(X_LABELS[x])
    panels[-1].set_xlim(left=0)
    key = dict(zip(*reversed(panels[0].get_legend_handles_labels()), strict=True))
    key.update({"growth": key.pop("growth")} if "growth" in key else {})  # the last entry
    columns = len(key) if len("".join(key)) < 60 else 2
    figure.legend(key.values(), key.keys(), loc="outside upper center", ncols=columns)
    return figure


def _curve(label: Any, runs: Any, x: str, metric: str) -> _Curve:
    seeds = list(runs) if isinstance(runs, Sequence) else [runs]
    if not seeds:
        raise ValueError(f"`runs` has no run for {label!r}.")
    histories = [_history(label, run) for run in seeds]
    shared = sorted(set.intersection(*(set(history) for history in histories)))
    for name in (metric, "loss", x):
        if name != "epoch" and not {name, f"val_{name}"} & set(shared):
            raise ValueError(f"Run {label!r} has no {name!r} in its history, but {shared}.")
    epochs = min(history[shared[0]].size for history in histories)
    columns = {name: np.stack([h[name][:epochs] for h in histories]) for name in shared}
    growths = {epoch for run in seeds for epoch in _growths(run) if 0 < epoch <= epochs}
    positions = np.arange(1.0, epochs + 1) if x == "epoch" else columns[x].mean(axis=0)
    return _Curve(positions, columns, np.array(sorted(growths), dtype=int))


def _history(label: Any, run: Any) -> dict[str, np.ndarray]:
    history = run.get("history") if isinstance(run, Mapping) else getattr(run, "history", None)
    if not isinstance(history, Mapping) or not history:
        raise ValueError(f"Run {label!r} must have a non-empty 'history'. Received: {run!r:.200}")
    lengths = {name: len(values) for name, values in history.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise ValueError(f"Run {label!r}: columns must have one value an epoch, not {lengths}.")
    return {name: np.asarray(values, dtype=float) for name, values in history.items()}


def _growths(run: Any) -> list[int]:
    """Completed epochs at each growth; growths by hand outside `fit` have none."""
    is_mapping = isinstance(run, Mapping)
    events = run.get("events") or [] if is_mapping else getattr(run.model, "growth_history", [])
    epochs = [e["epoch"] if isinstance(e, Mapping) else e.epoch for e in events]
    return [epoch for epoch in epochs if epoch is not None]


def _draw_panel(axes: "Axes", curves: Mapping[str, _Curve], name: str) -> None:
    from matplotlib.ticker import EngFormatter, PercentFormatter

    alone = len(curves) == 1
    for index, (label, curve) in enumerate(curves.items()):
        style = _style(index, len(curves))
        if name != "params":
            _draw_lines(axes, label, curve, name, style, alone)
        elif "params" in curve.columns:
            # A width holds for the whole of its epoch, so the first step begins at 0.
            params = curve.columns["params"].mean(axis=0)
            x, y = np.append(0.0, curve.x), np.append(params[0], params)
            axes.plot(x, y, drawstyle="steps-pre", **style)
    title = "trainable\nparameters" if name == "params" else name.replace("_", " ")
    if name == "params":
        axes.yaxis.set_major_formatter(EngFormatter(sep=" "))
        axes.set_ylim(bottom=0)
    elif "acc" in name:
        title += " (%)"
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
    elif name == "loss" and axes.dataLim.y1 > 10 * axes.dataLim.y0 > 0:
        axes.set_yscale("log")
    if not alone and all(f"val_{name}" in curve.columns for curve in curves.values()):
        title = f"held-out\n{title}"
    axes.set_ylabel(title)
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)


def _draw_lines(axes: "Axes", label: str, curve: _Curve, name: str, style: dict, alone: bool):
    main = f"val_{name}" if f"val_{name}" in curve.columns else name
    values = curve.columns[main]
    if len(values) > 1:
        low, high = values.min(axis=0), values.max(axis=0)
        axes.fill_between(curve.x, low, high, color=style["color"], alpha=0.2, linewidth=0)
        label = f"{label} (mean and range of {len(values)})".strip()
    if alone and main != name:
        if name in curve.columns:
            training = curve.columns[name].mean(axis=0)
            axes.plot(curve.x, training, color="0.55", linewidth=1.0, label="training")
        label = f"{label} held-out".strip()
    axes.plot(curve.x, values.mean(axis=0), label=label or name, **style)
    at = curve.growths - 1  # epochs count from 1, indices from 0
    if at.size:
        marks = {"color": style["color"], "linestyle": "none", "marker": "^", "markersize": 7}
        called = None if "growth" in axes.get_legend_handles_labels()[1] else "growth"
        axes.plot(curve.x[at], values.mean(axis=0)[at], label=called, zorder=3, **marks)
    for position in curve.x[at] if alone else ():
        axes.axvline(position, color="0.6", linewidth=0.8, linestyle=":")


def similarity_histogram(models: Any, layer: int | str | None = None, bins: int = 40) -> "Figure":
    """Draws how similar the neurons of one layer are to each other.

    The values are the cosine similarities of all pairs of neurons (Eq. 1, off the diagonal, each
    pair once). The range from -0.5 to 0.5 is marked; the legend has the mean of the absolute
    value (Eq. 2). Where the kernels differ in width, shares of all pairs are drawn, not counts.

    Args:
        models: A model, or a mapping from label to a model or to a kernel. A copy of a kernel
            taken before training or growth shows before and after of one model.
        layer: The growable kernel to draw, counted from 1 in the model's order, or the name of
            its layer. By default the second growable convolution (or the first kernel, where
            there are no two convolutions). Kernels given as arrays ignore it.
        bins: Number of bins from -1 to 1.

    Returns:
        A matplotlib `Figure` with one panel.

    Raises:
        ValueError: If a model has no such layer.

    Example:

    >>> kernel = keras.random.normal((3, 3, 4, 16), seed=0)
    >>> figure = similarity_histogram({"at the start": kernel})
    >>> figure.axes[0].get_xlabel()
    'cosine similarity of two neurons'

    Reference:

    - [Sakai and Hotta, Growing Deep Neural Network Considering with Similarity between
      Neurons](https://arxiv.org/abs/2408.13291), Figure 6
    """
    labelled = _labelled(models, "models")
    similarities = {label: _similarities(thing, layer) for label, thing in labelled.items()}
    in_counts = len({values.size for values in similarities.values()}) == 1
    edges = np.linspace(-1.0, 1.0, bins + 1)
    figure = _new_figure(3.6)
    axes = figure.subplots()
    axes.axvspan(-0.5, 0.5, color="0.93", zorder=0)
    for end in (-0.5, 0.5):
        axes.axvline(end, color="0.4", linestyle="--", linewidth=1.0)
    for index, (label, values) in enumerate(similarities.items()):
        counts, _ = np.histogram(values, edges)
        heights = counts if in_counts else 100 * counts / max(values.size, 1)
        mean = np.abs(values).mean() if values.size else 0.0
        described = f"{values.size:,} pairs, mean |similarity| {mean:.3f}"
        style = _style(index, len(similarities))
        axes.stairs(heights, edges, fill=True, color=style["color"], alpha=0.25)
        described = f"{label}: {described}" if label else described
        axes.stairs(heights, edges, linewidth=1.5, label=described, **style)
    axes.set(xlim=(-1, 1), xlabel="cosine similarity of two neurons")
    axes.set_ylabel("pairs of neurons" if in_counts else "share of the pairs (%)")
    axes.set_xticks([-1, -0.5, 0, 0.5, 1])
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center")
    return figure


def _similarities(thing: Any, layer: int | str | None) -> np.ndarray:
    """Cosine similarities of a model's layer or of a kernel, each pair once."""
    kernel = _find_kernel(thing, layer) if isinstance(thing, keras.Model) else thing
    if len(kernel.shape) < 2:
        raise ValueError(f"A kernel must have 2 axes or more. Received: shape {kernel.shape}")
    similarities = keras.ops.convert_to_numpy(similarity_map(kernel)).astype("float64")
    pairs = similarities[np.triu_indices_from(similarities, k=1)]
    return np.clip(pairs, -1.0, 1.0)  # rounding puts equal neurons at 1.0000001


def _find_kernel(model: keras.Model, layer: int | str | None) -> Any:
    layers = [each for each in model.layers if hasattr(each, "kernel")]
    growable = [e for e in layers if isinstance(e, Growable) and e.width_argument is not None]
    # A model of plain Keras layers can be looked at all the same.
    kernels = {each.name: each.kernel for each in growable or layers}
    if not kernels:
        raise ValueError(f"Model {model.name!r} has no layer with a kernel.")
    ordered = list(kernels.values())
    if layer is None:
        convolutions = [kernel for kernel in ordered if len(kernel.shape) > 2]
        return convolutions[1] if len(convolutions) > 1 else ordered[0]
    if isinstance(layer, str) and layer in kernels:
        return kernels[layer]
    if isinstance(layer, int) and 1 <= layer <= len(ordered):
        return ordered[layer - 1]
    known = ", ".join(f"{number} {name!r}" for number, name in enumerate(kernels, start=1))
    raise ValueError(f"Model {model.name!r} has no such `layer`: {layer!r}. It has: {known}.")


def saliency_maps(
    model: keras.Model, images: Any, classes: Sequence[int], method: str, layer: str | None = None
) -> np.ndarray:
    """Maps `(images, height, width)` of [0, 1], each scaled by itself (see `saliency_grid`)."""
    images = keras.ops.convert_to_numpy(images).astype("float32")
    if method not in SALIENCY_METHODS:
        raise ValueError(f"`method` must be one of {[*SALIENCY_METHODS]}. Received: {method!r}")
    if images.ndim != 4 or len(images) != len(classes) or len(classes) == 0:
        raise ValueError(
            "`images` must have shape (images, height, width, channels), and `classes` one class "
            f"an image. Received: shape {images.shape} and {len(classes)} classes"
        )
    outputs = model.outputs[0].shape[-1]
    if not 0 <= min(classes) <= max(classes) < outputs:
        known = f"0 to {outputs - 1}, the outputs of model {model.name!r}"
        raise ValueError(f"`classes` must be from {known}. Received: classes={list(classes)}")
    features = _feature_layer(model) if layer is None else model.get_layer(layer)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        # tf-keras-vis imports from SciPy's old namespace and passes inputs in a list, and
        # Score-CAM lets `predict` print its progress bar. None of it is news to the caller.
        warnings.filterwarnings("ignore", message="Please import `zoom`")
        warnings.filterwarnings("ignore", message="The structure of `inputs`")
        maps = _explainer(method)(model, clone=False)(
            lambda logits: [logits[row, each] for row, each in enumerate(classes)],
            images,
            penultimate_layer=features,
            seek_penultimate_conv_layer=False,
        )
    return np.asarray(maps)


def _explainer(method: str) -> Any:
    try:
        from tf_keras_vis.gradcam import Gradcam
        from tf_keras_vis.gradcam_plus_plus import GradcamPlusPlus
        from tf_keras_vis.scorecam import Scorecam
    except ImportError as error:
        hint = "Saliency maps need tf-keras-vis: pip install 'keras-grow[recipes]'"
        raise ImportError(hint) from error
    return {"gradcam": Gradcam, "gradcam++": GradcamPlusPlus, "scorecam": Scorecam}[method]


def _feature_layer(model: keras.Model) -> keras.Layer:
    """The features of the last convolution larger than 1x1: normalised and activated."""

    def positions(layer: keras.Layer) -> tuple | None:
        shape = getattr(layer.output, "shape", ())
        return tuple(shape[1:3]) if len(shape) == 4 and math.prod(shape[1:3]) > 1 else None

    layers = [layer for layer in model.layers if not isinstance(layer, keras.Model)]
    found = [each for each in layers if isinstance(each, keras.layers.Conv2D) and positions(each)]
    if not found:
        need = "A saliency map needs a Conv2D layer with more than one position"
        raise ValueError(f"{need}, which model {model.name!r} lacks.")
    return [each for each in layers if positions(each) == positions(found[-1])][-1]


def saliency_grid(
    models: Any,
    images: Any,
    classes: Sequence[int],
    method: str = "gradcam",
    class_names: Sequence[str] | None = None,
    layer: str | None = None,
    overlay: bool = True,
) -> "Figure":
    """Draws where networks look: a column an image, a row for the input and one a model.

    Args:
        models: A functional model with one logit a class, or a mapping from label to model.
        images: Array of shape `(images, height, width, channels)`, as the models take them.
        classes: One class index an image, usually its own class.
        method: `"gradcam"`, `"gradcam++"` or `"scorecam"`, computed by tf-keras-vis.
        class_names: Name of each class, for the column titles.
        layer: Name of the layer whose features are weighed. By default the features of the last
            convolution that has more than one position.
        overlay: Whether the maps lie over the image in grey.

    Returns:
        A matplotlib `Figure`; the maps are the last image in each panel.

    Raises:
        ValueError: If a model has no convolution, or the arguments do not fit together.

    Reference:

    - [Selvaraju et al., Grad-CAM](https://arxiv.org/abs/1610.02391)
    """
    labelled = _labelled(models, "models")
    maps = [saliency_maps(model, images, classes, method, layer) for model in labelled.values()]
    images = keras.ops.convert_to_numpy(images).astype("float32")
    low, high = (f(images, axis=(0, 1, 2), keepdims=True) for f in (np.min, np.max))
    images = (images - low) / np.where(high > low, high - low, 1.0)  # undoes a normalisation
    cell = (PAGE_WIDTH - 2.0) / len(images)  # the labels and the colour bar take the rest
    figure = _new_figure(0.5 + 1.1 * cell * (1 + len(maps)), layout="compressed")
    grid = figure.subplots(1 + len(maps), len(images), squeeze=False)
    for axes, label in zip(grid[:, 0], ["input", *labelled], strict=True):
        axes.set_ylabel(textwrap.fill(label, 14), rotation=0, ha="right", va="center")
    for column, (image, index) in enumerate(zip(images, classes, strict=True)):
        grid[0, column].set_title(str(class_names[index] if class_names is not None else index))
        grid[0, column].imshow(image, cmap="gray", vmin=0, vmax=1)
        for axes, of_model in zip(grid[1:, column], maps, strict=True):
            if overlay:
                # Lightened, so that the map's colours are not lost in what is black.
                axes.imshow(image.mean(axis=-1), cmap="gray", vmin=-1, vmax=1)
            alpha = 0.6 if overlay else 1.0
            drawn = axes.imshow(of_model[column], cmap="cividis", vmin=0, vmax=1, alpha=alpha)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
    bar = figure.colorbar(drawn, ax=grid[1:].ravel().tolist(), aspect=30, ticks=[0, 0.5, 1])
    bar.set_label(SALIENCY_METHODS[method])
    return figure
