"""Net2Wider: copies that change nothing, and noise on the copies alone."""

import numpy as np
import pytest
from networks import NETWORKS, batch, mlp, randomise, relative_change
from problems import compiled

from keras_grow.methods import Net2Wider


@pytest.mark.parametrize("name", NETWORKS)
def test_copies_without_noise_change_nothing(name):
    model = randomise(compiled(NETWORKS[name]()))
    x = batch(model)
    before = model(x, training=False).numpy()
    model.grow(0.7, Net2Wider(noise=0, seed=1))
    assert relative_change(before, model(x, training=False).numpy()) < 1e-5


def test_noise_is_on_the_copies_alone_and_of_the_size_asked_for():
    model = compiled(mlp(inputs=200, hidden=(30,)))
    before = model.get_layer("hidden0").kernel.numpy()
    model.grow(1.0, Net2Wider(noise=0.2, seed=1))
    kernel = model.get_layer("hidden0").kernel.numpy()
    np.testing.assert_array_equal(kernel[:, :30], before)
    distances = np.abs(kernel[:, None, 30:] - before[:, :, None]).std(axis=0)
    closest = before[:, distances.argmin(axis=0)]
    noise = np.std(kernel[:, 30:] - closest)
    np.testing.assert_allclose(noise, 0.2 * np.std(before), rtol=0.05)
