"""What saliency maps are worth, in numbers: how much they cover, and whether the model agrees.

Pure functions of arrays. A map is right if the model's probability of the class falls early when
the pixels that it names are taken away first (deletion), and rises early when they are put back
first (insertion).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np


class Estimate(NamedTuple):
    """A mean over images, and its standard error (NaN for fewer than two images)."""

    mean: float
    error: float


def estimate(values: Any) -> Estimate:
    """Returns the mean of one value an image, and the standard error of that mean.

    Example:

    >>> estimate([1.0, 2.0, 3.0, 6.0])
    Estimate(mean=3.0, error=1.0801234497346435)
    """
    values = np.asarray(values, dtype="float64")
    if values.size < 2:
        return Estimate(float(values.mean()), float("nan"))
    return Estimate(float(values.mean()), float(values.std(ddof=1) / np.sqrt(values.size)))


def coverage(maps: Any, threshold: float = 0.5) -> np.ndarray:
    """Computes the share of each image that its map covers.

    Args:
        maps: `(images, height, width)`, from 0 to 1.
        threshold: A pixel is covered where the map is at least this, above 0.

    Returns:
        Shares from 0 to 1, `(images,)`.

    Example:

    >>> coverage([[[1.0, 0.5], [0.4, 0.0]]])
    array([0.5])
    """
    if not 0 < threshold <= 1:
        raise ValueError(
            f"`threshold` must be above 0 and at most 1. Received: threshold={threshold}"
        )
    return np.mean(np.asarray(maps) >= threshold, axis=(1, 2))


def ranks(maps: Any, seed: int = 0) -> np.ndarray:
    """Ranks the pixels of each map: 0 for the largest value.

    A map is zero over much of the image: equal values are ranked in an order that is drawn, the
    same for every map, rather than row by row from the top.

    Args:
        maps: `(images, height, width)`.
        seed: Integer seed of that order.

    Returns:
        Integers of the same shape.

    Example:

    >>> ranks([[[0.1, 0.9], [0.5, 0.3]]])
    array([[[3, 0],
            [1, 2]]])
    """
    maps = np.asarray(maps)
    flat = maps.reshape(len(maps), -1)
    drawn = np.random.default_rng(seed).permutation(flat.shape[1])
    order = drawn[np.argsort(-flat[:, drawn], axis=1, kind="stable")]
    return np.argsort(order, axis=1).reshape(maps.shape)


def replaced(start: np.ndarray, finish: np.ndarray, rank: np.ndarray, pixels: int) -> np.ndarray:
    """Returns images `start` whose first so many pixels by rank are those of images `finish`.

    Args:
        start: `(images, height, width, channels)`.
        finish: Of the same shape.
        rank: What `ranks` returned, `(images, height, width)`.
        pixels: How many.
    """
    return np.where(rank[..., None] < pixels, finish, start)


def probability_curve(
    probabilities: Callable[[np.ndarray], np.ndarray],
    start: np.ndarray,
    finish: np.ndarray,
    maps: Any,
    classes: Sequence[int],
    steps: int = 16,
) -> np.ndarray:
    """Follows the probability of a class while images turn into others, by falling saliency.

    From images to blank ones this is the deletion curve; from blurred images to images it is the
    insertion curve.

    Args:
        probabilities: Function from images to `(images, classes)`.
        start: `(images, height, width, channels)`.
        finish: Of the same shape.
        maps: `(images, height, width)`.
        classes: One class index an image.
        steps: Into how many equal parts the pixels are divided.

    Returns:
        `(images, steps + 1)`: the first column is for `start`, the last for `finish`.

    Reference:

    - [Petsiuk, Das and Saenko, RISE](https://arxiv.org/abs/1806.07421)
    """
    rank = ranks(maps)
    counts = np.rint(np.linspace(0, rank[0].size, steps + 1)).astype(int)
    rows, classes = np.arange(len(rank)), np.asarray(classes)
    columns = [probabilities(replaced(start, finish, rank, n))[rows, classes] for n in counts]
    return np.stack(columns, axis=1)


def area(curve: Any) -> np.ndarray:
    """Computes the area under curves over [0, 1] by the trapezoidal rule.

    Args:
        curve: Values at equal distances, `(..., points)`.

    Returns:
        Areas, `(...)`.

    Example:

    >>> float(area([1.0, 0.5, 0.0, 0.0]))  # (0.75 + 0.25 + 0) / 3
    0.3333333333333333
    """
    curve = np.asarray(curve, dtype="float64")
    return np.mean((curve[..., 1:] + curve[..., :-1]) / 2, axis=-1)


def blurred(images: Any, sigma: float) -> np.ndarray:
    """Returns images without what is smaller than a few pixels.

    Args:
        images: `(images, height, width, channels)`.
        sigma: Standard deviation of the Gaussian filter, in pixels.
    """
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(np.asarray(images), (0, sigma, sigma, 0), mode="nearest")
