"""Second derivatives of activations, and the eigensolver, against what is known exactly."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_grow.channels.visit import ELEMENTWISE
from keras_grow.methods.splitting.curvature import second_derivative, smallest_eigenpairs


def generator(seed=0):
    return np.random.default_rng(seed)


SMOOTH = "silu gelu tanh sigmoid softplus elu exponential mish softsign log_sigmoid celu".split()
KINKED = (
    "relu relu6 leaky_relu selu hard_tanh hard_sigmoid hard_silu soft_shrink sparse_sigmoid "
    "sparse_plus squareplus tanh_shrink linear"
).split()
LAYERS = [
    keras.layers.ReLU(max_value=4, negative_slope=0.1),
    keras.layers.LeakyReLU(0.3),
    keras.layers.ELU(0.5),
    keras.layers.PReLU(keras.initializers.Constant(0.2)),
    keras.layers.Activation(keras.layers.LeakyReLU(0.3)),
]


def tanh_gelu(x):
    return keras.activations.gelu(x, approximate=True)


def function(name):
    return tanh_gelu if name == "tanh_gelu" else getattr(keras.activations, name)


@pytest.mark.parametrize("name", [*SMOOTH, "tanh_gelu"])
def test_second_derivatives_of_smooth_activations(name):
    activation, h = function(name), 1e-3
    u = np.linspace(-4, 4, 80)  # does not touch zero, where some third derivatives jump
    up, at, down = (activation(tf.constant(u + d)).numpy() for d in (h, 0, -h))
    bend = second_derivative(activation, tf.constant(u)).numpy()
    np.testing.assert_allclose(bend, (up - 2 * at + down) / h**2, atol=2e-5)


@pytest.mark.parametrize("activation", [*SMOOTH, *KINKED, *LAYERS], ids=str)
def test_second_derivatives_sum_up_to_the_change_of_slope(activation):
    """Kinks included: each is smoothed by a softplus, and none is missing."""
    f = function(activation) if isinstance(activation, str) else activation
    u = np.linspace(-12, 12, 24_001)[:, None]
    bend = second_derivative(f, tf.constant(u, "float32")).numpy()
    slopes = np.gradient(np.asarray(f(tf.constant(u, "float32")), "float64")[:, 0], u[:, 0])
    change = slopes[-3] - slopes[2]
    assert np.sum(bend) * (u[1, 0] - u[0, 0]) == pytest.approx(change, abs=0.02, rel=0.01)


@pytest.mark.parametrize("name", sorted(ELEMENTWISE - {"threshold"}))
def test_every_activation_of_a_growable_layer_has_a_second_derivative(name):
    u = tf.constant(np.linspace(-5, 5, 11), "float32")
    bend = second_derivative(function(name), u)
    assert bend.shape == u.shape
    assert np.all(np.isfinite(bend))


def test_the_bend_of_a_relu():
    u = np.linspace(-2, 2, 9)
    s = 1 / (1 + np.exp(-3 * u))
    for f, factor in [("relu", 1), ("leaky_relu", 0.8)]:
        bend = second_derivative(function(f), tf.constant(u)).numpy()
        np.testing.assert_allclose(bend, factor * 3 * s * (1 - s), rtol=1e-6)


def symmetric(kind, count, dimension):
    rng = generator(4)
    q = np.linalg.qr(rng.normal(size=(count, dimension, dimension)))[0]
    values = {
        "random": rng.normal(size=(count, dimension)),
        "positive": rng.uniform(1, 2, size=(count, dimension)),
        "one value": np.full((count, dimension), -2.0),
        "two values": rng.choice([-1.0, 3.0], size=(count, dimension)),
        "rank one": np.where(np.arange(dimension) == 0, -1.0, 0.0) * np.ones((count, 1)),
        "zero": np.zeros((count, dimension)),
    }[kind]
    return np.einsum("cij,cj,ckj->cik", q, values, q)


KINDS = ["random", "positive", "one value", "two values", "rank one", "zero"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dimension", [1, 2, 7])
def test_as_many_iterations_as_dimensions_are_exact(kind, dimension):
    matrices = symmetric(kind, 5, dimension)
    matrices[0] = 0  # one that is different from the others
    values, vectors = smallest_eigenpairs(
        lambda v: np.einsum("cij,cj->ci", matrices, v), 5, dimension, 99, generator()
    )
    np.testing.assert_allclose(values, np.linalg.eigh(matrices)[0][:, 0], atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1)
    products = np.einsum("cij,cj->ci", matrices, vectors)
    np.testing.assert_allclose(products, values[:, None] * vectors, atol=1e-7)


def test_few_iterations_approach_from_above():
    matrices = symmetric("random", 6, 150)
    matrices[:, 0, 0] -= 10.0
    expected = np.linalg.eigh(matrices)[0][:, 0]
    before = np.inf
    for iterations in (2, 5, 10, 40):
        values, _ = smallest_eigenpairs(
            lambda v: np.einsum("cij,cj->ci", matrices, v), 6, 150, iterations, generator()
        )
        assert np.all(values <= before + 1e-9)
        assert np.all(values >= expected - 1e-9)
        before = values
    np.testing.assert_allclose(before, expected, rtol=1e-6)
