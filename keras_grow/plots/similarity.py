"""How similar the neurons of a network are to each other: in the end, and over training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_grow.channels.layer_table import row_of
from keras_grow.core import keras_private
from keras_grow.penalty.similarity import pair_similarities
from keras_grow.plots.curves import curves_of, label_x
from keras_grow.plots.figure import add_key, draw_curve, labelled_things, new_figure, style_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def similarity_histogram(models: Any, layer: int | str | None = None, bins: int = 40) -> Figure:
    """Draws how similar the neurons of one layer are to each other.

    The values are the cosine similarities of all pairs of neurons (Eq. 1, off the diagonal, each
    pair once). The range from -0.5 to 0.5 is marked; the legend has the mean of the absolute
    value (Eq. 2). Where the kernels differ in width, shares of all pairs are drawn, not counts.

    Args:
        models: A model, or a mapping from label to a model or to a kernel. A copy of a kernel
            taken before training or growth shows before and after of one model.
        layer: The kernel to draw, counted from 1 in the model's order, or the name of its layer.
            By default the second convolution (or the first kernel, where there are no two
            convolutions). Kernels given as arrays ignore it.
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
    labelled = labelled_things(models, "models")
    similarities = {label: _similarities(thing, layer) for label, thing in labelled.items()}
    in_counts = len({values.size for values in similarities.values()}) == 1
    edges = np.linspace(-1.0, 1.0, bins + 1)
    figure = new_figure(3.6)
    axes = figure.subplots()
    axes.axvspan(-0.5, 0.5, color="0.93", zorder=0)
    for end in (-0.5, 0.5):
        axes.axvline(end, color="0.4", linestyle="--", linewidth=1.0)
    for index, (label, values) in enumerate(similarities.items()):
        counts, _ = np.histogram(values, edges)
        heights = counts if in_counts else 100 * counts / max(values.size, 1)
        mean = np.abs(values).mean() if values.size else 0.0
        described = f"{values.size:,} pairs, mean |similarity| {mean:.3f}"
        style = style_of(index, len(similarities))
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
    """Returns the similarities of a model's layer or of a kernel."""
    return pair_similarities(
        _find_kernel(thing, layer) if isinstance(thing, keras.Model) else thing
    )


def _find_kernel(model: keras.Model, layer: int | str | None) -> Any:
    depthwise = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)  # of no neurons
    kernels = {
        name: _with_neurons_last(each)
        for name, each in keras_private.named_layers(model)
        if hasattr(each, "kernel") and not isinstance(each, depthwise)
    }
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


def _with_neurons_last(layer: keras.layers.Layer) -> Any:
    """Returns the kernel of a layer, its neurons along the last axis."""
    row = row_of(layer)
    axes = row.variables.get("kernel") if row else None
    last = axes is None or axes.output in (None, -1)
    return layer.kernel if last else keras.ops.moveaxis(layer.kernel, axes.output, -1)


def similarity_over_time(runs: Any, x: str = "epoch") -> Figure:
    """Draws how similar the neurons are to each other while networks train and grow.

    The values are the `similarity` that `GrowthCallback` logs: at the end of each epoch, the mean
    over the layers that can grow of the mean |cosine| between two neurons (Eq. 2). A triangle
    marks each growth. Several seeds of one label become their mean and a band from the lowest to
    the highest.

    Args:
        runs: One or more runs, as for `growth_curve`.
        x: `"epoch"`, `"seconds"` or `"flops"`, as for `growth_curve`.

    Returns:
        A matplotlib `Figure` with one panel.

    Raises:
        ValueError: If a history has no `similarity`.

    Example:

    >>> run = {"history": {"similarity": [0.3, 0.2, 0.25]}, "growth": [{"epoch": 2}]}
    >>> figure = similarity_over_time({"net2wider": run})
    >>> [text.get_text() for text in figure.legends[0].get_texts()]
    ['net2wider', 'growth']
    """
    curves = curves_of(runs, x, ["similarity"])
    figure = new_figure(3.6)
    axes = figure.subplots()
    for index, (label, curve) in enumerate(curves.items()):
        style = style_of(index, len(curves))
        draw_curve(axes, label or "similarity", curve, "similarity", style)
    for position in next(iter(curves.values())).growth_x if len(curves) == 1 else ():
        axes.axvline(position, color="0.6", linewidth=0.8, linestyle=":")
    axes.set_ylabel("mean |similarity| of two neurons")
    label_x(axes, x)
    axes.set_ylim(bottom=0)
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    add_key(figure, axes)
    return figure
