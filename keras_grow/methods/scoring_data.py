"""Batches of the training data for the methods that score neurons.

`fit` remembers what it trains on, and a method gets batches of the same data with the same
preprocessing, without disturbing the order or the random numbers of training: arrays and
`PyDataset`s are drawn from with a generator of their own; of anything else (a `tf.data.Dataset`, a
Python generator, a PyTorch `DataLoader`, a Grain data set), which can't be read twice without
changing what training sees, the latest batches are kept as they pass by. (A growth before the
first epoch of a `fit`, as where a saved model goes on, reads the first batches itself.)
"""

from __future__ import annotations

import itertools
import math
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np

from keras_grow.core import keras_private
from keras_grow.growing.failures import unfitting

# The latest batches of a stream that are kept for scoring.
KEPT_BATCHES = 32


class ScoringData:
    """Batches `(x, y, sample_weight)` for scoring. Sub-classes say where they come from."""

    _model: keras.Model | None = None

    def batches(self, count: int, rng: np.random.Generator) -> list[tuple]:
        """Returns up to `count` batches; fewer where the data has no more.

        Args:
            count: The most batches.
            rng: The source of the draw, where there is one.

        Raises:
            ValueError: if the data yields nothing, or batches that don't fit the model.
        """
        return self._checked(self._draw(count, rng))

    def examples(self, count: int, rng: np.random.Generator) -> list[tuple]:
        """Returns batches of so many examples in all; fewer where the data has no more.

        Args:
            count: Number of examples, if all batches are as large as the first one.
            rng: The source of the draw, where there is one.

        Raises:
            ValueError: as `batches`.
        """
        batches = self.batches(1, rng)
        needed = math.ceil(count / examples_in(batches[0]))
        return batches if needed == 1 else self.batches(needed, rng)

    def _checked(self, drawn: Iterable) -> list[tuple]:
        """Returns batches as `(x, y, sample_weight)`; refuses none, and those that don't fit."""
        batches = [keras.utils.unpack_x_y_sample_weight(batch) for batch in drawn]
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
        raise NotImplementedError


