"""Splitting: the matrices against brute force, what they are for, and the budget."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import NETWORKS, mlp, plain_cnn, randomise, relative_change
from problems import compiled, generator, problem
from scipy import linalg

from keras_grow import GrowableModel, Widening
from keras_grow.channels.budget import plan_budget
from keras_grow.channels.graph import find_groups
from keras_grow.growing.resizing import widen_model
from keras_grow.layers import (
    GrowableBatchNormalization,
    GrowableConv2D,
    GrowableDense,
    GrowableDepthwiseConv2D,
)
from keras_grow.methods.scoring_data import as_scoring_data
from keras_grow.methods.splitting.curvature import find_scorable_layers, products_with
from keras_grow.methods.splitting.method import (
    Splits,
    Splitting,
    commit,
    draw_pieces,
    find_factors,
    score_splits,
)
from keras_grow.utils.progress import Progress


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


def sequence_network():
    """Other ranks, of plain layers, and kernels whose neurons are not along the last axis."""
    inputs = keras.Input((5, 2))
    x = keras.layers.Conv1D(3, 2, activation="softplus", name="a")(inputs)
    x = keras.layers.EinsumDense("btc,ced->bdte", (2, 4, 2), bias_axes="de", name="b")(x)
    x = keras.layers.Activation("silu")(x)
    x = keras.layers.EinsumDense("bdtc,ec->bdte", (2, 4, 2), activation="tanh", name="c")(x)
    x = keras.layers.Flatten()(x)
    return GrowableModel(inputs, keras.layers.Dense(2, name="head")(x))


def pieces_of(*data):
    return draw_pieces(as_scoring_data(data), len(data[0]), generator())


def copy_of(model):
    copy = type(model).from_config(model.get_config())
    copy.set_weights(model.get_weights())
    return compiled(copy, model.loss)


def explicit_matrices(model, *data):
    """Returns the splitting matrix of every neuron of every group, from products with units."""
    graph = find_groups(model)
    layers = find_scorable_layers(model, graph)
    factors = find_factors(model, model, layers, pieces_of(*data), lambda: None)
    matrices = {}
    for name, layer in layers.items():
        product = products_with(layer, factors[name])
        units = np.eye(layer.dimension)
        columns = [product(np.tile(unit, (layer.neurons, 1))) for unit in units]
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
    axis = find_scorable_layers(copy, find_groups(copy))[group].axis
    others = [size for number, size in enumerate(kernel.shape) if number - kernel.ndim != axis]
    t = tf.zeros(int(np.prod(others)), kernel.dtype)
    with tf.GradientTape() as outer, tf.GradientTape() as inner:
        outer.watch(t)
        inner.watch(t)
        moves = tf.reshape(t, others)[..., None] * signs
        moved = kernel + tf.experimental.numpy.moveaxis(moves, -1, axis)
        with keras.StatelessScope(state_mapping=[(kernel, moved)]):
            predicted = copy(x, training=False)
        loss = copy.compute_loss(x=x, y=y, y_pred=predicted)
        with inner.stop_recording():
            slope = inner.gradient(loss, t)
    return outer.jacobian(slope, t).numpy()


@pytest.mark.parametrize("build", [dense_network, conv_network, sequence_network])
@pytest.mark.quick(1)
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
    rng = generator(3)
    splits = score_splits(find_groups(model), pieces_of(*data), 30, rng)
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
    graph, rng, step = find_groups(model), generator(), 1e-3
    splits = score_splits(graph, pieces_of(x, y), 30, rng)
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


@pytest.mark.long
def test_at_a_plateau_splitting_lowers_the_loss_and_random_directions_do_not(double):
    model, x, y = at_a_plateau()
    plateau = model.evaluate(x, y, batch_size=64, verbose=0)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "mse")
    assert train(copy_of(model), x, y, 50) > 0.99 * plateau  # nothing is left to learn
    step = 0.05
    splits = score_splits(find_groups(model), pieces_of(x, y), 10, generator())
    best = splits["hidden0"]
    assert np.all(best.values < 0)
    now, later = split_and_train(model, best, step, x, y)
    np.testing.assert_allclose(now - plateau, step**2 / 2 * np.sum(best.values), rtol=0.05)
    at_random = []
    for seed in range(5):
        draw = generator(seed).normal(size=(3, 2))
        (path,) = best.directions
        draws = Splits(best.values, {path: draw / np.linalg.norm(draw, axis=0)}, best.axes)
        at_random.append(split_and_train(model, draws, step, x, y))
    losses, later_losses = np.transpose(at_random)
    assert np.mean(losses) - plateau > 0.3 * (now - plateau)
    assert min(losses) > now
    assert min(later_losses) > later


def split_and_train(model, splits, step, x, y):
    """Returns the loss right after both neurons of a network are split, and 60 steps later."""
    copy = copy_of(model)
    widening = commit("hidden0", splits, np.ones(2, int), step)
    widen_model(copy, find_groups(copy), [widening])
    now = copy.evaluate(x, y, batch_size=64, verbose=0)
    return now, train(copy, x, y, 60)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("rate", [0.35, 1.0, 2.2])
@pytest.mark.quick(1)
def test_every_network_grows_by_exactly_the_budget(name, rate):
    model = compiled(randomise(NETWORKS[name]()))
    x, y = problem(model)
    before, outputs = model.neurons, model.predict(x, verbose=0)
    event = model.grow(rate, Splitting(seed=1, step=1e-4), data=(x, y))
    assert model.neurons - before == int(rate * before + 1e-9)
    assert event.unhelpful >= max(0, model.neurons - 2 * before)
    assert relative_change(outputs, model.predict(x, verbose=0)) < 1e-3
    model.fit(x, y, verbose=0)


def test_choosing_leaves_the_model_as_it_was(monkeypatch):
    def build():
        x = keras.Input((3,), name="x")
        hidden = GrowableDense(4, activation="relu", name="hidden")(x)
        outputs = {n: keras.layers.Dense(1, name=n)(hidden) for n in ("one", "two")}
        return GrowableModel({"x": x}, outputs)

    model = build()
    model.compile("sgd", {"one": "mse", "two": "mse"}, metrics={"one": "mae"})
    x = {"x": np.ones((9, 3), "float32")}
    y = {name: np.ones((9, 1), "float32") for name in ("one", "two")}
    model.fit(x, y, verbose=0)
    state = [v.numpy().copy() for v in [*model.variables, *model.metrics_variables]]
    graph = find_groups(model)
    choose = (Splitting(seed=1).choose, graph, plan_budget(graph, 0.5), generator())
    assert choose[0](*choose[1:], as_scoring_data((x, y)))

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "advance", interrupt)
    with pytest.raises(KeyboardInterrupt):
        model.grow(0.5, Splitting(seed=1), data=(x, y))
    for before, v in zip(state, [*model.variables, *model.metrics_variables], strict=True):
        np.testing.assert_array_equal(before, v.numpy())
    assert model.widths == {"hidden": 4}


def test_the_same_seed_gives_the_same_growth():
    grown = []
    for _ in range(2):
        model = compiled(randomise(plain_cnn()))
        model.grow(0.5, Splitting(seed=7, examples=10), data=problem(model))
        grown.append(model.get_weights())
    for one, other in zip(*grown, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_weights_of_examples_count():
    model = compiled(randomise(mlp()))
    x, y = problem(model)
    weights = np.repeat([1.0, 0.0], len(x) // 2)
    half = explicit_matrices(model, x[: len(x) // 2], y[: len(x) // 2])
    weighted = explicit_matrices(model, x, y, weights)
    for group, expected in half.items():
        atol = 1e-5 * np.abs(expected).max()
        np.testing.assert_allclose(2 * weighted[group], expected, atol=atol)


@pytest.mark.quick(1)
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_models_are_scored_in_float32(policy):
    model = compiled(randomise(plain_cnn()))
    keras.config.set_dtype_policy(policy)
    try:
        half = plain_cnn()
    finally:
        keras.config.set_dtype_policy("float32")
    half.set_weights(model.get_weights())
    data = problem(model)
    scores = [
        score_splits(find_groups(m), pieces_of(*data), 10, generator())
        for m in (model, compiled(half))
    ]
    for group in model.widths:
        one, other = (s[group].values for s in scores)
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-6)
    event = half.grow(0.35, Splitting(seed=1), data=data)
    assert event.neurons_after == event.neurons_before + int(0.35 * event.neurons_before)


def branched(kind):
    """Networks whose first group can't be scored, though it can grow."""
    inputs = keras.Input((3,))
    x = GrowableDense(4, name="a")(inputs)
    if kind == "two readers":
        x = keras.layers.Concatenate()([keras.layers.ReLU()(x), keras.layers.ReLU()(x)])
    elif kind == "no activation":
        x = GrowableDense(3, name="b")(x)
    elif kind == "tied":
        x = keras.layers.ReLU()(keras.layers.Add()([x, GrowableDense(4, name="c")(inputs)]))
    elif kind == "called twice":
        layer = GrowableDense(5, activation="relu", name="d")
        x = keras.layers.Concatenate()([layer(x), layer(keras.layers.ReLU()(x))])
    x = GrowableDense(3, activation="tanh", name="last")(x)
    return GrowableModel(inputs, keras.layers.Dense(1)(x))


