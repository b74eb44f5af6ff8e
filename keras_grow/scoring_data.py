"""Batches of the training data for the methods that score neurons.

`fit` remembers what it trains on, and a method gets batches of the same data with the same
preprocessing, without disturbing the order or the random numbers of training: arrays are drawn
from with a generator of their own; of a `tf.data.Dataset` or a Python generator, which can't be
read twice without changing what training sees, the latest batches are kept as they pass by.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np

from keras_grow.tensorflow_data import is_dataset, tap_dataset

# The latest batches of a stream that are kept for scoring.
KEPT_BATCHES = 32


class ScoringData:
    """Draws batches `(x, y, sample_weight)` for scoring.

    Args:
        x: Arrays, a `tf.data.Dataset`, a `keras.utils.PyDataset` or an iterable of batches.
        y: Targets, where `x` is arrays.
        sample_weight: Weights of the examples, where `x` is arrays.
        class_weight: Class number -> weight.
        batch_size: Examples per batch, where `x` is arrays. Defaults to 32.
        validation_split: The fraction of the arrays, at their end, that training does not see.
        passing: Whether training reads the same stream, so that its batches are kept as they
            pass. Then `stream` is what training must read.
    """

    def __init__(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        class_weight: dict[int, float] | None = None,
        batch_size: int | None = None,
        validation_split: float = 0.0,
        passing: bool = False,
    ):
        self._arrays = (x, y, sample_weight)
        self._class_weight = class_weight
        self._batch_size = batch_size or 32
        self._validation_split = validation_split or 0.0
        self._kept: deque = deque(maxlen=KEPT_BATCHES)
        self.stream = x
        self._passing = passing and not _is_arrays(x) and not _is_indexed(x)
        if self._passing:
            self.stream = tap_dataset(x, self._kept) if is_dataset(x) else self._tap(x)

    def _tap(self, batches: Iterable) -> Iterator:
        for batch in batches:
            self._kept.append(batch)
            yield batch

    def batches(self, count: int, rng: np.random.Generator) -> list[tuple]:
        """Returns up to `count` batches; fewer where the data has no more.

        Args:
            count: The most batches.
            rng: The source of the draw, where there is one.

        Raises:
            ValueError: if the data yields nothing.
        """
        batches = [self._weighted(batch) for batch in self._draw(count, rng)]
        if not batches:
            raise ValueError(
                "There is no data to score neurons on: the training data yielded no batch. Pass "
                "`data=` to `model.grow`, or use a method that needs no data ('net2wider')."
            )
        return batches

    def _draw(self, count: int, rng: np.random.Generator) -> Iterable:
        x = self._arrays[0]
        if self._passing:
            return list(self._kept)[-count:]
        if _is_arrays(x):
            return self._slices(count, rng)
        if _is_indexed(x):
            chosen = rng.permutation(len(x))[:count]
            return (x[int(index)] for index in chosen)
        return itertools.islice(iter(x), count)

    def _slices(self, count: int, rng: np.random.Generator) -> Iterator[tuple]:
        """Draws batches of arrays, without replacement as long as there are examples."""
        length = len(keras.tree.flatten(self._arrays[0])[0])
        length = int(length * (1 - self._validation_split))
        size = min(self._batch_size, length)
        order = np.concatenate(
            [rng.permutation(length) for _ in range(-(-count * size // max(length, 1)))]
            or [np.arange(0)]
        )
        for start in range(0, min(count * size, len(order)), size):
            rows = np.sort(order[start : start + size])
            yield keras.tree.map_structure(lambda a, rows=rows: _rows(a, rows), self._arrays)

    def _weighted(self, batch: Any) -> tuple:
        """Returns `(x, y, sample_weight)`, the class weights multiplied in."""
        x, y, weight = keras.utils.unpack_x_y_sample_weight(batch)
        if self._class_weight is None or y is None:
            return x, y, weight
        labels = np.asarray(y)
        if labels.ndim > 1 and labels.shape[-1] > 1:
            labels = labels.argmax(-1)
        by_class = np.array(
            [self._class_weight.get(int(label), 1.0) for label in labels.ravel()], "float32"
        )
        return x, y, by_class if weight is None else np.asarray(weight) * by_class


def as_scoring_data(data: Any) -> ScoringData:
    """Returns data that a user handed to `model.grow` as `ScoringData`.

    Args:
        data: A `(x, y)` or `(x, y, sample_weight)` tuple of arrays, a dataset, or an iterable of
            batches.
    """
    if isinstance(data, ScoringData):
        return data
    if isinstance(data, tuple) and _is_arrays(data[0]):
        return ScoringData(*data)
    if is_dataset(data) or _is_indexed(data):
        return ScoringData(data)
    if isinstance(data, Iterable) and not isinstance(data, (str, dict)):
        return ScoringData(iter(data))  # batches, also where they come in a list
    raise TypeError(
        "`data` must be a tuple `(x, y)` of arrays, a `tf.data.Dataset`, or an iterable of "
        f"batches. Received: data={data!r} of type {type(data)}"
    )


def _is_arrays(x: Any) -> bool:
    leaves = keras.tree.flatten(x)
    return bool(leaves) and all(
        hasattr(leaf, "shape") and hasattr(leaf, "dtype") for leaf in leaves
    )


def _is_indexed(x: Any) -> bool:
    return isinstance(x, keras.utils.PyDataset)


def _rows(array: Any, rows: np.ndarray) -> Any:
    return None if array is None else np.asarray(array)[rows]
