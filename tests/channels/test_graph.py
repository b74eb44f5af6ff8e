"""Channel groups against what a person reads off the network."""

import keras
import numpy as np
import pytest
from networks import NETWORKS, conv_bn, dense_cnn, depthwise_cnn, plain_cnn, residual_cnn

import keras_grow
from keras_grow import GrowableModel
from keras_grow.channels.graph import find_groups
from keras_grow.channels.layer_table import ROWS
from keras_grow.layers import Growable, GrowableConv2D, GrowableDense
from keras_grow.methods import Net2Wider, Splitting


def growable(model):
    return {name: group.width for name, group in find_groups(model).growable.items()}


def reason(model, name):
    return find_groups(model).groups[name].frozen


def classify(inputs, x):
    x = keras.layers.Flatten()(x) if len(x.shape) > 2 else x
    return GrowableModel(inputs, keras.layers.Dense(2, name="head")(x))


def test_a_chain_has_a_group_per_layer():
    assert growable(plain_cnn()) == {"a": 4, "b": 5, "c": 6}


def test_depthwise_layers_follow():
    model = depthwise_cnn()
    assert growable(model) == {"stem": 4, "pw": 3}
    layers = find_groups(model).groups["stem"].layers
    assert layers == ("stem", "stem_bn", "stem_act", "dw", "dw_bn", "prelu")


def test_an_addition_ties_its_branches():
    model = residual_cnn()
    assert growable(model) == {"stem": 4, "r1_in": 3, "r2_in": 3}
    assert find_groups(model).groups["stem"].producers == ("stem", "r1_out", "r2_out")


def test_a_concatenation_keeps_its_groups_apart():
    model = dense_cnn()
    assert growable(model) == {"stem": 3, "d1": 2, "d2": 2}
    (head,) = [item for item in find_groups(model).variables if item.path == "head/kernel"]
    (axis,) = [axis for axis in head.axes if axis.role == "input"]
    names = [segment.group for segment in axis.segments]
    assert names == ["stem", "d1", "d2"] * 36  # 6 x 6 positions


@pytest.mark.parametrize("name", NETWORKS)
def test_every_variable_has_the_shape_that_its_channels_say(name):
    for item in find_groups(NETWORKS[name]()).variables:
        for axis in item.axes:
            assert item.variable.shape[axis.axis] == sum(s.width * s.repeat for s in axis.segments)


def test_the_output_is_frozen():
    tensor = keras.Input((4,))
    model = GrowableModel(tensor, GrowableDense(3, name="out")(tensor))
    assert reason(model, "out") == "it is an output of the model"


def test_a_plain_layer_grows_as_a_growable_one():
    tensor = keras.Input((6, 6, 2))
    x = GrowableConv2D(3, 3, name="growable")(tensor)
    x = keras.layers.Conv2D(4, 3, name="plain")(x)
    assert growable(classify(tensor, x)) == {"growable": 3, "plain": 4}


