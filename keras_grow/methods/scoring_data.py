"""Batches of the training data for the methods that score neurons.

`fit` remembers what it trains on, and a method gets batches of the same data with the same
preprocessing, without disturbing the order or the random numbers of training: arrays are drawn
from with a generator of their own; of a `tf.data.Dataset` or a Python generator, which can't be
read twice without changing what training sees, the latest batches are kept as they pass by. (A
growth before the first epoch of a `fit`, as where a saved model goes on, reads the first batches of
a data set itself.)
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np

from keras_grow.backend.tf_data import is_dataset, tap_dataset
from keras_grow.growing.failures import unfitting

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
        # Data is read ahead of training, by how much is a matter of timing: a batch is kept when
        # its step is done.
        self._ahead: deque = deque()
        self._kept: deque = deque(maxlen=KEPT_BATCHES)
        self._steps_done = 0
        self._model: keras.Model | None = None
        self.stream = x
        self._passing = passing and not _is_arrays(x) and not _is_indexed(x)
        if self._passing and isinstance(x, Iterable) and not isinstance(x, str):
            self.stream = tap_dataset(x, self._ahead) if is_dataset(x) else self._tap(x)

    def _tap(self, batches: Iterable) -> Iterator:
        for batch in batches:
            self._ahead.append(batch)
            yield batch

    def step_done(self, batch: int, logs: Any = None) -> None:
        """Notes that training has done its steps up to the batch of this number in the epoch."""
        before = self._steps_done if batch >= self._steps_done else 0  # 0 in a new epoch
        self._steps_done = batch + 1
        for _ in range(min(self._steps_done - before, len(self._ahead))):
            self._kept.append(self._ahead.popleft())

    @property
    def kept(self) -> list | None:
        """The latest batches that have passed by; `None` where the data can be read at will."""
        return list(self._kept) if self._passing else None

    def keep(self, batches: Iterable) -> None:
        """Replaces the batches that have passed by, as in a run that goes on in another process."""
        self._kept.clear()
        self._kept.extend(batches)

    def batches(self, count: int, rng: np.random.Generator) -> list[tuple]:
        """Returns up to `count` batches; fewer where the data has no more.

        Args:
            count: The most batches.
            rng: The source of the draw, where there is one.

        Raises:
            ValueError: if the data yields nothing, or batches that don't fit the model.
        """
        batches = [self._weighted(batch) for batch in self._draw(count, rng)]
        if not batches:
            raise ValueError(
                "There is no data to score neurons on: the training data yielded no batch (of a "
                "generator, none before the first epoch of `fit`). Pass `data=` to `model.grow`, "
                "or use a method that needs no data ('net2wider')."
            )
        if self._model is not None:
            _check_fits(self._model, batches[0])
            self._model = None  # once is enough
        return batches

    def check_against(self, model: keras.Model) -> ScoringData:
        """Has the first batch that is drawn checked against a model; returns the data."""
        self._model = model
        return self

    def _draw(self, count: int, rng: np.random.Generator) -> Iterable:
        x = self._arrays[0]
        if self._passing and (self._kept or not is_dataset(x)):
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
        if not length:
            return
        size = min(self._batch_size, length)
        order = np.concatenate([rng.permutation(length) for _ in range(-(-count * size // length))])
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

    Raises:
        TypeError: if it is none of them.
        ValueError: if the arrays differ in length.
    """
    if isinstance(data, ScoringData):
        return data
    if isinstance(data, tuple) and len(data) in (1, 2, 3) and _is_arrays(data[0]):
        _check_lengths(data)
        return ScoringData(*data)
    if is_dataset(data) or _is_indexed(data):
        return ScoringData(data)
    if isinstance(data, Iterable) and not isinstance(data, (str, dict, tuple, np.ndarray)):
        return ScoringData(iter(data))  # batches, also where they come in a list
    raise TypeError(
        "`data` must be a tuple `(x, y)` or `(x, y, sample_weight)` of arrays, a "
        f"`tf.data.Dataset`, or an iterable of batches. Received: data of type {type(data)}"
    )


def _check_lengths(arrays: tuple) -> None:
    lengths = [len(leaf) for leaf in keras.tree.flatten(arrays) if leaf is not None]
    if len(set(lengths)) > 1:
        raise ValueError(
            "The arrays of `data` must have one entry per example each. Received: arrays of "
            f"lengths {lengths}"
        )


def _check_fits(model: keras.Model, batch: tuple) -> None:
    """Refuses batches that the model or its loss can't take."""
    x, y, sample_weight = batch
    with unfitting("data", model, batch):
        with keras.StatelessScope():
            predicted = model(x, training=False)
        model.task_loss(x, y, predicted, sample_weight)


def _is_arrays(x: Any) -> bool:
    leaves = keras.tree.flatten(x)
    return bool(leaves) and all(
        hasattr(leaf, "shape") and hasattr(leaf, "dtype") for leaf in leaves
    )


def _is_indexed(x: Any) -> bool:
    return isinstance(x, keras.utils.PyDataset)


def _rows(array: Any, rows: np.ndarray) -> Any:
    return None if array is None else np.asarray(array)[rows]
