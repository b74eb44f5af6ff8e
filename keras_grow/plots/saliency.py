"""Where networks look, as a grid of pictures."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_grow.plots.figure import PAGE_WIDTH, labelled_things, new_figure
from keras_grow.saliency.maps import SALIENCY_METHODS, saliency_maps

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def saliency_grid(
    models: Any,
    images: Any,
    classes: Sequence[int],
    method: str = "gradcam",
    class_names: Sequence[str] | None = None,
    layer: int | str | None = None,
    overlay: bool = True,
) -> Figure:
    """Draws where networks look: a column an image, a row for the input and one a model.

    Args:
        models: A Functional model with one logit a class, or a mapping from label to model; all
            of them take the same images and know the same classes.
        images: Array of shape `(images, height, width, channels)`, as the models take them.
        classes: One class index an image, usually its own class.
        method: `"gradcam"`, `"gradcam++"` or `"scorecam"`, computed by tf-keras-vis.
        class_names: Name of each class, for the column titles.
        layer: The layer whose features are weighed: its name, or the number of a convolution,
            counted from 1. By default the last convolution with 4 x 4 positions or more.
        overlay: Whether the maps lie over the image in grey.

    Returns:
        A matplotlib `Figure`; the maps are the last image in each panel.

    Raises:
        ValueError: If a model has no convolution, or the arguments do not fit together.

    Reference:

    - [Selvaraju et al., Grad-CAM](https://arxiv.org/abs/1610.02391)
    """
    labelled = labelled_things(models, "models")
    maps = [saliency_maps(model, images, classes, method, layer) for model in labelled.values()]
    counts = {label: model.outputs[0].shape[-1] for label, model in labelled.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(f"The models must have as many classes as each other, not {counts}.")
    cell = (PAGE_WIDTH - 2.0) / len(classes)  # the labels and the colour bar take the rest
    figure = new_figure(0.5 + 1.1 * cell * (1 + len(maps)), layout="compressed")
    grid = figure.subplots(1 + len(maps), len(classes), squeeze=False)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
    labels = [textwrap.fill(label, 14) for label in ["input", *labelled]]
    size = _size_of(labels, 0.9 * cell)
    for axes, label in zip(grid[:, 0], labels, strict=True):
        axes.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=size)
    titles = [str(class_names[each] if class_names is not None else each) for each in classes]
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, **_slanted(titles, cell))
    drawn = [
        _draw_column(column, image, of_image, overlay)
        for column, image, *of_image in zip(
            grid.T, _from_black_to_white(images), *maps, strict=True
        )
    ]
    bar = figure.colorbar(drawn[-1], ax=grid[1:].ravel().tolist(), aspect=30, ticks=[0, 0.5, 1])
    bar.set_label(SALIENCY_METHODS[method])
    return figure


def _size_of(labels: Sequence[str], height: float) -> float:
    """Returns the font size at which labels are no higher than a row, in inches."""
    lines = 1 + max(label.count("\n") for label in labels)
    return min(10.0, 72 * height / (1.25 * lines))  # a line is a quarter higher than its letters


def _slanted(titles: Sequence[str], width: float) -> dict:
    """Turns titles that are longer than a column is wide, in inches, out of each other's way."""
    if max(map(len, titles)) * 0.1 < width:  # a letter is about 0.1 inches wide
        return {}
    return {"rotation": 35, "ha": "left", "x": 0.1, "fontsize": "medium"}


def _from_black_to_white(images: Any) -> np.ndarray:
    """Undoes a normalisation."""
    images = keras.ops.convert_to_numpy(images).astype("float32")
    low, high = (f(images, axis=(0, 1, 2), keepdims=True) for f in (np.min, np.max))
    return (images - low) / np.where(high > low, high - low, 1.0)


def _draw_column(column: Sequence, image: np.ndarray, maps: Sequence, overlay: bool) -> Any:
    """Draws an image and below it the models' maps; returns what a colour bar can describe."""
    column[0].imshow(image, cmap="gray", vmin=0, vmax=1)
    for axes, of_model in zip(column[1:], maps, strict=True):
        if overlay:
            # Lightened, so that the map's colours are not lost in what is black.
            axes.imshow(image.mean(axis=-1), cmap="gray", vmin=-1, vmax=1)
        alpha = 0.6 if overlay else 1.0
        drawn = axes.imshow(of_model, cmap="cividis", vmin=0, vmax=1, alpha=alpha)
    return drawn