def test_an_unknown_layer_freezes_what_it_touches():
    @keras.saving.register_keras_serializable("test")
    class Mystery(keras.layers.Layer):
        def call(self, x):
            return x[..., ::-1]

    tensor = keras.Input((6, 6, 2))
    x = GrowableConv2D(3, 3, name="before")(tensor)
    x = Mystery(name="mystery")(x)
    x = GrowableConv2D(3, 3, name="after")(x)
    model = classify(tensor, x)
    assert growable(model) == {"after": 3}
    assert reason(model, "before") == (
        "what `mystery` (Mystery) does to its channels isn't known: say so by "
        "`keras_grow.register_layer`"
    )
    rows = {row.layer: row for row in model.growth_report().rows}
    assert rows["mystery"].reason and not rows["before"].growable and rows["after"].growable


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda x: keras.layers.LayerNormalization((1, 3), name="x")(x), "mixes channels"),
        (lambda x: keras.layers.Softmax(name="x")(x), "mixes channels"),
        (lambda x: keras.layers.Activation("softmax", name="x")(x), "'softmax' of `x`"),
        (lambda x: keras.layers.Activation(lambda y: y[..., ::-1], name="x")(x), "isn't known to"),
        (lambda x: keras.layers.BatchNormalization(axis=1, name="x")(x), "another axis"),
        (lambda x: keras.layers.Reshape((6, 8), name="x")(x), "reshapes the channel axis"),
        (lambda x: keras.layers.Conv2D(3, 3, trainable=False, name="x")(x), "not trainable"),
        (lambda x: x + np.ones(3, "float32"), "array of fixed shape"),
        (lambda x: x * keras.ops.ones(3), "array of fixed shape"),
        (lambda x: x - keras.Variable(np.ones(3)), "array of fixed shape"),
        (lambda x: keras.ops.mean(x, axis=-1), "(Mean) mixes channels"),
        (lambda x: keras.ops.softmax(x), "(Softmax) mixes channels"),
        (lambda x: x[..., 1:], "takes some of them"),
        (lambda x: keras.ops.split(x, [1], axis=-1)[1], "splits them at fixed places"),
        (lambda x: keras.ops.take(x, [0, 2], axis=-1), "takes some of them"),
        (lambda x: keras.ops.pad(x, [[0, 0]] * 3 + [[0, 1]]), "pads them"),
        (lambda x: keras.ops.unstack(x, axis=-1)[0], "takes them apart"),
        (lambda x: keras.ops.matmul(x, np.ones((3, 2))), "nothing weighs them there"),
        (lambda x: keras.ops.einsum("bijc,bijc->bij", x, x), "nothing weighs them there"),
        (lambda x: keras.layers.Dot(axes=3)([x, x]), "nothing weighs them there"),
        (lambda x: keras.ops.sort(x), "mixes channels"),
        (
            lambda x: keras.ops.stack([x, np.ones((1, 4, 4, 3), "float32")], axis=1),
            "array of fixed shape",
        ),
        (lambda x: keras.ops.roll(x, 1), "mixes channels"),
        (lambda x: keras.ops.average(x, axis=-1), "isn't known"),
        (
            lambda x: keras.ops.einsum(
                "bijj->bij", keras.ops.pad(x, [[0, 0], [0, 0], [0, 0], [0, 0]])[:, :, :3]
            ),
            "takes their axis together",
        ),
        (lambda x: keras.ops.einsum("bijc,bklc->bijkl", x, x)[:, 0], "nothing weighs them there"),
        (lambda x: keras.layers.Activation(keras.layers.Softmax(), name="x")(x), "'Softmax' of"),
        (
            lambda x: keras.layers.Activation(keras.layers.Activation("softmax"), name="x")(x),
            "'Activation' of `x` isn't known",
        ),
        (lambda x: GrowableConv2D(3, 1, name="x")(keras.layers.Permute((3, 1, 2))(x)), "another"),
        (lambda x: GrowableDense(3, name="x")(keras.layers.Permute((1, 3, 2))(x)), "another axis"),
        (lambda x: keras.layers.Rescaling([1.0, 2.0, 3.0], name="x")(x), "a number for each"),
        (
            lambda x: keras.layers.Normalization(name="x", mean=[0.0] * 3, variance=[1.0] * 3)(x),
            "fixed statistics of each",
        ),
    ],
)
def test_what_keeps_a_group_from_growing(make, expected):
    tensor = keras.Input((6, 6, 2))
    x = GrowableConv2D(3, 3, name="conv")(tensor)
    assert expected in reason(classify(tensor, make(x)), "conv")


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        (keras.layers.Softmax(), "'Softmax' of `conv` isn't known to act on each channel alone"),
        (keras.layers.PReLU(), "'PReLU' of `conv` has weights, which can't grow inside another"),
        (keras.layers.Dropout(0.1, noise_shape=(None, 1, 1, 3)), "'Dropout' of `conv`"),
        (keras.layers.ReLU(max_value=6), None),
        (keras.layers.LeakyReLU(0.1), None),
    ],
)
def test_a_layer_as_activation_is_looked_up(activation, expected):
    tensor = keras.Input((6, 6, 2))
    model = classify(tensor, GrowableConv2D(3, 3, activation=activation, name="conv")(tensor))
    found = reason(model, "conv")
    assert found is None if expected is None else expected in found


