"""Recurrent layers and wrappers: they grow exactly, with every method, and count what they cost."""

import keras
import numpy as np
import pytest
from exact_growth import grown_both_ways, grown_exactly, normal
from keras import layers as kl

import keras_grow
from keras_grow import GrowableModel, SimilarityPenalty
from keras_grow.channels.flops import forward_flops
from keras_grow.channels.graph import find_groups
from keras_grow.methods import Firefly, GradMax, Net2Wider, Random, Splitting
from keras_grow.penalty.window import penalised_kernels

SEQUENCES, Y = normal(6, 3, 3), normal(6, 2, seed=1)
VIDEO = normal(6, 2, 5, 5, 2)


def head(inputs, x):
    return keras.Model(inputs, kl.Dense(2, name="head")(x))


def stack(a=4, b=3, c=3):
    x = inputs = keras.Input((3, 3))
    x = kl.LSTM(a, return_sequences=True, name="a")(x)
    x = kl.GRU(b, return_sequences=True, name="b")(x)
    return head(inputs, kl.SimpleRNN(c, use_bias=False, name="c")(x))


def encoder_decoder(a=4, b=3):
    inputs = keras.Input((3, 3))
    x, *states = kl.LSTM(a, return_sequences=True, return_state=True, name="a")(inputs)
    x = kl.LSTM(a, return_sequences=True, name="decoder")(x, initial_state=states)
    return head(inputs, kl.GRU(b, reset_after=False, name="b")(x))


def cells(deep_0=4, deep_1=3, deep_2=3, td=4, one=3):
    x = inputs = keras.Input((3, 3))
    parts = [kl.LSTMCell(deep_0), kl.GRUCell(deep_1), kl.SimpleRNNCell(deep_2)]
    x = kl.RNN(parts, return_sequences=True, name="deep")(x)
    x = kl.TimeDistributed(kl.Dense(td, activation="relu"), name="td")(x)
    return head(inputs, kl.RNN(kl.GRUCell(one), name="one")(x))


def video(a=3, td=3, b=2):
    x = inputs = keras.Input((2, 5, 5, 2))
    x = kl.ConvLSTM2D(a, 2, return_sequences=True, name="a")(x)
    x = kl.TimeDistributed(kl.Conv2D(td, 2, activation="relu"), name="td")(x)
    x = kl.ConvLSTM2D(b, 2, name="b")(x)
    return head(inputs, kl.GlobalAveragePooling2D()(x))


def bidirectional(merge_mode):
    def make(a=4, b=3):
        x = inputs = keras.Input((3, 3))
        x = kl.Bidirectional(kl.LSTM(a, return_sequences=True), merge_mode=merge_mode, name="a")(x)
        if merge_mode is None:
            x = kl.Concatenate()(x)
        return head(
            inputs, kl.Bidirectional(kl.GRU(b), merge_mode=merge_mode or "concat", name="b")(x)
        )

    return make


def named(make):
    """Takes the name of a group for that of an argument."""
    return lambda **widths: make(**{name.replace("/", "_"): w for name, w in widths.items()})


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("make", "groups"),
    [(stack, "a b c"), (cells, "deep/0 deep/1 deep/2 td one")],
    ids=["stack", "cells"],
)
def test_recurrent_layers_grow_exactly_by_copies_and_fresh_units(make, groups, tmp_path):
    assert list(grown_both_ways(named(make), SEQUENCES, Y, tmp_path)) == groups.split()


@pytest.mark.parametrize(
    ("make", "x"),
    [
        (encoder_decoder, SEQUENCES),
        (video, VIDEO),
        (bidirectional("concat"), SEQUENCES),
        (bidirectional(None), SEQUENCES),
    ],
    ids=["states", "video", "concat", "none"],
)
@pytest.mark.quick(2)
def test_wrappers_and_states_grow_exactly(make, x, tmp_path):
    grown_exactly(make, x, Y, tmp_path)


@pytest.mark.parametrize("kind", [kl.ConvLSTM1D, kl.ConvLSTM3D], ids=lambda kind: kind.__name__)
def test_convolutional_cells_of_every_rank_grow_exactly(kind, tmp_path):
    rank = int(kind.__name__[-2])

    def make(a=3):
        x = inputs = keras.Input((2, *[4] * rank, 2))
        return head(inputs, kl.Flatten()(kind(a, 2, name="a")(x)))

    grown_exactly(make, normal(2, 2, *[4] * rank, 2), Y[:2], tmp_path)


@pytest.mark.long
def test_a_text_classifier_grows_exactly_with_a_mask(tmp_path):
    def make(text=4, hidden=3, words=4):
        x = inputs = keras.Input((5,), dtype="int32")
        x = kl.Embedding(9, words, mask_zero=True, name="words")(x)
        x = kl.Bidirectional(kl.GRU(text), name="text")(x)
        return head(inputs, kl.Dense(hidden, activation="relu", name="hidden")(x))

    words = np.random.default_rng(0).integers(0, 9, size=(6, 5))
    grown_exactly(make, words, Y, tmp_path)


def test_a_forget_gate_of_a_fresh_unit_starts_open():
    model = GrowableModel.from_keras(stack())
    model.compile("sgd")
    model.grow(0.5, Random(seed=0))
    units = model.widths["a"]
    bias = model.get_layer("a").cell.bias.numpy().reshape(4, units)
    np.testing.assert_array_equal(bias[:, 4:].T, [[0, 1, 0, 0]] * (units - 4))