@pytest.mark.parametrize("kind", ["two readers", "no activation", "tied", "called twice"])
@pytest.mark.quick(2)
def test_groups_of_another_shape_come_last_and_are_counted(kind):
    model = compiled(randomise(branched(kind)))
    graph = find_groups(model)
    assert "a" not in find_scorable_layers(model, graph)
    x, y = problem(model)
    splits = score_splits(graph, pieces_of(x, y), 10, generator())
    assert np.all(np.isinf(splits["a"].values))
    helpful = sum(np.sum(s.values < 0) for s in splits.values())
    event = model.grow(1.0, Splitting(seed=1), data=(x, y))
    assert event.widths_after["a"] == 8
    assert event.unhelpful == event.neurons_before - helpful


def test_nothing_to_score_is_still_a_growth():
    inputs = keras.Input((3,))
    x = GrowableDense(4, name="a")(inputs)
    model = compiled(GrowableModel(inputs, keras.layers.Dense(1)(x)))
    event = model.grow(0.5, Splitting(seed=1), data=problem(model))
    assert (event.widths_after, event.unhelpful) == ({"a": 6}, 2)


def test_a_loss_that_is_not_finite_is_reported():
    model = compiled(mlp())
    x, y = problem(model)
    with pytest.raises(ValueError, match="'hidden0' is not finite"):
        model.grow(0.5, Splitting(seed=1), data=(np.nan * x, y))


@pytest.mark.parametrize(
    "arguments", [{"step": 0}, {"step": "1"}, {"examples": 0}, {"iterations": -1}]
)
def test_bad_arguments_are_refused(arguments):
    (name,) = arguments
    with pytest.raises((TypeError, ValueError), match=f"`{name}` must be a positive"):
        Splitting(**arguments)


def test_the_config_makes_an_equal_method():
    method = Splitting(step=0.1, examples=3, iterations=2, seed=4)
    assert Splitting.from_config(method.get_config()).get_config() == method.get_config()


@pytest.mark.parametrize("change", [lambda x: x * 2.0, lambda x: keras.ops.maximum(x, 0.5)])
def test_an_operation_with_a_constant_is_no_activation(change):
    """The group can't be scored, and grows all the same."""
    inputs = keras.Input((4,))
    x = change(GrowableDense(3, name="a")(inputs))
    model = compiled(GrowableModel(inputs, keras.layers.Dense(2)(keras.layers.ReLU()(x))))
    event = model.grow(0.7, Splitting(seed=1), data=problem(model))
    assert event.widths_after == {"a": 5} and event.unhelpful == 2