def test_a_noise_shape_of_one_channel_may_mean_all_of_them():
    tensor = keras.Input((6, 6, 2))
    x = GrowableConv2D(1, 3, name="conv")(tensor)
    model = classify(tensor, keras.layers.Dropout(0.1, noise_shape=(None, 1, 1, 1))(x))
    assert "may mean one channel" in reason(model, "conv")


def test_a_shared_layer_that_holds_a_width_ties_what_goes_in():
    tensor = keras.Input((6, 6, 2))
    a, b = conv_bn(tensor, 3, "a"), conv_bn(tensor, 3, "b")
    drop = keras.layers.Dropout(0.1, noise_shape=(None, 1, 1, 3), name="drop")
    model = classify(tensor, keras.layers.Concatenate()([drop(a), drop(b)]))
    assert growable(model) == {"a": 3}
    wide = keras.Input((6, 6, 3))
    drop = keras.layers.Dropout(0.1, noise_shape=(None, 1, 1, 3), name="drop")
    model = classify(wide, drop(conv_bn(drop(wide), 3, "a")))
    assert reason(model, "a") == "`drop` is shared by inputs that differ"


def test_a_layer_shared_by_inputs_of_another_rank_is_frozen():
    vectors, sequences = keras.Input((5,)), keras.Input((7, 5))
    shared = GrowableDense(4, name="shared")
    flat = keras.layers.Flatten()(shared(sequences))
    x = keras.layers.Concatenate()([shared(vectors), flat])
    model = GrowableModel([vectors, sequences], keras.layers.Dense(2, name="head")(x))
    assert reason(model, "shared") == "`shared` is shared by inputs that differ"


def test_lora_freezes_what_it_touches_and_no_more():
    tensor = x = keras.Input((5,))
    for name in "abcd":
        x = GrowableDense(4, name=name)(x)
    model = GrowableModel(tensor, keras.layers.Dense(2, name="head")(x))
    model.get_layer("c").enable_lora(2)
    assert growable(model) == {"a": 4, "d": 4}
    assert reason(model, "c") == "`c` has LoRA weights"
    model.compile("sgd", "mse")
    event = model.grow(0.5, "net2wider")
    assert event.widths_after == {"a": 6, "d": 6}
    assert event.parameters_after == sum(np.prod(v.shape) for v in model.trainable_variables)
    model.fit(np.ones((4, 5)), np.ones((4, 2)), verbose=0)


def test_lora_freezes_an_einsum_dense():
    tensor = keras.Input((3, 4))
    layer = keras.layers.EinsumDense("...c,cd->...d", 4, name="e")
    model = classify(tensor, layer(tensor))
    layer.enable_lora(2)
    assert reason(model, "e") == "`e` has LoRA weights"


def test_a_matrix_that_is_used_again_for_the_output_freezes():
    tensor = keras.Input((3,), dtype="int32")
    words = keras.layers.ReversibleEmbedding(7, 4, name="words")
    x = GrowableDense(4, name="hidden")(words(tensor))
    model = GrowableModel(tensor, words(words(tensor) + x, reverse=True))
    assert "also multiplies them with its embeddings" in reason(model, "words")
    assert growable(model) == {}


def test_what_freezes_nothing_is_not_listed_as_frozen():
    tensor = keras.Input((6, 6, 2))
    x = keras.layers.Normalization(mean=0.0, variance=1.0)(tensor)
    x = keras.layers.Rescaling([1.0, 2.0])(keras.layers.RandomFlip()(x))
    model = classify(tensor, conv_bn(x, 3, "conv"))
    assert [row.layer for row in model.growth_report().frozen] == ["head"]


class Sine(keras.layers.Layer):
    def call(self, inputs):
        return keras.ops.sin(inputs)


def test_a_registered_layer_carries(monkeypatch):
    tensor = keras.Input((6, 6, 2))
    model = classify(tensor, Sine(name="sine")(GrowableConv2D(3, 3, name="conv")(tensor)))
    assert growable(model) == {}
    monkeypatch.setitem(ROWS, Sine, None)  # taken out again after the test
    keras_grow.register_layer(Sine, like=keras.layers.ReLU)
    assert growable(model) == {"conv": 3}


