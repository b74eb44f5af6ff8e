"""What NumPy draws is distributed as what Keras's initializers draw."""

import keras
import numpy as np
import pytest
from scipy import stats

from keras_grow.methods.initial_values import initial_values

I = keras.initializers  # noqa: E741
INITIALIZERS = [
    I.RandomNormal(0.3, 0.2, seed=1),
    I.RandomUniform(-1, 3, seed=1),
    I.TruncatedNormal(-0.5, 2.0, seed=1),
    I.GlorotNormal(seed=1),
    I.GlorotUniform(seed=1),
    I.HeNormal(seed=1),
    I.HeUniform(seed=1),
    I.LecunNormal(seed=1),
    I.LecunUniform(seed=1),
    I.VarianceScaling(2.5, "fan_out", "untruncated_normal", seed=1),
    I.VarianceScaling(0.5, "fan_avg", "truncated_normal", seed=1),
    I.Orthogonal(gain=1.5, seed=1),
]


@pytest.mark.parametrize("shape", [(3, 3, 20, 40), (60, 110)], ids=str)
@pytest.mark.parametrize("initializer", INITIALIZERS, ids=lambda i: type(i).__name__)
def test_the_distribution_is_that_of_keras(initializer, shape):
    ours = initial_values(initializer, shape, np.random.default_rng(0))
    theirs = keras.ops.convert_to_numpy(initializer(shape))
    assert ours.shape == shape and ours.dtype == "float32"
    assert stats.ks_2samp(ours.ravel(), theirs.ravel()).pvalue > 1e-3
    scale = np.std(theirs)
    np.testing.assert_allclose(np.mean(ours), np.mean(theirs), atol=0.06 * scale)
    np.testing.assert_allclose(np.std(ours), scale, rtol=0.04)
    np.testing.assert_allclose(np.max(ours), np.max(theirs), atol=1.2 * scale)


@pytest.mark.parametrize("shape", [(), (7,), (2, 3, 5), (2, 2, 4, 6)], ids=str)
def test_the_fans_are_those_of_keras(shape):
    """By the limits of uniform draws."""
    for mode in ("fan_in", "fan_out", "fan_avg"):
        initializer = I.VarianceScaling(1.0, mode, "uniform", seed=0)
        rng = np.random.default_rng(0)
        ours = max(np.max(np.abs(initial_values(initializer, shape, rng))) for _ in range(2000))
        calls = (I.VarianceScaling(1.0, mode, "uniform", seed=s)(shape) for s in range(300))
        theirs = max(np.max(np.abs(keras.ops.convert_to_numpy(value))) for value in calls)
        np.testing.assert_allclose(ours, theirs, rtol=0.05)


@pytest.mark.parametrize("shape", [(3, 3, 2, 5), (4, 30)], ids=str)
def test_orthogonal_kernels_are_orthogonal(shape):
    values = initial_values(I.Orthogonal(2.0), shape, np.random.default_rng(0))
    matrix = values.reshape(-1, shape[-1]).astype("float64")
    gram = matrix @ matrix.T if len(matrix) < shape[-1] else matrix.T @ matrix
    np.testing.assert_allclose(gram, 4 * np.eye(len(gram)), atol=1e-5)


@pytest.mark.parametrize(
    "initializer",
    [I.Zeros(), I.Ones(), I.Constant(0.3), I.Identity(2.0)],
    ids=lambda initializer: type(initializer).__name__,
)
def test_what_is_not_random_is_as_it_is(initializer):
    ours = initial_values(initializer, (4, 4), np.random.default_rng(0))
    np.testing.assert_array_equal(ours, keras.ops.convert_to_numpy(initializer((4, 4))))


def test_draws_repeat_by_the_generator_and_not_by_the_seed_of_the_initializer():
    initializer = I.HeNormal(seed=1)
    rng = np.random.default_rng(3)
    first, second = (initial_values(initializer, (4, 4), rng) for _ in range(2))
    assert np.any(first != second)
    again = initial_values(initializer, (4, 4), np.random.default_rng(3))
    np.testing.assert_array_equal(first, again)


def test_an_initializer_of_another_kind_is_called_with_a_seed_of_the_generator():
    class Shifted(I.RandomNormal):
        def __call__(self, shape, dtype=None):
            return 100 + super().__call__(shape, dtype)

    draws = [
        initial_values(Shifted(seed=9), (5,), np.random.default_rng(seed)) for seed in (0, 0, 1)
    ]
    assert np.all(draws[0] > 90)
    np.testing.assert_array_equal(draws[0], draws[1])
    assert np.any(draws[0] != draws[2])
