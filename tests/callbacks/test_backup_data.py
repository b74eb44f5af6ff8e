"""A run that goes on reads its data in the order in which it would have read them."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from resumable import SIZE, STEPS, StopAt, X, Y, assert_goes_on, copying

from keras_grow.backend.tf_data import make_iterators

pytestmark = pytest.mark.long


def test_a_stream_in_an_epoch_keeps_its_batches(tmp_path):
    """A growth is chosen by the latest batches, those before the stop included."""
    assert_goes_on(tmp_path, StopAt(0, 1), StopAt(2, 1), backup={"save_freq": 1})


def test_arrays_are_shuffled_as_before(tmp_path):
    def data():
        return {"x": X, "y": Y, "batch_size": SIZE, "shuffle": True}

    assert_goes_on(tmp_path, StopAt(3), data=data, growth=copying)


class Pages(keras.utils.PyDataset):
    """Draws from NumPy's global generator; Keras shuffles its batches by Python's."""

    def __len__(self):
        return STEPS

    def __getitem__(self, index):
        rows = slice(index * SIZE, (index + 1) * SIZE)
        return X[rows] + np.random.normal(size=(SIZE, 1, 1, 1)), Y[rows]


@pytest.mark.parametrize("save_freq", [pytest.param("epoch", marks=pytest.mark.slow), 1])
def test_global_random_generators_go_on(tmp_path, save_freq):
    assert_goes_on(
        tmp_path,
        StopAt(1) if save_freq == "epoch" else StopAt(1, 1),
        StopAt(2),
        data=lambda: {"x": Pages(), "shuffle": True},
        growth=copying,
        backup={"save_freq": save_freq},
    )


def shuffled():
    """What most scripts train on: read once an epoch, and each time in another order."""
    rows = tf.data.Dataset.range(len(X)).shuffle(len(X), seed=4).batch(SIZE)
    draws = tf.data.Dataset.random(seed=5, rerandomize_each_iteration=True)

    def load(i, draw):
        noise = tf.random.stateless_normal((SIZE, 6, 6, 2), [draw, 0])
        return tf.gather(X, i) + noise, tf.gather(Y, i)

    return tf.data.Dataset.zip(rows, draws).map(load).prefetch(2)


@pytest.mark.parametrize("save_freq", ["epoch", pytest.param(1, marks=pytest.mark.slow)])
def test_a_data_set_is_shuffled_as_in_its_epoch(tmp_path, save_freq):
    """A method that needs data keeps batches of it as they pass by."""
    assert_goes_on(
        tmp_path,
        StopAt(2, 1),
        StopAt(3),
        data=lambda: {"x": shuffled(), "shuffle": False},
        backup={"save_freq": save_freq},
    )


def test_only_the_epochs_of_this_fit_are_passed(tmp_path):
    def data():
        return {"x": shuffled(), "shuffle": False, "initial_epoch": 1}

    assert_goes_on(tmp_path, StopAt(3), data=data, growth=copying)


def test_of_a_data_set_of_unknown_length_no_iterators_are_made(monkeypatch):
    made = []
    monkeypatch.setattr(tf.data.Dataset, "__iter__", lambda self: made.append(self) or iter(()))
    make_iterators(shuffled().filter(lambda x, y: True), 2)
    assert not made
    make_iterators(shuffled(), 2)
    assert len(made) == 2
