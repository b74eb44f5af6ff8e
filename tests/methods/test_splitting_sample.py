"""The examples that splitting looks at: as many as asked for, the same from every kind of data."""

import numpy as np
import pytest
import tensorflow as tf
from networks import mlp
from problems import compiled, generator, problem

from keras_grow.methods.scoring_data import as_scoring_data
from keras_grow.methods.splitting.method import Splitting, draw_pieces


def test_the_sample_is_as_large_as_asked_for():
    x = np.arange(300.0)[:, None]
    for size in (7, 100, 300):
        data = as_scoring_data(tf.data.Dataset.from_tensor_slices((x, x)).batch(size))
        pieces = draw_pieces(data, 150, generator())
        np.testing.assert_array_equal(np.concatenate([p[0] for p in pieces]), x[:150])
        assert max(len(p[0]) for p in pieces) <= 64
        assert sum(len(p[0]) for p in draw_pieces(data, 999, generator())) == 300


@pytest.mark.parametrize("size", [3, 8, 300])
def test_data_that_is_read_once_gives_the_same_sample(size):
    x = np.arange(300.0)[:, None]
    batches = [(x[i : i + size], x[i : i + size]) for i in range(0, 300, size)]
    for data in (batches, iter(batches), (batch for batch in batches)):
        pieces = draw_pieces(as_scoring_data(data), 20, generator())
        np.testing.assert_array_equal(np.concatenate([p[0] for p in pieces]), x[:20])


def test_growing_on_an_iterator_equals_growing_on_its_batches():
    models = [compiled(mlp()), compiled(mlp())]
    models[1].set_weights(models[0].get_weights())
    x, y = problem(models[0])
    for model, data in zip(models, ([(x, y)], iter([(x, y)])), strict=True):
        model.grow(0.35, Splitting(seed=1), data=data)
    for one, other in zip(models[0].get_weights(), models[1].get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