@pytest.mark.parametrize(
    "method",
    [
        Firefly(seed=0),
        GradMax(seed=0, batches=1, iterations=1),
        Splitting(seed=0, iterations=1),
        Net2Wider(noise=0.1, seed=0),
        Random("variance", seed=0),
    ],
    ids=lambda method: method.name,
)
@pytest.mark.quick(1)
def test_every_method_grows_them(method):
    x = inputs = keras.Input((3, 3))
    x = kl.RNN([kl.GRUCell(3), kl.SimpleRNNCell(3)], return_sequences=True)(x)
    model = GrowableModel.from_keras(head(inputs, kl.Bidirectional(kl.LSTM(4))(x)))
    model.compile("sgd", "mse")
    before = model.evaluate(SEQUENCES, Y, verbose=0)
    event = model.grow(0.4, method, data=(SEQUENCES, Y))
    assert event.neurons_after == int(1.4 * event.neurons_before)
    after = model.evaluate(SEQUENCES, Y, verbose=0)
    if method.name == "gradmax":
        np.testing.assert_allclose(after, before, rtol=1e-4)
    if method.name == "firefly":
        assert after < before
    if method.name == "splitting":
        assert event.unhelpful == event.neurons_after - event.neurons_before


def test_copies_with_noise_differ_in_every_gate():
    model = GrowableModel.from_keras(stack())
    model.compile("sgd")
    model.grow(0.5, Net2Wider(noise=0.5, seed=0))
    sources = model.growth_history[-1].sources["a"]
    kernel = model.get_layer("a").cell.kernel.numpy().reshape(3, 4, -1)
    for copy, source in list(enumerate(sources))[4:]:
        assert np.all(np.any(kernel[..., copy] != kernel[..., source], axis=0))
    for one in range(4):
        assert sources[one] == one


def test_units_are_compared_over_all_gates():
    model = GrowableModel.from_keras(stack())
    kernels = penalised_kernels(find_groups(model))
    assert [neurons.blocks for _, neurons in kernels] == [4, 4, 3, 3, 1, 1]
    lstm = model.get_layer("a").cell.kernel.numpy()
    rows = np.stack([lstm[:, unit::4].ravel() for unit in range(4)])  # gate by gate, by hand
    cosines = rows @ rows.T / np.outer(*[np.linalg.norm(rows, axis=1)] * 2)
    expected = np.abs(cosines[np.triu_indices(4, 1)]).mean()
    similarity = keras_grow.similarity.mean_similarity(lstm, blocks=4)
    np.testing.assert_allclose(similarity, expected, rtol=1e-5)


@pytest.mark.long
def test_growing_in_fit_with_the_penalty():
    inputs = keras.Input((3, 3))
    model = GrowableModel.from_keras(head(inputs, kl.GRU(4)(inputs)))
    model.compile("adam", "mse")
    penalty = SimilarityPenalty(epochs=2)
    grow = keras_grow.GrowthCallback(0.5, every=1, method="net2wider", penalty=penalty, verbose=0)
    history = model.fit(SEQUENCES, Y, epochs=2, verbose=0, callbacks=[grow]).history
    assert history["penalty"][1] > 0 and model.neurons == 6


def test_states_that_leave_as_outputs_or_come_from_outside_freeze():
    inputs, start = keras.Input((3, 3)), keras.Input((4,))
    x, state = kl.GRU(4, return_state=True, name="gru")(inputs)
    y = kl.GRU(4, name="given")(inputs, initial_state=start)
    model = GrowableModel.from_keras(keras.Model([inputs, start], [kl.Dense(2)(x + y), state]))
    groups = find_groups(model).groups
    assert groups["gru"].frozen and model.widths == {}
    given = GrowableModel.from_keras(keras.Model([inputs, start], kl.Dense(2)(y)))
    assert find_groups(given).groups["given"].frozen == "`given` starts from states of fixed width"


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (lambda: kl.GRU(4, stateful=True, name="rnn"), "keeps its states between batches"),
        (lambda: kl.GRU(4, recurrent_activation="softmax", name="rnn"), "'softmax' of `gru_cell"),
        (lambda: kl.GRU(4, trainable=False, name="rnn"), "is not trainable"),
    ],
    ids=["stateful", "softmax", "not trainable"],
)
def test_what_freezes_a_recurrent_layer(layer, reason):
    inputs = keras.Input((3, 3), batch_size=2)
    model = GrowableModel.from_keras(head(inputs, layer()(inputs)))
    row = model.growth_report().rows[0]
    assert reason in row.reason and model.widths == {}


def test_layers_take_other_axes_for_steps():
    inputs = keras.Input((3, 3))
    x = kl.Permute((2, 1))(kl.Dense(4, name="hidden")(inputs))
    model = GrowableModel.from_keras(head(inputs, kl.LSTM(3, name="rnn")(x)))
    assert "takes them for the steps of a sequence" in find_groups(model).groups["hidden"].frozen


def test_costs_of_recurrent_layers():
    x = keras.Input((3, 3))
    lstm, gru = 4 * (3 + 4) * 4, 3 * (4 + 2) * 2
    model = keras.Model(x, kl.GRU(2)(kl.LSTM(4, return_sequences=True)(x)))
    assert forward_flops(model) == 2 * 3 * (lstm + gru)
    model = keras.Model(x, kl.Bidirectional(kl.LSTM(4))(x))
    assert forward_flops(model) == 2 * 3 * 2 * lstm
    model = keras.Model(x, kl.TimeDistributed(kl.Dense(4))(x))
    assert forward_flops(model) == 2 * 3 * 12
    x = keras.Input((3, 6, 6, 2))
    model = keras.Model(x, kl.ConvLSTM2D(4, 3, return_sequences=True)(x))
    assert forward_flops(model) == 2 * 3 * (4 * 4) * 9 * (2 + 4) * 16
