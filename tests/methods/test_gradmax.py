"""GradMax: the gradient of the zero weights is the largest that the bound allows."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import NETWORKS, batch, conv_bn, mlp, randomise, relative_change

from keras_grow import GrowableModel, GrowthCallback, Widening
from keras_grow.channels.graph import find_groups
from keras_grow.growing.resizing import widen_model
from keras_grow.layers import (
    GrowableBatchNormalization,
    GrowableConv2D,
    GrowableDense,
    GrowableDepthwiseConv2D,
)
from keras_grow.methods.gradmax.fresh_weights import largest_singular_value, polar
from keras_grow.methods.gradmax.method import GradMax

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def compiled(model, optimizer=None):
    model.compile(optimizer or keras.optimizers.SGD(0.05, momentum=0.9), LOSS)
    return model


def problem(model, examples=64, seed=0):
    """Returns a model of random weights, and data that GradMax sees whole, in batches of 32."""
    model = compiled(randomise(model, seed))
    x = batch(model, examples)
    return model, x, np.random.default_rng(2).integers(0, model.output_shape[-1], examples)


def twin_of(model):
    twin = GrowableModel.from_config(model.get_config())
    twin.set_weights(model.get_weights())
    return compiled(twin)


def gradients(model, x, y):
    """Returns path -> gradient of the loss, normalisations in inference form."""
    with tf.GradientTape() as tape:
        loss = model.compute_loss(x=x, y=y, y_pred=model(x, training=False), training=False)
    values = tape.gradient(loss, [v.value for v in model.trainable_variables])
    return {v.path: g.numpy() for v, g in zip(model.trainable_variables, values, strict=True)}


def grow_one(model, group, count, method, data):
    """Grows one group alone."""
    ceilings = {**model.widths, group: model.widths[group] + count}
    model.grow(100.0, method, data=data, max_widths=ceilings)


def conv_pair(kind):
    """Two convolutions with something linear, or not, in between."""
    tensor = keras.Input((7, 7, 2))
    x = GrowableConv2D(3, 3, strides=2, padding="same", name="a", use_bias=kind != "bn")(tensor)
    if kind == "bn":
        x = GrowableBatchNormalization(name="a_bn")(x)
    if kind == "depthwise":
        x = GrowableDepthwiseConv2D(2, depthwise_initializer="ones", name="dw")(x)
    if kind == "pool":
        x = keras.layers.AveragePooling2D(2)(x)
    x = GrowableConv2D(4, 2, activation="relu", name="b")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return GrowableModel(tensor, keras.layers.Dense(3, name="head")(x))


def dense_pair(activation=None):
    tensor = keras.Input((6,))
    x = GrowableDense(5, activation=activation, name="a")(tensor)
    x = GrowableDense(4, activation="tanh", name="b")(x)
    return GrowableModel(tensor, keras.layers.Dense(3, name="head")(x))


PAIRS = {
    "dense": dense_pair,
    **{kind: lambda kind=kind: conv_pair(kind) for kind in ("plain", "pool", "depthwise", "bn")},
}


def brute_force(model, x, y):
    """Returns G: the gradient of the weights out of a fresh channel of `a`, one column for each
    unit vector as weights into it. In the batch normalisation, it is centered and of slope 1.
    """
    twin = twin_of(model)
    kernel = twin.get_layer("a").kernel
    fan_in, width = int(np.prod(kernel.shape[:-1])), kernel.shape[-1]
    basis = np.eye(fan_in, dtype="float32").reshape(*kernel.shape[:-1], fan_in)
    added = {kernel.path: np.concatenate([np.zeros(kernel.shape, "float32"), basis], -1)}
    if "dw" in [layer.name for layer in twin.layers]:
        depthwise = twin.get_layer("dw").kernel
        ones = np.ones((*depthwise.shape[:2], fan_in, 1), "float32")
        added[depthwise.path] = np.concatenate([np.zeros(depthwise.shape, "float32"), ones], -2)
    sources = np.r_[np.arange(width), np.full(fan_in, -1)]
    widen_model(twin, find_groups(twin), [Widening("a", sources, incoming=added)])
    norm = next((layer for layer in twin.layers if hasattr(layer, "moving_mean")), None)
    if norm is not None:
        inputs = keras.Model(twin.input, norm.input)(x)
        mean, variance = norm.moving_mean.numpy(), norm.moving_variance.numpy()
        mean[width:] = np.mean(inputs, (0, 1, 2))[width:]
        variance[width:] = 1 - norm.epsilon
        norm.moving_mean.assign(mean)
        norm.moving_variance.assign(variance)
    out_of = gradients(twin, x, y)[twin.get_layer("b").kernel.path]
    return np.moveaxis(out_of, -2, 0)[width:].reshape(fan_in, -1).T


def mean_norm(kernel, axis=-1):
    rows = np.moveaxis(kernel, axis, 0)
    return np.mean(np.linalg.norm(rows.reshape(len(rows), -1), axis=1))


@pytest.mark.quick(1)
@pytest.mark.parametrize("kind", PAIRS)
def test_the_gradient_is_the_maximum_where_the_activation_is_linear(kind):
    model, x, y = problem(PAIRS[kind]())
    bound = 0.7 * mean_norm(model.get_layer("a").kernel.numpy())
    singular_values = np.linalg.svd(brute_force(model, x, y), compute_uv=False)
    grow_one(model, "a", 2, GradMax(norm=0.7, iterations=25, seed=1), (x, y))
    rows = model.get_layer("a").kernel.numpy()[..., -2:].reshape(-1, 2).T
    np.testing.assert_allclose(rows @ rows.T, bound**2 * np.eye(2), atol=1e-5)
    if kind == "bn":
        norm = model.get_layer("a_bn")
        slopes = norm.gamma.numpy() / np.sqrt(norm.moving_variance.numpy() + norm.epsilon)
        np.testing.assert_allclose(slopes[-1], slopes[-2], rtol=1e-4)
        bound *= slopes[-1]
    out_of = gradients(model, x, y)[model.get_layer("b").kernel.path]
    found = np.sum(np.moveaxis(out_of, -2, 0)[-2:] ** 2)
    np.testing.assert_allclose(found, bound**2 * np.sum(singular_values[:2] ** 2), rtol=1e-3)


@pytest.mark.parametrize("activation", ["linear", "tanh", "gelu"])
@pytest.mark.quick(1)
def test_zero_incoming_weights_get_the_maximum_too(activation):
    model, x, y = problem(dense_pair(activation))
    slope = 0.5 if activation == "gelu" else 1.0  # of the activation, at zero
    linear = twin_of(model)
    bound = mean_norm(model.get_layer("b").kernel.numpy(), axis=0)
    before = model.predict(x, verbose=0)
    grow_one(model, "a", 2, GradMax("incoming", iterations=25, seed=1), (x, y))
    assert relative_change(before, model.predict(x, verbose=0)) < 1e-6
    assert not np.any(model.get_layer("a").kernel.numpy()[:, -2:])
    # dL/dz of `b` by x, for the network as it was.
    probe = keras.Model(linear.input, [linear.output, linear.get_layer("b").output])
    tanh = probe(x)[1].numpy()
    by_bias = per_example_gradients(linear, x, y, tanh)
    singular_values = np.linalg.svd(by_bias.T @ x, compute_uv=False)
    found = np.sum(gradients(model, x, y)[model.get_layer("a").kernel.path][:, -2:] ** 2)
    expected = (slope * bound) ** 2 * np.sum(singular_values[:2] ** 2)
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def per_example_gradients(model, x, y, hidden):
    """Returns dL/dz of the layer `b` (tanh) by example, from the formulas."""
    head = model.get_layer("head")
    logits = hidden @ head.kernel.numpy() + head.bias.numpy()
    slopes = keras.ops.softmax(logits).numpy() - np.eye(logits.shape[-1])[y]
    return slopes @ head.kernel.numpy().T * (1 - hidden**2) / len(x)


@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
def test_groups_that_cannot_enter_by_zero_incoming_weights_take_the_other_side(activation):
    model, x, y = problem(dense_pair(activation))
    before = model.predict(x, verbose=0)
    grow_one(model, "a", 2, GradMax("incoming", seed=1), (x, y))
    assert relative_change(before, model.predict(x, verbose=0)) < 1e-6
    assert np.all(np.any(model.get_layer("a").kernel.numpy()[:, -2:], axis=0))
    assert not np.any(model.get_layer("b").kernel.numpy()[-2:])


@pytest.mark.parametrize("side", ["outgoing", "incoming"])
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.quick(2)
def test_the_function_is_unchanged(name, side):
    model, x, y = problem(NETWORKS[name]())
    before = model.predict(x, verbose=0)
    event = model.grow(0.6, GradMax(side, batches=1, iterations=1, seed=1), data=(x, y))
    assert event.neurons_after - event.neurons_before == int(0.6 * event.neurons_before)
    assert relative_change(before, model.predict(x, verbose=0)) < 1e-6


def squared_gradients(model, method, x, y, scored=None):
    """Returns group -> squared norm of the gradient of what goes out of its new channels.

    Args:
        scored: Data that the channels are chosen on, where it is other data.
    """
    before = find_groups(model)
    model.grow(0.5, method, data=scored or (x, y))
    by_path, result = gradients(model, x, y), dict.fromkeys(before.growable, 0.0)
    for item, axis in [p for g in result for p in before.touching(g, "input")]:
        gradient, offset = by_path[item.path], 0
        for s in axis.segments:
            now = model.widths.get(s.group, s.width)
            fresh = np.arange(offset + s.width * s.repeat, offset + now * s.repeat)
            if s.group is not None:
                result[s.group] += np.sum(np.take(gradient, fresh, axis=axis.axis) ** 2)
            offset += now * s.repeat
    return result


@pytest.mark.long
@pytest.mark.parametrize("name", ["plain", "depthwise", "residual", "dense"])
def test_it_beats_neurons_under_the_same_bound_that_know_nothing_of_the_targets(name):
    """Neurons of the same norms and statistics, chosen on targets that say nothing of the data."""
    model = compiled(NETWORKS[name]())
    x, y = batch(model, 128), np.random.default_rng(2).integers(0, 3, 128)
    y = np.where(x[:, 1, 1, 0] > 0, y, 0)
    model.fit(x, y, batch_size=16, epochs=3, verbose=0)
    found = squared_gradients(twin_of(model), GradMax(batches=8, seed=1), x, y)
    others = []
    for seed in range(4):
        noise = x, np.random.default_rng(seed).permutation(y)
        method = GradMax(batches=8, seed=seed, iterations=1)
        others.append(squared_gradients(twin_of(model), method, x, y, noise))
    for group, squared_norm in found.items():
        assert squared_norm > 1.2 * np.mean([o[group] for o in others]), group


@pytest.mark.long
def test_more_iterations_find_more():
    model, x, y = problem(NETWORKS["plain"]())
    totals = [
        squared_gradients(twin_of(model), GradMax(iterations=n, seed=1), x, y)["c"]
        for n in (1, 2, 8)
    ]
    assert totals[0] <= totals[1] * 1.001 <= totals[2] * 1.002


@pytest.mark.parametrize("name", ["plain", "depthwise", "residual"])
@pytest.mark.quick(1)
def test_statistics_are_those_of_the_data(name):
    """Also behind a second normalisation in the same group."""
    model, x, y = problem(NETWORKS[name]())
    before = {layer.name: layer.moving_mean.shape[0] for layer in norms_of(model)}
    model.grow(0.6, GradMax(seed=1, iterations=1), data=(x, y))
    for layer in norms_of(model):
        inputs = keras.Model(model.input, layer.input)(x, training=False).numpy()
        fresh = slice(before[layer.name], None)
        mean, variance = inputs.mean((0, 1, 2)), inputs.var((0, 1, 2))
        np.testing.assert_allclose(layer.moving_mean[fresh], mean[fresh], rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(layer.moving_variance[fresh], variance[fresh], rtol=1e-3)


def norms_of(model):
    return [layer for layer in model.layers if hasattr(layer, "moving_mean")]


def test_new_channels_vary_as_much_as_the_present_ones():
    model, x, y = problem(NETWORKS["plain"]())
    width = model.widths["a"]
    present = model.get_layer("a_bn").gamma.numpy()
    model.grow(0.6, GradMax(norm=0.5, seed=1), data=(x, y))
    fresh = model.get_layer("a_bn").gamma.numpy()[width:]
    np.testing.assert_allclose(np.mean(fresh**2), 0.25 * np.mean(present**2), rtol=1e-4)


def test_a_normalisation_without_gamma():
    tensor = keras.Input((6, 6, 2))
    x = GrowableConv2D(3, 3, name="a")(tensor)
    x = GrowableBatchNormalization(scale=False)(x)
    x = keras.layers.Flatten()(x)
    model, x, y = problem(GrowableModel(tensor, keras.layers.Dense(3)(x)))
    before = model.predict(x, verbose=0)
    model.grow(1.0, GradMax(seed=1), data=(x, y))
    assert relative_change(before, model.predict(x, verbose=0)) < 1e-6


def test_more_neurons_than_weights_share_the_room():
    model, x, y = problem(mlp(inputs=2, hidden=(3,)))
    model.grow(2.0, GradMax(batches=8, seed=1), data=(x, y))
    fresh = model.get_layer("hidden0").kernel.numpy()[:, 3:]
    assert fresh.shape == (2, 6)
    np.testing.assert_allclose(np.linalg.norm(fresh, axis=0), np.linalg.norm(fresh[:, 0]))
    cosines = (fresh.T @ fresh) / np.linalg.norm(fresh[:, 0]) ** 2
    assert np.max(np.abs(cosines - np.eye(6))) < 1 - 1e-6  # no two are the same


def test_polar_is_the_nearest_frame():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(3, 5))
    frame = polar(rows, 2.0)
    np.testing.assert_allclose(frame @ frame.T, 4 * np.eye(3), atol=1e-12)
    others = [polar(rng.normal(size=(3, 5)), 2.0) for _ in range(50)]
    assert all(np.sum(frame * rows) >= np.sum(other * rows) for other in others)


@pytest.mark.parametrize("shape", [(3, 40), (40, 3), (1, 1)])
def test_the_largest_singular_value(shape):
    matrix = np.random.default_rng(0).normal(size=shape)
    expected = np.linalg.svd(matrix, compute_uv=False)[0]
    assert largest_singular_value(matrix) == pytest.approx(expected)
    assert largest_singular_value(np.zeros(shape)) == 0


def test_the_same_seed_finds_the_same():
    model, x, y = problem(NETWORKS["plain"]())
    grown = []
    for seed, elsewhere in ((1, 5), (1, 6), (2, 6)):
        keras.utils.set_random_seed(elsewhere)
        twin = twin_of(model)
        twin.grow(0.5, GradMax(seed=seed), data=(x, y))
        grown.append(twin.get_layer("a").kernel.numpy())
    np.testing.assert_allclose(grown[0], grown[1], atol=1e-6)
    assert np.max(np.abs(grown[0] - grown[2])) > 1e-3


def test_choosing_leaves_the_model_as_it_was():
    model, x, y = problem(NETWORKS["depthwise"]())
    before = [v.numpy() for v in model.variables]
    with pytest.raises(ValueError, match="NaN or infinite"):
        model.grow(0.5, GradMax(seed=1), data=(np.full_like(x, np.nan), y))
    for value, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(value, variable.numpy())
    model.grow(0.5, GradMax(seed=1), data=(x, y))


def test_the_metrics_of_the_model_are_left_alone():
    """With several outputs, computing a loss updates the metric of each."""
    tensor = keras.Input((5,))
    x = GrowableDense(4, activation="relu", name="a")(tensor)
    heads = [keras.layers.Dense(2, name=name)(x) for name in ("left", "right")]
    model = GrowableModel(tensor, heads)
    model.compile("sgd", ["mse", "mse"])
    x, y = np.ones((8, 5), "float32"), np.ones((8, 2), "float32")
    model.evaluate(x, [y, y], verbose=0)
    before = [v.numpy() for v in model.metrics_variables]
    model.grow(0.5, GradMax(seed=1), data=[(x, [y, y])])
    for value, variable in zip(before, model.metrics_variables, strict=True):
        np.testing.assert_array_equal(value, variable.numpy())


@pytest.mark.long
@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_within_fit_in_every_precision(policy):
    keras.config.set_dtype_policy(policy)
    try:
        tensor = keras.Input((6, 6, 2))
        x = conv_bn(tensor, 4, "a", use_bias=False)
        x = conv_bn(x, 4, "b", use_bias=False)
        x = keras.layers.GlobalAveragePooling2D()(x)
        model = GrowableModel(tensor, keras.layers.Dense(3, dtype="float32", name="head")(x))
    finally:
        keras.config.set_dtype_policy("float32")
    x = batch(compiled(model), 40)
    y = np.random.default_rng(0).integers(0, 3, 40)
    callback = GrowthCallback(0.5, every=1, method=GradMax(batches=2, seed=1), verbose=0)
    losses = model.fit(x, y, batch_size=16, epochs=3, callbacks=[callback], verbose=0)
    assert model.neurons == 18
    assert np.all(np.isfinite(losses.history["loss"]))
    kernel = model.get_layer("b").kernel.numpy()
    assert np.all(np.isfinite(kernel)) and np.linalg.matrix_rank(kernel[..., 4:].reshape(-1, 5)) > 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"side": "both"}, "`side` must be one of"),
        ({"norm": 0}, "`norm` must be a positive number"),
        ({"norm": "1"}, "`norm` must be a positive number"),
        ({"norm": float("nan")}, "`norm` must be a positive number"),
        ({"batches": 0}, "`batches` must be a positive integer"),
        ({"iterations": 0}, "`iterations` must be a positive integer"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        GradMax(**arguments)


def test_it_needs_data():
    model, *_ = problem(mlp())
    with pytest.raises(ValueError, match="needs training data"):
        model.grow(0.5, GradMax(seed=1))
