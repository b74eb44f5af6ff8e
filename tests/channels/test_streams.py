"""Streams that are normalised over their channels grow by channels that are silent at first."""

import keras
import numpy as np
import pytest
from exact_growth import grown_both_ways
from keras import layers as kl

from keras_grow import GrowableModel, methods
from keras_grow.channels.graph import find_groups

RNG = np.random.default_rng(0)
X = RNG.normal(size=(8, 5, 3)).astype("float32")
Y = RNG.normal(size=(8, 2)).astype("float32")
NORMS = [kl.LayerNormalization, kl.RMSNormalization, kl.UnitNormalization]


def transformer(norm=kl.LayerNormalization, stream=6, hidden=8, heads=2, dimension=4):
    """A block that normalises what it reads, and a head."""
    inputs = keras.Input((5, 3))
    x = kl.Dense(stream, name="stream")(inputs)
    y = norm(name="norm1")(x)
    y = kl.MultiHeadAttention(heads, dimension, name="att")(y, y, use_causal_mask=True)
    x = kl.Add()([x, kl.Dropout(0.1)(y)])
    y = kl.Dense(hidden, activation="gelu", name="hidden")(norm(name="norm2")(x))
    x = kl.Add()([x, kl.Dense(stream, name="back")(y)])
    x = kl.GlobalAveragePooling1D()(norm(name="norm3")(x))
    return keras.Model(inputs, kl.Dense(2, name="head")(x))


def growable(plain, inexact=False):
    rng = np.random.default_rng(1)
    for variable in plain.trainable_variables:
        variable.assign(variable + 0.2 * rng.normal(size=variable.shape))
    model = GrowableModel.from_keras(plain)
    model.allow_inexact = inexact
    model.compile("adam", "mse", run_eagerly=True)
    return model


def relative(a, b):
    a, b = (keras.ops.convert_to_numpy(value) for value in (a, b))
    return np.max(np.abs(a - b)) / np.max(np.abs(b))


@pytest.mark.quick(1)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("method", ["random", "net2wider"])
def test_a_stream_grows_exactly_and_learns(norm, method):
    model = growable(transformer(norm))
    model.train_on_batch(X, Y)
    before = model(X)
    chosen = methods.Net2Wider(noise=0) if method == "net2wider" else methods.get(method)
    for _ in range(2):
        event = model.grow(0.5, chosen)
    assert event.widths_before["stream"] == 9 and model.widths["stream"] > 12
    assert relative(model(X), before) < 1e-4
    sizes = {name.removeprefix("att/"): width for name, width in model.widths.items()}
    fresh = transformer(norm, **sizes)
    assert [v.shape for v in model.weights] == [v.shape for v in fresh.weights]
    kernel = model.get_layer("back").kernel
    start = keras.ops.convert_to_numpy(kernel)
    assert np.allclose(start[:, -1], start[:, -2])  # silent, and not told apart by their inputs
    model.train_on_batch(X, Y)
    moved = keras.ops.convert_to_numpy(kernel) - start
    assert np.all(np.any(moved != 0, axis=0))  # each fresh channel learns
    model.train_on_batch(X, Y)
    after = keras.ops.convert_to_numpy(kernel)
    assert not np.allclose(after[:, -1], after[:, -2])  # and not the same


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.quick(1)
def test_a_grown_stream_is_saved_and_goes_back(norm, tmp_path):
    model = growable(transformer(norm))
    model.train_on_batch(X, Y)
    narrow, before = model.get_weights(), model(X)
    model.grow(0.5, methods.Random(seed=1))
    for value, wanted in zip(model.widen_weights(narrow), model.get_weights(), strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-6)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(X), model(X), atol=1e-5)
    np.testing.assert_allclose(model.to_keras()(X), model(X), atol=1e-5)
    model.set_weights(narrow)
    np.testing.assert_allclose(model(X), before, atol=1e-5)


def language_model(norm, words=6, hidden=5, normalised=True, **embedding):
    inputs = keras.Input((5,), dtype="int32")
    embed = kl.ReversibleEmbedding(7, words, name="words", **embedding)
    x = embed(inputs)
    x = x + kl.Dense(words)(kl.Dense(hidden, activation="gelu", name="hidden")(norm()(x)))
    return keras.Model(inputs, embed(norm()(x) if normalised else x, reverse=True))


@pytest.mark.skipif(not hasattr(kl, "ReversibleEmbedding"), reason="not in this Keras")
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.quick(1)
def test_an_embedding_that_is_used_again_for_the_output_grows(norm, tied, tmp_path):
    x, y = RNG.integers(0, 7, (8, 5)), RNG.normal(size=(8, 5, 7)).astype("float32")

    def make(**widths):
        return language_model(norm, tie_weights=tied, **widths)

    assert grown_both_ways(make, x, y, tmp_path)["words"] > 6
    model = growable(make())
    start = keras.ops.convert_to_numpy(model.get_layer("words").embeddings)
    model.grow(0.5, "random")
    for _ in range(3):
        model.train_on_batch(x, y)
    fresh = keras.ops.convert_to_numpy(model.get_layer("words").embeddings)[:, 6:]
    mean = start.mean(axis=1, keepdims=True) if norm is kl.LayerNormalization else 0.0
    assert np.all(np.any(np.abs(fresh - mean) > 1e-4, axis=0))  # each fresh channel learns