@keras.saving.register_keras_serializable("test")
class GrowableConv1D(Growable, keras.layers.Conv1D):
    width_argument = "filters"


def test_a_registered_growable_layer_grows_as_a_network_built_at_that_size(monkeypatch):
    for kind in (keras.layers.Conv1D, GrowableConv1D):
        monkeypatch.setitem(ROWS, kind, ROWS.get(kind))
    keras_grow.register_layer(GrowableConv1D, like=keras.layers.Conv1D)
    tensor = keras.Input((6, 2))
    x = keras.layers.Conv1D(4, 3, activation="relu", name="a")(tensor)
    x = keras.layers.Flatten()(keras.layers.Conv1D(4, 2, activation="tanh", name="b")(x))
    plain = keras.Model(tensor, keras.layers.Dense(2, name="head")(x))
    model = GrowableModel.from_keras(plain)
    assert growable(model) == {"a": 4, "b": 4}
    model.compile("sgd", "mse")
    x, y = np.random.default_rng(0).normal(size=(8, 6, 2)), np.ones((8, 2))
    event = model.grow(0.5, Splitting(seed=0), data=(x, y))
    assert event.unhelpful == 0  # both layers are scored
    before = model.predict(x, verbose=0)
    model.grow(0.5, Net2Wider(noise=0, seed=0))
    np.testing.assert_allclose(model.predict(x, verbose=0), before, atol=1e-5)
    kinds = [type(layer) for layer in plain.layers]
    assert [type(layer) for layer in model.to_keras().layers] == kinds
    assert model.neurons == 18


class Doubled(keras.layers.Dense):
    pass


def test_a_registered_layer_leaves_the_kinds_of_others_alone(monkeypatch):
    monkeypatch.setitem(ROWS, Doubled, None)
    keras_grow.register_layer(Doubled, like=keras.layers.Dense)
    tensor = keras.Input((4,))
    x = keras.layers.Dense(3, name="hidden")(tensor)
    plain = keras.Model(tensor, Doubled(2, name="head")(x))
    model = GrowableModel.from_keras(plain)
    kinds = [keras.layers.InputLayer, GrowableDense, Doubled]
    assert [type(layer) for layer in model.layers] == kinds
    assert [type(layer) for layer in model.to_keras().layers] == [type(x) for x in plain.layers]


@pytest.mark.parametrize(
    ("kind", "like", "error"),
    [
        (Sine(), keras.layers.ReLU, TypeError),
        (keras.Variable, keras.layers.ReLU, TypeError),
        (Sine, keras.layers.Lambda, ValueError),
        (Sine, "relu", ValueError),
    ],
)
def test_wrong_registrations_are_refused(kind, like, error):
    with pytest.raises(error, match="must be"):
        keras_grow.register_layer(kind, like)


def test_joining_a_fixed_tensor_freezes():
    tensor = keras.Input((6, 6, 3))
    x = GrowableConv2D(3, 3, padding="same", name="conv")(tensor)
    model = classify(tensor, keras.layers.Add(name="add")([x, tensor]))
    assert "joins them with channels that can't grow alike" in reason(model, "conv")


def test_an_untrainable_layer_freezes_its_group():
    model = plain_cnn()
    model.get_layer("b_bn").trainable = False
    assert "`b_bn` is not trainable" in reason(model, "b")
    assert set(growable(model)) == {"a", "c"}


def test_a_shared_layer_ties_what_goes_in():
    tensor = keras.Input((6, 6, 2))
    a, b = conv_bn(tensor, 3, "a"), conv_bn(tensor, 3, "b")
    shared = GrowableConv2D(2, 3, padding="same", name="shared")
    model = classify(tensor, keras.layers.Concatenate()([shared(a), shared(b)]))
    assert growable(model) == {"a": 3, "shared": 2}
    assert find_groups(model).groups["a"].producers == ("a", "b")


def test_the_report_lists_every_layer():
    model = plain_cnn()
    text = str(model.growth_report())
    assert all(layer.name in text for layer in model.layers[1:])
    assert [row.layer for row in model.growth_report().frozen] == ["head"]
