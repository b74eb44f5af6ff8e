"""Splitting: the matrices against brute force, what they are for, and the budget."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras_grow.layers import (
    GrowableBatchNormalization,
    GrowableConv2D,
    GrowableDense,
    GrowableDepthwiseConv2D,
)
from networks import NETWORKS, batch, mlp, plain_cnn, randomise, relative_change
from scipy import linalg

from keras_grow import GrowableModel, Widening
from keras_grow.budget import Budget, plan_budget
from keras_grow.graph import find_groups
from keras_grow.methods import splitting
from keras_grow.methods.curvature import find_sites, second_derivative, smallest_eigenpairs
from keras_grow.methods.splitting import Splits, Splitting, allot, commit, draw_pieces, weigh
from keras_grow.resizing import widen_model
from keras_grow.scoring_data import as_scoring_data


@pytest.fixture
def double():
    """Networks in float64, so that second differences can be trusted."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


def dense_network():
    """Its own activation, with and without a layer between."""
    inputs = keras.Input((4,))
    x = GrowableDense(3, activation="tanh", name="a")(inputs)
    x = GrowableDense(4, use_bias=False, name="b")(x)
    x = keras.layers.Dropout(0.5)(x)
    x = keras.layers.Activation("linear")(x)
    x = keras.layers.Activation("softplus")(x)
    return GrowableModel(inputs, keras.layers.Dense(2, name="head")(x))


def conv_network():
    """Normalisations between, stride, dilation, 1x1, and what is carried along afterwards."""
    inputs = keras.Input((7, 7, 2))
    x = GrowableConv2D(3, 3, strides=2, activation="softplus", name="a")(inputs)
    x = GrowableBatchNormalization()(x)
    x = GrowableConv2D(2, 2, dilation_rate=2, padding="same", use_bias=False, name="b")(x)
    x = GrowableBatchNormalization(scale=False)(x)
    x = GrowableBatchNormalization()(x)
    x = keras.layers.Activation("silu")(x)
    x = GrowableDepthwiseConv2D(2, padding="same", depth_multiplier=2)(x)
    x = GrowableBatchNormalization()(x)
    x = keras.layers.ReLU()(x)
    x = keras.layers.MaxPooling2D(2, 1)(x)
    x = GrowableConv2D(3, 1, name="c")(x)
    x = keras.ops.tanh(x)
    x = keras.layers.Flatten()(x)
    return GrowableModel(inputs, keras.layers.Dense(2, name="head")(x))


def compiled(model, loss="mse"):
    model.compile(keras.optimizers.SGD(0.05), loss)
    return model


def problem(model, count=24, seed=0):
    """Inputs and targets for a model."""
    x = batch(model, count, seed).astype(keras.config.floatx())
    y = np.random.default_rng(seed + 1).normal(size=(count, model.output_shape[-1]))
    return x, y.astype(x.dtype)


def pieces_of(*data):
    return draw_pieces(as_scoring_data(data), len(data[0]), np.random.default_rng(0))


def copy_of(model):
    copy = type(model).from_config(model.get_config())
    copy.set_weights(model.get_weights())
    return compiled(copy, model.loss)


def explicit_matrices(model, *data):
    """Returns the splitting matrix of every neuron of every group, from products with units."""
    graph = find_groups(model)
    sites = find_sites(model, graph)
    weighted = weigh(model, model, sites, pieces_of(*data), lambda: None)
    matrices = {}
    for name, site in sites.items():
        units = np.eye(site.dimension)
        columns = [site.multiply(weighted[name], np.tile(u, (site.shape[-1], 1))) for u in units]
        matrices[name] = np.stack(columns, axis=-1)
    return matrices


def by_brute_force(model, group, neuron, x, y):
    """Splits a neuron into W + t and W - t, and differentiates the loss twice with respect to t."""
    copy, width = copy_of(model), model.widths[group]
    halves = np.where(np.arange(width + 1) == neuron, 0.5, 1.0)
    halves[-1] = 0.5
    split = Widening(group, np.r_[np.arange(width), neuron], halves)
    widen_model(copy, find_groups(copy), [split])
    kernel = copy.get_layer(group).kernel
    signs = np.zeros(width + 1)
    signs[[neuron, width]] = 1, -1
    t = tf.zeros(int(np.prod(kernel.shape[:-1])), kernel.dtype)
    with tf.GradientTape() as outer, tf.GradientTape() as inner:
        outer.watch(t)
        inner.watch(t)
        moved = kernel + tf.reshape(t, kernel.shape[:-1])[..., None] * signs
        with keras.StatelessScope(state_mapping=[(kernel, moved)]):
            predicted = copy(x, training=False)
        loss = copy.compute_loss(x=x, y=y, y_pred=predicted)
        with inner.stop_recording():
            slope = inner.gradient(loss, t)
    return outer.jacobian(slope, t).numpy()


