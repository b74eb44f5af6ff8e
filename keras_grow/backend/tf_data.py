"""What only TensorFlow's data sets can do."""

from __future__ import annotations

from collections import deque
from typing import Any

import keras


def is_dataset(data: Any) -> bool:
    """Tells whether something is a `tf.data.Dataset`, without importing TensorFlow for it."""
    return any(
        kind.__module__.startswith("tensorflow.") and kind.__name__ == "DatasetV2"
        for kind in type(data).__mro__
    )


def make_iterators(dataset: Any, count: int) -> None:
    """Makes iterators of a `tf.data.Dataset`, and drops them.

    What shuffles or draws in it takes new seeds for each iterator, and TensorFlow counts them: the
    next one comes in the order that it would have had after so many others. Nothing is read, so
    it takes milliseconds.

    Args:
        dataset: The data set.
        count: Number of iterators. Of a data set of unknown length none are made: how many Keras
            has made of it depends on where it found the end.
    """
    if int(dataset.cardinality()) >= 0:
        for _ in range(count):
            iter(dataset)


def tap_dataset(dataset: Any, kept: deque) -> Any:
    """Returns the same data set, whose batches are also appended to `kept` as they pass by."""
    import tensorflow as tf

    def keep(*leaves):
        kept.append(keras.tree.pack_sequence_as(structure, list(leaves)))

    structure = dataset.element_spec

    def pass_by(*batch):
        batch = batch[0] if len(batch) == 1 else batch
        leaves = keras.tree.flatten(batch)
        done = tf.py_function(keep, leaves, [])
        with tf.control_dependencies([done]):
            return keras.tree.map_structure(tf.identity, batch)

    return dataset.map(pass_by)