class DrawnData(ScoringData):
    """Data of which any part can be read at any time: arrays, or a `keras.utils.PyDataset`.

    Args:
        x: Arrays, or a `keras.utils.PyDataset`.
        y: Targets, where `x` is arrays.
        sample_weight: Weights of the examples, where `x` is arrays.
        class_weight: Class number -> weight.
        batch_size: Examples per batch, where `x` is arrays. Defaults to 32.
        validation_split: The fraction of the arrays, at their end, that training does not see.
    """

    def __init__(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        class_weight: dict[int, float] | None = None,
        batch_size: int | None = None,
        validation_split: float = 0.0,
    ):
        self._arrays = (x, y, sample_weight)
        self._class_weight = class_weight
        self._batch_size = batch_size or 32
        self._validation_split = validation_split or 0.0

    def _draw(self, count: int, rng: np.random.Generator) -> Iterator[tuple]:
        x = self._arrays[0]
        if isinstance(x, keras.utils.PyDataset):
            drawn = (x[int(index)] for index in rng.permutation(x.num_batches)[:count])
        else:
            drawn = self._slices(count, rng)
        return map(self._weighted, drawn)

    def _slices(self, count: int, rng: np.random.Generator) -> Iterator[tuple]:
        """Draws batches of arrays, without replacement as long as there are examples."""
        length = _length(keras.tree.flatten(self._arrays[0])[0])
        length = int(length * (1 - self._validation_split))
        if not length:
            return
        size = min(self._batch_size, length)
        order = np.concatenate([rng.permutation(length) for _ in range(-(-count * size // length))])
        for start in range(0, min(count * size, len(order)), size):
            yield keras_private.rows_of(self._arrays, np.sort(order[start : start + size]))

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


class ReadData(ScoringData):
    """Batches that are read from the start: of a data set, or of anything that yields batches.

    Args:
        batches: What yields them. An iterator goes on where it was.
    """

    def __init__(self, batches: Iterable):
        self._batches = batches

    def _draw(self, count: int, rng: np.random.Generator) -> Iterable:
        return itertools.islice(iter(self._batches), count)

    def examples(self, count: int, rng: np.random.Generator) -> list[tuple]:
        """See `ScoringData.examples`. Reads once: an iterator has lost what was read."""
        return self._checked(_until(count, iter(self._batches)))


class PassingData(ScoringData):
    """What training reads, of which the latest batches are kept as they pass by.

    Args:
        x: Data of any kind that `fit` takes but arrays.
        **arguments: What else `fit` was given: `y`, `sample_weight`, `class_weight`, `shuffle`.

    Attributes:
        stream: What training must read in place of `x`.
    """

    def __init__(self, x: Any, **arguments: Any):
        # Data is read ahead of training, by how much is a matter of timing: a batch is kept when
        # its step is done.
        self._ahead: deque = deque()
        self._kept: deque = deque(maxlen=KEPT_BATCHES)
        self._steps_done = 0
        self._adapter = keras_private.adapter_of(x, **arguments)
        self._read_once = isinstance(x, types.GeneratorType)
        self.stream = keras_private.TappedData(self._adapter, self._ahead)

    def step_done(self, batch: int, logs: Any = None) -> None:
        """Notes that training has done its steps up to the batch of this number in the epoch."""
        before = self._steps_done if batch >= self._steps_done else 0  # 0 in a new epoch
        self._steps_done = batch + 1
        for _ in range(min(self._steps_done - before, len(self._ahead))):
            self._kept.append(self._ahead.popleft())

    @property
    def kept(self) -> list:
        """The latest batches that have passed by."""
        return list(self._kept)

    def keep(self, batches: Iterable) -> None:
        """Replaces the batches that have passed by, as in a run that goes on in another process."""
        self._kept.clear()
        self._kept.extend(batches)

    def _draw(self, count: int, rng: np.random.Generator) -> Iterable:
        if self._kept or self._read_once:
            return list(self._kept)[-count:]
        return itertools.islice(iter(self._adapter.get_numpy_iterator()), count)


def training_data(
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    class_weight: dict[int, float] | None = None,
    batch_size: int | None = None,
    validation_split: float = 0.0,
    shuffle: bool = False,
) -> DrawnData | PassingData:
    """Returns what a `fit` that is given these arguments can score neurons on."""
    if _is_indexed(x) or keras_private.are_arrays((x, y, sample_weight)):
        return DrawnData(x, y, sample_weight, class_weight, batch_size, validation_split)
    return PassingData(
        x, y=y, sample_weight=sample_weight, class_weight=class_weight, shuffle=shuffle
    )


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
    if isinstance(data, tuple) and len(data) in (1, 2, 3) and keras_private.are_arrays(data):
        _check_lengths(data)
        return DrawnData(*data)
    if _is_indexed(data):
        return DrawnData(data)
    if isinstance(data, (list, Iterator)):
        return ReadData(data)
    if isinstance(data, Iterable) and not isinstance(data, (str, dict, tuple, np.ndarray)):
        return ReadData(_batches_of(data))
    raise TypeError(
        "`data` must be a tuple `(x, y)` or `(x, y, sample_weight)` of arrays, a "
        f"`tf.data.Dataset`, or an iterable of batches. Received: data of type {type(data)}"
    )


def _batches_of(data: Iterable) -> Iterable:
    """Returns the batches of a data set as `fit` reads them; of another iterable, as they are."""
    try:
        return _FromTheStart(keras_private.adapter_of(data).get_numpy_iterator)
    except ValueError:  # of no kind that `fit` takes
        return data


class _FromTheStart:
    """Batches that can be read again and again, of what makes an iterator over them."""

    def __init__(self, make_iterator: Callable[[], Iterable]):
        self._make_iterator = make_iterator

    def __iter__(self) -> Iterator:
        return iter(self._make_iterator())


def _check_lengths(arrays: tuple) -> None:
    lengths = [_length(leaf) for leaf in keras.tree.flatten(arrays) if leaf is not None]
    if len(set(lengths)) > 1:
        raise ValueError(
            "The arrays of `data` must have one entry per example each. Received: arrays of "
            f"lengths {lengths}"
        )


def _length(array: Any) -> int:
    """Returns the number of examples; a sparse matrix has a shape, but no length."""
    return int(array.shape[0]) if hasattr(array, "shape") else len(array)


def examples_in(batch: Any) -> int:
    """Returns the number of examples of a batch."""
    return _length(keras.tree.flatten(keras.utils.unpack_x_y_sample_weight(batch)[0])[0])


def _until(count: int, batches: Iterator) -> Iterator:
    """Yields batches until there are so many examples."""
    while count > 0:
        batch = next(batches, None)
        if batch is None:
            return
        count -= max(examples_in(batch), 1)
        yield batch


def _check_fits(model: keras.Model, batch: tuple) -> None:
    """Refuses batches that the model or its loss can't take."""
    x, y, sample_weight = batch
    with unfitting("data", model, batch), keras.StatelessScope(collect_losses=True) as scope:
        predicted = model(x, training=False)
    model.check_task_loss(scope.losses)
    with unfitting("data", model, batch):
        model.task_loss(x, y, predicted, sample_weight, scope.losses)


def _is_indexed(x: Any) -> bool:
    """Tells whether any batch can be asked for; a data set without an end passes by."""
    return isinstance(x, keras.utils.PyDataset) and x.num_batches is not None