@pytest.mark.parametrize("build", [dense_network, conv_network])
def test_the_matrices_are_the_second_derivatives_of_explicit_splits(build, double):
    model = compiled(randomise(build()))
    x, y = problem(model, 10)
    matrices = explicit_matrices(model, x, y)
    assert set(matrices) == set(model.widths)
    for group, width in model.widths.items():
        for neuron in {0, width - 1}:
            expected = by_brute_force(model, group, neuron, x, y)
            assert np.abs(expected).max() > 1e-4
            np.testing.assert_allclose(
                matrices[group][neuron], expected, atol=2e-5 * np.abs(expected).max()
            )


@pytest.mark.parametrize("build", [dense_network, conv_network])
def test_the_eigenpairs_are_those_of_the_explicit_matrices(build):
    model = compiled(randomise(build()))
    data = problem(model)
    matrices = explicit_matrices(model, *data)
    rng = np.random.default_rng(3)
    splits = splitting.score_splits(find_groups(model), pieces_of(*data), 30, rng)
    for group, matrix in matrices.items():
        values = splits[group].values
        expected = np.array([linalg.eigvalsh((m + m.T) / 2)[0] for m in matrix])
        np.testing.assert_allclose(values, expected, atol=2e-5 * np.abs(matrix).max())
        (direction,) = splits[group].directions.values()
        vectors = direction.reshape(-1, len(values)).T
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
        along = np.einsum("ci,cij,cj->c", vectors, matrix, vectors)
        np.testing.assert_allclose(along, values, atol=2e-5 * np.abs(matrix).max())


@pytest.mark.parametrize("build", [dense_network, conv_network])
def test_a_growth_changes_the_loss_by_half_the_eigenvalues_times_the_step_squared(build, double):
    model = compiled(randomise(build()))
    x, y = problem(model)
    graph, rng, step = find_groups(model), np.random.default_rng(0), 1e-3
    splits = splitting.score_splits(graph, pieces_of(x, y), 30, rng)
    added = {name: np.arange(len(s.values)) % 2 for name, s in splits.items()}
    predicted = step**2 / 2 * sum(np.sum(added[n] * s.values) for n, s in splits.items())
    before = model.evaluate(x, y, verbose=0)
    widen_model(model, graph, [commit(n, s, added[n], step) for n, s in splits.items()])
    np.testing.assert_allclose(model.evaluate(x, y, verbose=0) - before, predicted, rtol=5e-3)


def train(model, x, y, steps):
    data = tf.data.Dataset.from_tensors((x, y)).repeat()
    return model.fit(data, steps_per_epoch=steps, shuffle=False, verbose=0).history["loss"][-1]


def at_a_plateau():
    """Two neurons that have learnt what two neurons can of a teacher of four."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(64, 3))
    y = np.tanh(x @ rng.normal(size=(3, 4)) * 2) @ rng.normal(size=(4, 1))
    model = mlp(3, (2,), 1)
    model.compile(keras.optimizers.Adam(0.03), "mse")
    train(model, x, y, 800)
    return model, x, y


def test_at_a_plateau_splitting_lowers_the_loss_and_random_directions_do_not(double):
    model, x, y = at_a_plateau()
    plateau = model.evaluate(x, y, batch_size=64, verbose=0)
    assert train(copy_of(model), x, y, 50) > 0.99 * plateau  # nothing is left to learn
    graph, step = find_groups(model), 0.05
    splits = splitting.score_splits(graph, pieces_of(x, y), 10, np.random.default_rng(0))
    best = splits["hidden0"]
    assert np.all(best.values < 0)
    changes = []
    for seed in range(5):
        draw = np.random.default_rng(seed).normal(size=(3, 2))
        (path,) = best.directions
        draws = {path: draw / np.linalg.norm(draw, axis=0)}
        changes.append(change_by(model, Splits(best.values, draws, best.axes), step, x, y))
    fall = change_by(model, best, step, x, y)
    np.testing.assert_allclose(fall, step**2 / 2 * np.sum(best.values), rtol=0.1)
    assert np.mean(changes) > 0.5 * fall
    assert min(changes) > fall


def change_by(model, splits, step, x, y):
    copy = copy_of(model)
    widening = commit("hidden0", splits, np.ones(len(splits.values), int), step)
    widen_model(copy, find_groups(copy), [widening])
    return copy.evaluate(x, y, verbose=0) - model.evaluate(x, y, verbose=0)