@pytest.mark.skipif(not hasattr(kl, "ReversibleEmbedding"), reason="not in this Keras")
def test_where_no_normalisation_silences_a_copy_such_an_embedding_stays():
    model = growable(language_model(kl.LayerNormalization, normalised=False))
    assert "multiplies them with its embeddings" in find_groups(model).groups["words"].frozen
    assert list(model.widths) == ["hidden"]
    model = growable(language_model(kl.LayerNormalization, normalised=False, tie_weights=False))
    assert list(model.widths) == ["words", "hidden"]


@pytest.mark.long
def test_every_method_takes_a_stream_along():
    for method in ("firefly", "gradmax", "splitting"):
        model = growable(transformer())
        event = model.grow(0.5, method, data=(X, Y))
        assert event.widths_after["stream"] == 9
        assert event.neurons_after - event.neurons_before == event.neurons_before // 2


def test_a_dense_network_with_layer_normalisation_grows():
    inputs = keras.Input((3,))
    x = kl.Dense(6, name="a")(inputs)
    x = kl.Activation("relu")(kl.LayerNormalization()(x))
    x = kl.Dense(5, name="b")(x)
    x = kl.Activation("tanh")(kl.LayerNormalization()(x))
    model = growable(keras.Model(inputs, kl.Dense(2)(x)))
    before = model(X[:, 0])
    model.grow(0.6, "random")
    assert min(model.widths["a"], model.widths["b"]) > 6
    assert relative(model(X[:, 0]), before) < 1e-4


def after(norm=kl.LayerNormalization):
    """A block that normalises what it has added up."""
    inputs = keras.Input((5, 3))
    x = kl.Dense(6, name="stream")(inputs)
    for _ in range(2):
        x = norm()(kl.Add()([x, kl.Dense(6)(x)]))
    return keras.Model(inputs, kl.Dense(2)(kl.GlobalAveragePooling1D()(x)))


