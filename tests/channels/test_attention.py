"""Attention grows: heads, key and value dimensions, and the streams that it reads and adds to."""

import keras
import numpy as np
import pytest
from keras import layers as kl

from keras_grow import GrowableModel, methods
from keras_grow.channels.graph import find_groups
from keras_grow.flops import forward_flops
from keras_grow.penalty.window import penalised_kernels

POSITIONS, INPUTS = 5, 3
RNG = np.random.default_rng(0)
X = RNG.normal(size=(16, POSITIONS, INPUTS)).astype("float32")
Y = RNG.normal(size=(16, 2)).astype("float32")


def multi_head(x, heads=2, dimension=4):
    return kl.MultiHeadAttention(heads, dimension, name="att")(x, x)


# Without dropout, JAX's attention takes no values of another dimension than the keys'.
def gated(x, heads=2, key=4, value=3):
    layer = kl.MultiHeadAttention(heads, key, value, dropout=0.1, use_gate=True, name="att")
    return layer(x, x)


def causal(x, heads=2, dimension=4):
    layer = kl.MultiHeadAttention(heads, dimension, use_bias=False, name="att")
    return layer(x, x, use_causal_mask=True)


def crossed(x, heads=2, key=4, value=3, memory=4):
    other = kl.Dense(memory, name="memory")(x)
    layer = kl.MultiHeadAttention(heads, key, value, dropout=0.1, name="att")
    return layer(value=other, key=x, query=x)  # in another order than the parameters'


def grouped(x, heads=2, dimension=4, **kwargs):
    return kl.GroupQueryAttention(dimension, 2 * heads, heads, name="att", **kwargs)(x, x)


def grouped_gated(x, **sizes):
    return grouped(x, use_gate=True, **sizes)


KINDS = [multi_head, gated, causal, crossed, grouped, grouped_gated]


def network(attention, stream=6, hidden=8, **sizes):
    """An embedding, a block without normalisation, and a head."""
    inputs = keras.Input((POSITIONS, INPUTS))
    x = kl.Dense(stream, name="stream")(inputs)
    x = kl.Add(name="sum1")([x, attention(x, **sizes)])
    h = kl.Dense(hidden, activation="gelu", name="hidden")(x)
    x = kl.Add(name="sum2")([x, kl.Dense(stream, name="back")(h)])
    return keras.Model(inputs, kl.Dense(2, name="head")(kl.GlobalAveragePooling1D()(x)))


def growable(attention, optimizer="adam", **sizes):
    plain = network(attention, **sizes)
    rng = np.random.default_rng(1)
    for variable in plain.trainable_variables:  # biases too
        variable.assign(variable + 0.2 * rng.normal(size=variable.shape))
    model = GrowableModel.from_keras(plain)
    model.compile(optimizer, "mse", run_eagerly=True)
    return model


def at_widths(attention, widths):
    """The model, built at the widths of a grown one."""
    sizes = {name.removeprefix("att/"): width for name, width in widths.items()}
    return network(attention, **sizes)


def relative(a, b):
    a, b = (keras.ops.convert_to_numpy(value) for value in (a, b))
    return np.max(np.abs(a - b)) / np.max(np.abs(b))


EXACT = [
    methods.Random(seed=1),
    methods.Net2Wider(noise=0, seed=1),
    methods.GradMax(seed=1, batches=1, iterations=1),
]


@pytest.mark.parametrize("attention", KINDS)
@pytest.mark.parametrize("method", EXACT, ids=lambda method: method.name)
@pytest.mark.quick(3)
def test_exact_growth_keeps_the_function_and_trains_on(attention, method):
    model = growable(attention)
    model.train_on_batch(X, Y)
    before = model(X)
    event = model.grow(0.8, method, data=(X, Y))
    assert all(event.widths_after[name] > width for name, width in event.widths_before.items())
    assert relative(model(X), before) < 1e-4
    fresh = at_widths(attention, model.widths)
    assert [v.shape for v in model.weights] == [v.shape for v in fresh.weights]
    assert forward_flops(model) == forward_flops(fresh)
    model.train_on_batch(X, Y)
    assert np.all(np.isfinite(model(X)))


