"""How `fit` reads data of every kind that Keras takes (Keras 3.15)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras.src.trainers import data_adapters
from keras.src.trainers.data_adapters import array_slicing
from keras.src.trainers.data_adapters.array_data_adapter import can_convert_arrays

from keras_grow.backend.tf_data import tap_dataset


def are_arrays(structure: Any) -> bool:
    """Tells whether `fit` takes something as arrays, from which examples can be drawn.

    Arrays of NumPy and of every backend, data frames and series, sparse matrices; structures of
    them. Relies on `can_convert_arrays`
    (keras/src/trainers/data_adapters/array_data_adapter.py).
    """
    leaves = keras.tree.flatten(structure)
    return any(leaf is not None for leaf in leaves) and can_convert_arrays(structure)


def rows_of(structure: Any, rows: np.ndarray) -> Any:
    """Returns some examples of arrays, as `fit` would feed them, in NumPy.

    Relies on `convert_to_sliceable` (keras/src/trainers/data_adapters/array_slicing.py).
    """

    def slice_rows(array):
        if isinstance(array, np.ndarray):
            return array[rows]
        sliceable = array_slicing.convert_to_sliceable(array)
        return np.asarray(sliceable.convert_to_numpy(sliceable[rows]))

    return keras.tree.map_structure(lambda a: None if a is None else slice_rows(a), structure)


def adapter_of(x: Any, **arguments: Any) -> Any:
    """Returns what `fit` makes of data that isn't arrays, before it reads it.

    Relies on `get_data_adapter` (keras/src/trainers/data_adapters/__init__.py).

    Args:
        x: The data.
        **arguments: What else `fit` was given: `y`, `sample_weight`, `class_weight`, `shuffle`.

    Raises:
        ValueError: if it is of no kind that Keras takes, or doesn't go with the other arguments.
    """
    return data_adapters.get_data_adapter(x, **arguments)


class TappedData(data_adapters.data_adapter.DataAdapter):
    """Data that `fit` reads as it would read the original; its batches are kept as they pass.

    `fit` takes a data adapter in place of data. Relies on its interface
    (keras/src/trainers/data_adapters/data_adapter.py).

    Args:
        adapter: What `adapter_of` returned.
        kept: Where batches are appended to as they are read.
    """

    def __init__(self, adapter: Any, kept: deque):
        self._adapter, self._kept = adapter, kept

    def get_tf_dataset(self):
        return tap_dataset(self._adapter.get_tf_dataset(), self._kept)

    def get_jax_iterator(self):
        return self._tapped(self._adapter.get_jax_iterator())

    def get_numpy_iterator(self):
        return self._tapped(self._adapter.get_numpy_iterator())

    def _tapped(self, batches: Any) -> Iterator:
        for batch in batches:
            self._kept.append(batch)
            yield batch

    num_batches = property(lambda self: self._adapter.num_batches)
    batch_size = property(lambda self: self._adapter.batch_size)
    has_partial_batch = property(lambda self: self._adapter.has_partial_batch)
    partial_batch_size = property(lambda self: self._adapter.partial_batch_size)

    def on_epoch_begin(self):
        self._adapter.on_epoch_begin()

    def on_epoch_end(self):
        self._adapter.on_epoch_end()