def transformer_of_sums(width=64, blocks=4):
    """Such blocks as the first transformers had."""
    inputs = keras.Input((5, 3))
    x = kl.Dense(width, name="stream")(inputs)
    for _ in range(blocks):
        x = kl.LayerNormalization()(kl.Add()([x, kl.MultiHeadAttention(4, width // 4)(x, x)]))
        y = kl.Dense(2 * width, activation="gelu")(x)
        x = kl.LayerNormalization()(kl.Add()([x, kl.Dense(width)(y)]))
    return keras.Model(inputs, kl.Dense(2)(kl.GlobalAveragePooling1D()(x)))


def test_a_report_says_a_reason_once_and_what_grows_in_part():
    model = growable(transformer_of_sums(width=8, blocks=1))
    rows = {row.layer: row for row in model.growth_report().rows}
    attention = rows["multi_head_attention"]
    assert attention.growable and attention.reason == rows["stream"].reason
    lines = str(model.growth_report()).splitlines()
    assert sum("allow_inexact" in line for line in lines) == 1
    assert [line.endswith("in part; the rest, as `stream`") for line in lines].count(True) == 1
    assert [line.endswith("no, as `stream`") for line in lines].count(True) > 3


FLAT = {
    "relu": lambda x, norm, inputs: kl.Activation("relu")(norm()(x)),
    "a layer": lambda x, norm, inputs: kl.ReLU()(norm()(x)),
    "in an activation": lambda x, norm, inputs: kl.Activation(kl.ReLU())(norm()(x)),
    "an operation": lambda x, norm, inputs: keras.ops.relu(norm()(x)),
    "a slope of zero": lambda x, norm, inputs: kl.LeakyReLU(negative_slope=0.0)(norm()(x)),
    "beside others": lambda x, norm, inputs: kl.Concatenate()(
        [norm()(x), kl.Dense(4, "tanh")(inputs)]
    ),
}
NOT_FLAT = {
    "gelu": lambda x, norm, inputs: kl.Activation("gelu")(norm()(x)),
    "elu": lambda x, norm, inputs: kl.ELU()(norm()(x)),
    "a slope": lambda x, norm, inputs: kl.LeakyReLU(negative_slope=0.1)(norm()(x)),
    "another reader": lambda x, norm, inputs: norm()(
        kl.Add()([x, kl.Dense(6)(kl.Dense(5)(kl.Activation("relu")(norm()(x))))])
    ),
}


def read_through(through, norm, inexact):
    inputs = keras.Input((3,))
    outputs = kl.Dense(2)(through(kl.Dense(6, name="stream")(inputs), norm, inputs))
    return growable(keras.Model(inputs, outputs), inexact)


@pytest.mark.parametrize("norm", NORMS[1:])
@pytest.mark.parametrize("name", FLAT)
def test_what_would_be_zero_for_good_is_frozen(name, norm):
    """The gradient of relu at zero is zero; beside others, nothing is drawn for what is zero."""
    for inexact in (False, True):
        model = read_through(FLAT[name], norm, inexact)
        assert "so they would stay" in find_groups(model).groups["stream"].frozen


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", [*FLAT, *NOT_FLAT])
@pytest.mark.parametrize("inexact", [False, True])
@pytest.mark.quick(30)
def test_whatever_grows_learns(name, norm, inexact):
    model = read_through({**FLAT, **NOT_FLAT}[name], norm, inexact)
    if "stream" not in model.widths:
        assert name in FLAT or norm is kl.LayerNormalization
        return
    before = model(X[:, 0])
    model.grow(0.5, "random")
    assert inexact or relative(model(X[:, 0]), before) < 1e-5
    kernel = model.get_layer("stream").kernel
    start = keras.ops.convert_to_numpy(kernel)
    for _ in range(3):
        model.train_on_batch(X[:, 0], Y)
    assert np.all(np.any(keras.ops.convert_to_numpy(kernel) != start, axis=0))


def activated():
    inputs = keras.Input((3,))
    x = kl.Dense(6, activation="relu", name="stream")(inputs)
    return keras.Model(inputs, kl.Dense(2)(kl.LayerNormalization()(x)))


def over_a_concatenation():
    inputs = keras.Input((3,))
    x = kl.Concatenate()([kl.Dense(6, name="stream")(inputs), kl.Dense(4)(inputs)])
    return keras.Model(inputs, kl.Dense(2)(kl.LayerNormalization()(x)))


def unscaled():
    inputs = keras.Input((3,))
    x = kl.Dense(6, name="stream")(inputs)
    return keras.Model(inputs, kl.Dense(2)(kl.LayerNormalization(scale=False)(x)))


@pytest.mark.parametrize("norm", [n for n in NORMS if n is not kl.LayerNormalization])
def test_sums_that_are_divided_by_their_norm_grow_exactly(norm, tmp_path):
    """Where fresh channels are zero, and not a mean, they stay that through any number of them."""
    x, y = X, np.ones((len(X), 2), "float32")
    model = growable(after(norm))
    before = model(x)
    model.grow(0.5, "random")
    assert model.widths["stream"] == 9 and relative(model(x), before) < 1e-5
    start = model.get_weights()
    model.train_on_batch(x, y)
    kernel = keras.ops.convert_to_numpy(model.get_layer("stream").kernel)
    assert np.all(np.any(kernel != start[0], axis=0))  # each fresh channel learns
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert relative(loaded(x), model(x)) < 1e-6


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (after, "allow_inexact"),
        (activated, "`model.allow_inexact = True`"),
        (over_a_concatenation, "mixes channels"),
        (unscaled, "no scale"),
    ],
)
def test_what_would_not_be_exact_is_frozen(build, reason):
    assert reason in find_groups(growable(build())).groups["stream"].frozen


@pytest.mark.parametrize("build", [after, activated])
def test_an_inexact_growth_is_asked_for(build, tmp_path):
    model = growable(build(), inexact=True)
    x = X if build is after else X[:, 0]
    model.train_on_batch(x, Y)
    before = model(x)
    model.grow(0.5, "random")
    assert model.widths["stream"] == 9
    assert 1e-4 < relative(model(x), before) < 1
    model.save(tmp_path / "model.keras")
    assert keras.saving.load_model(tmp_path / "model.keras").allow_inexact is True
    with pytest.raises(TypeError, match="True or False"):
        model.allow_inexact = "yes"


@pytest.mark.long
@pytest.mark.parametrize(("apart", "bound"), [(0.0, 0.005), (0.2, 0.1)])
def test_an_inexact_growth_of_a_wide_stream_changes_little(apart, bound):
    """More where the scales and shifts differ from channel to channel; docs/guide.md says both."""
    plain = transformer_of_sums()
    rng = np.random.default_rng(1)
    for variable in plain.trainable_variables:
        if "normalization" in variable.path:
            variable.assign(variable + apart * rng.normal(size=variable.shape))
    model = GrowableModel.from_keras(plain)
    model.allow_inexact = True
    model.compile("adam", "mse", run_eagerly=True)
    for _ in range(5):
        model.train_on_batch(X, Y)
    before = model(X)
    model.grow(1.0, "random")
    assert model.widths["stream"] == 128
    assert 1e-4 < relative(model(X), before) < bound