@pytest.mark.quick(1)
@pytest.mark.parametrize("attention", KINDS)
def test_a_grown_model_is_saved_and_converted(attention, tmp_path):
    model = growable(attention)
    model.train_on_batch(X, Y)
    model.grow(0.8, methods.Net2Wider(seed=1))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(X), model(X), atol=1e-5)
    np.testing.assert_allclose(model.to_keras()(X), model(X), atol=1e-5)
    assert loaded.widths == model.widths
    config = model.get_layer("att").get_config()
    widths = model.widths
    if attention in (multi_head, causal):
        assert config["num_heads"] == widths["att/heads"]
        assert config["key_dim"] == config["value_dim"] == widths["att/dimension"]
    elif attention in (grouped, grouped_gated):
        assert config["num_key_value_heads"] == widths["att/heads"]
        assert config["num_query_heads"] == 2 * widths["att/heads"]
        assert config["head_dim"] == widths["att/dimension"]
    else:
        assert config["num_heads"] == widths["att/heads"]
        assert config["key_dim"] == widths["att/key"]
        assert config["value_dim"] == widths["att/value"]


@pytest.mark.parametrize("attention", [multi_head, grouped_gated])
@pytest.mark.quick(1)
def test_weights_go_back_and_forth_through_the_history(attention):
    model = growable(attention)
    narrow, before = model.get_weights(), model(X)
    model.grow(0.8, methods.Net2Wider(noise=0, seed=1))
    model.grow(0.8, methods.Random(seed=1))
    wide, after = model.get_weights(), model(X)
    for value, expected in zip(model.widen_weights(narrow), wide, strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)
    model.set_weights(narrow)
    np.testing.assert_allclose(model(X), before, rtol=1e-4, atol=1e-5)
    model.set_weights(wide)
    np.testing.assert_allclose(model(X), after, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attention", [gated, grouped])
@pytest.mark.quick(1)
def test_slots_become_what_they_had_been_in_the_wider_model(attention):
    """Adam without a step keeps the gradient and its square: those of the wider model."""
    model = growable(attention, keras.optimizers.Adam(0.0))
    x, y = X.astype("float64"), Y
    model.get_layer("att")._dropout_layer.rate = 0.0
    model.train_on_batch(x, y)
    model.grow(0.8, methods.Net2Wider(noise=0, seed=1))
    slots = [v.numpy() for v in model.optimizer.variables if v.ndim]
    model.compile(keras.optimizers.Adam(0.0), "mse", run_eagerly=True)
    model.train_on_batch(x, y)
    for slot, wanted in zip(slots, [v for v in model.optimizer.variables if v.ndim], strict=True):
        np.testing.assert_allclose(slot, wanted, rtol=2e-3, atol=1e-6, err_msg=wanted.path)


@pytest.mark.parametrize("optimizer", ["Adafactor", "Muon", "Lion", "Ftrl", "Adagrad"])
@pytest.mark.quick(2)
def test_every_optimizer_goes_on(optimizer):
    model = growable(multi_head, getattr(keras.optimizers, optimizer)(0.01))
    model.train_on_batch(X, Y)
    before = model(X)
    model.grow(0.8, methods.Net2Wider(noise=0, seed=1))
    assert relative(model(X), before) < 1e-4
    model.train_on_batch(X, Y)
    assert np.all(np.isfinite(model(X)))


@pytest.mark.long
def test_firefly_lowers_the_loss_through_attention():
    model = growable(multi_head)
    before = model.evaluate(X, Y, verbose=0)
    held = {"stream": 6, "hidden": 8}
    event = model.grow(0.4, methods.Firefly(seed=1), data=(X, Y), max_widths={**held})
    assert sum(event.widths_after[f"att/{part}"] for part in ("heads", "dimension")) > 6
    assert model.evaluate(X, Y, verbose=0) < before


def test_splitting_says_that_it_has_no_score_for_attention():
    model = growable(grouped)
    held = {"stream": 6, "hidden": 8}
    event = model.grow(0.2, methods.Splitting(seed=1, step=1e-3), data=(X, Y), max_widths=held)
    assert event.unhelpful == event.neurons_after - event.neurons_before > 0


def test_the_penalty_compares_heads():
    model = growable(multi_head)
    kernels = {v.path: neurons for v, neurons in penalised_kernels(find_groups(model))}
    assert kernels["att/query/kernel"] == kernels["att/key/kernel"] == (-2, 1)
    assert len(kernels) == len(penalised_kernels(find_groups(model))) == 7


def test_an_output_of_another_width_than_the_query_grows_alone():
    inputs = keras.Input((POSITIONS, INPUTS))
    x = kl.MultiHeadAttention(1, 2, name="att")(inputs, inputs)
    model = GrowableModel(inputs, kl.Dense(2)(x))
    model.compile("sgd", "mse")
    before = model(X)
    model.grow(2.0, methods.Random(seed=1))
    assert relative(model(X), before) < 1e-4
    assert model.widths["att"] > INPUTS
    np.testing.assert_allclose(model.to_keras()(X), model(X), atol=1e-5)


def test_attention_over_two_axes():
    inputs = keras.Input((3, 4, 2))
    x = kl.Dense(4, name="stream")(inputs)
    x = kl.MultiHeadAttention(2, 3, attention_axes=2, name="att")(x, x)
    model = GrowableModel(inputs, kl.Dense(2)(x))
    model.compile("sgd", "mse")
    x = RNG.normal(size=(4, 3, 4, 2)).astype("float32")
    before = model(x)
    model.grow(0.5, methods.Net2Wider(noise=0, seed=1))
    assert relative(model(x), before) < 1e-4
    np.testing.assert_allclose(model.to_keras()(x), model(x), atol=1e-5)


def test_a_shared_attention_layer_grows_once():
    inputs = keras.Input((POSITIONS, INPUTS))
    x = kl.Dense(4, name="stream")(inputs)
    layer = kl.MultiHeadAttention(2, 3, name="att")
    for _ in range(2):
        x = kl.Add()([x, layer(x, x)])
    model = GrowableModel(inputs, kl.Dense(2)(x))
    model.compile("sgd", "mse")
    before = model(X)
    model.grow(0.8, methods.Net2Wider(noise=0, seed=1))
    assert relative(model(X), before) < 1e-4
    assert set(model.widths) == {"stream", "att/heads", "att/dimension"}


def frozen(model):
    return {name: group.frozen for name, group in find_groups(model).groups.items()}


def test_what_can_not_grow_says_why():
    inputs = keras.Input((POSITIONS, INPUTS))
    x = kl.Dense(4, name="stream")(inputs)
    layer = kl.MultiHeadAttention(2, 3, name="att")
    x, scores = layer(x, x, return_attention_scores=True)
    reasons = frozen(GrowableModel(inputs, [kl.Dense(2)(x), kl.Flatten()(scores)]))
    assert "attention scores" in reasons["att/heads"]
    assert reasons["att/dimension"] is reasons["stream"] is None
    layer.query_dense.trainable = False
    model = GrowableModel(inputs, kl.Dense(2)(layer(inputs, inputs)))
    assert "not trainable" in frozen(model)["att/dimension"]


def test_heads_of_grouped_queries_are_tied_to_the_stream_that_they_read():
    """It puts out as many channels as its query has: where those can't grow, nor can it."""
    inputs = keras.Input((POSITIONS, INPUTS))
    x = kl.GroupQueryAttention(2, 2, 1, name="att")(inputs, inputs)
    model = GrowableModel(inputs, kl.Dense(2)(x))
    assert "as many channels as its query has" in frozen(model)["att"]
    assert set(model.widths) == {"att/heads", "att/dimension"}


def test_the_cost_counts_projections_and_both_products():
    inputs = keras.Input((POSITIONS, 6))
    layer = kl.MultiHeadAttention(2, 4, 3, dropout=0.1, name="att")
    model = keras.Model(inputs, layer(inputs, inputs))
    projections = POSITIONS * (6 * 2 * 4 + 6 * 2 * 4 + 6 * 2 * 3 + 2 * 3 * 6)
    products = 2 * POSITIONS * POSITIONS * (4 + 3)
    assert forward_flops(model) == 2 * (projections + products)
