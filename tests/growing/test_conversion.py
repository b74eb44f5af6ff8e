"""A converted model computes what the original computes, saved and loaded too, or is refused."""

import functools

import keras
import numpy as np
import pytest

from keras_grow import GrowableModel
from keras_grow.core.float32_copy import copy_in_float32

ROWS = np.random.default_rng(0).normal(3, 5, (8, 4)).astype("float32")


def network(*layers, shape=(4,), dtype=None):
    tensor = x = keras.Input(shape, dtype=dtype)
    for layer in layers:
        x = layer(x)
    x = keras.layers.Dense(6, activation="relu", name="hidden")(x)
    return keras.Model(tensor, keras.layers.Dense(2, name="head")(x))


def values(outputs):
    return keras.ops.convert_to_numpy(outputs)


def assert_converts(plain, x, folder=None):
    """Converts there and back, and checks against the outputs of the original."""
    expected = values(plain(x))
    model = GrowableModel.from_keras(plain)
    copies = [model, model.to_keras(), GrowableModel.from_keras(model)]
    if folder:
        model.save(folder / "copy.keras")
        copies.append(keras.models.load_model(folder / "copy.keras"))
    for copy in copies:
        np.testing.assert_allclose(values(copy(x)), expected, rtol=1e-5, atol=1e-5)
        assert not {id(v) for v in copy.variables} & {id(v) for v in plain.variables}
    assert "hidden" in model.widths
    return model


def adapted(layer, data):
    layer.adapt(data)
    return layer


@pytest.mark.parametrize(
    "layer",
    [
        lambda: adapted(keras.layers.Normalization(), 2 * ROWS + 1),
        lambda: adapted(keras.layers.Normalization(invert=True), 2 * ROWS + 1),
        lambda: keras.layers.Normalization(mean=[1.0, 2, 3, 4], variance=[4.0, 5, 6, 7]),
        lambda: adapted(keras.layers.Discretization(num_bins=4, output_mode="multi_hot"), ROWS),
        lambda: keras.layers.Discretization(bin_boundaries=[0.0, 3], output_mode="multi_hot"),
    ],
)
def test_preprocessing_of_numbers_goes_along(layer, tmp_path):
    assert_converts(network(layer()), ROWS, tmp_path)


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (
            lambda: adapted(keras.layers.IntegerLookup(output_mode="multi_hot"), [1, 4, 6, 6]),
            [[1, 4, 5, 6]],
        ),
        (lambda: keras.layers.Hashing(7, output_mode="multi_hot", salt=5), [[1, 4, 5, 6]]),
        (
            lambda: adapted(
                keras.layers.StringLookup(output_mode="tf_idf"), [["a", "b"], ["b", "c"]]
            ),
            [["a", "c", "f", "b"]],
        ),
        (
            lambda: keras.layers.StringLookup(vocabulary=["a", "c"], output_mode="count"),
            [["a", "c", "f", "a"]],
        ),
        (
            lambda: adapted(keras.layers.TextVectorization(output_mode="tf_idf"), ["a b", "b c"]),
            [["a c"], ["f"]],
        ),
    ],
)
def test_vocabularies_go_along(layer, x, tmp_path):
    tf = pytest.importorskip("tensorflow")
    x = tf.constant(x)
    plain = network(layer(), shape=x.shape[1:], dtype=x.dtype.name)
    assert_converts(plain, x, tmp_path)


def test_seeds_go_along():
    plain = network(keras.layers.Dropout(0.5), keras.layers.GaussianNoise(0.1))
    plain(ROWS, training=True)
    model = GrowableModel.from_keras(plain)
    for _ in range(2):
        expected = values(plain(ROWS, training=True))
        np.testing.assert_allclose(values(model(ROWS, training=True)), expected, atol=1e-5)


def doubled(x):
    return 2 * x


def relu(x):  # the name of another function
    return -x


@pytest.mark.parametrize(
    "layer",
    [
        lambda: keras.layers.Dense(4, activation=doubled),
        lambda: keras.layers.Dense(4, activation=relu),
        lambda: keras.layers.Dense(4, activation=lambda x: x * len(ROWS)),
        lambda: keras.layers.Lambda(lambda x: x * len(ROWS)),
        lambda: keras.Sequential([keras.layers.Dense(4, activation=doubled)]),
    ],
)
def test_functions_are_not_looked_up_by_name(layer):
    assert_converts(network(layer()), ROWS)


def test_layers_within_layers_are_not_looked_up_by_name():
    dense = keras.layers.Dense(3, activation=doubled)
    layers = [keras.layers.Reshape((4, 1)), keras.layers.TimeDistributed(dense)]
    assert_converts(network(*layers, keras.layers.Bidirectional(keras.layers.LSTM(3))), ROWS)


def test_a_compiled_model_is_not_compiled_from_names():
    tensor = keras.Input((4,))
    inner = keras.Model(tensor, keras.layers.Dense(4, activation=doubled)(tensor))
    plain = network(inner)
    for model in (inner, plain):
        model.compile("sgd", loss=lambda y, y_pred: keras.ops.mean(y - y_pred))
    assert not assert_converts(plain, ROWS).compiled


class Scale(keras.layers.Layer):
    """Its config leaves out what is set later, and its closure belongs to it."""

    def __init__(self, factor=1.0, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor
        self.powers, self.table, self.signs = [1], {"bias": 0.0}, {1}
        self.scaled = lambda x: x * self.factor

    def call(self, x):
        return self.scaled(x) * sum(self.powers) + self.table["bias"] + len(self.signs)


class Forgetful(Scale):
    def get_config(self):
        return {"name": self.name}


class Shift(keras.layers.Layer):
    """Made with an array, which Keras can't write down."""

    def __init__(self, array):
        super().__init__()
        self.array = array

    def call(self, x):
        return x + self.array


@pytest.mark.parametrize("kind", [Scale, Forgetful])
def test_what_is_set_on_a_layer_goes_along(kind):
    layer = kind(3.0)
    layer.factor = 5.0
    layer.powers, layer.table, layer.signs = [1, 2], {"bias": 2.0, "more": [3]}, {1, 2, 3}
    copy = assert_converts(network(layer), ROWS).layers[1]
    layer.factor, layer.powers[0] = 7.0, 100  # the copy's own stay
    np.testing.assert_allclose(values(copy(ROWS)), ROWS * 5 * 3 + 2 + 3, rtol=1e-5)


def test_arrays_are_copied():
    array = np.arange(4, dtype="float32")
    copy = assert_converts(network(Shift(array)), ROWS).layers[1]
    array[:] = 0
    np.testing.assert_allclose(values(copy(ROWS)), ROWS + np.arange(4), rtol=1e-5)


class Block(keras.Model):
    """A subclassed model that keeps no argument and has no config."""

    def __init__(self, units, depth):
        super().__init__()
        self.denses = [keras.layers.Dense(units, activation=doubled) for _ in range(depth)]
        self.by_name = {"drop": keras.layers.Dropout(0.5)}
        self.normalization = adapted(keras.layers.Normalization(), ROWS)

    def build(self, input_shape):
        self.slope = self.add_weight(shape=input_shape[-1:], initializer="random_normal")

    def call(self, x, training=False):
        x = self.normalization(x) * self.slope
        for dense in self.denses:
            x = dense(x)
        return self.by_name["drop"](x, training=training)


def test_a_subclassed_model_within_goes_along():
    plain = network(Block(5, 3))
    model = assert_converts(plain, ROWS)
    for _ in range(2):
        expected = values(plain(ROWS, training=True))
        np.testing.assert_allclose(values(model(ROWS, training=True)), expected, rtol=1e-4)


class Tied(keras.layers.Layer):
    def __init__(self, other):
        super().__init__()
        self.other = other

    def call(self, x):
        return keras.ops.matmul(x, keras.ops.transpose(self.other.kernel))


def test_layers_that_share_weights_share_them_in_the_copy():
    shared = keras.layers.Dense(3, name="shared")
    model = assert_converts(network(shared, Tied(shared)), ROWS)
    shared, tied = (
        layer for layer in model.layers if hasattr(layer, "other") or "sh" in layer.name
    )
    assert tied.other is shared


class Holder:
    def __init__(self, layer):
        self.layer = layer


class Late(keras.layers.Layer):
    def call(self, x):
        return self.held.layer(x)

    def compute_output_shape(self, input_shape):
        return input_shape


def test_what_cannot_be_copied_is_refused():
    layer = Late(name="late")
    layer.held = Holder(keras.layers.Dense(4))
    with pytest.raises(TypeError, match=r"`late` \(Late\) can't be copied.*`held`"):
        GrowableModel.from_keras(network(layer))


OUTSIDE = keras.layers.Dense(4)


def test_functions_around_layers_are_refused():
    inside = keras.layers.Dense(4)
    for function in (lambda x: inside(x), lambda x: OUTSIDE(x)):
        plain = network(keras.layers.Lambda(function, output_shape=(4,), name="lambda"))
        with pytest.raises(TypeError, match=r"`lambda`.*layers or variables in `function`"):
            GrowableModel.from_keras(plain)


class Live(Tied):
    """Its config holds the layer itself."""

    def call(self, x):
        return self.other(x)

    def get_config(self):
        return {"other": self.other}


def test_layers_in_a_config_are_copied():
    assert_converts(network(Live(keras.layers.Dense(3))), ROWS)


def test_partial_functions_are_compared():
    layer = Scale()
    layer.scaled = functools.partial(keras.ops.multiply, 3.0)
    assert_converts(network(layer), ROWS)


def test_what_is_frozen_stays_frozen():
    layer = keras.layers.Dense(4)
    layer.trainable = False
    plain = network(layer)
    plain.get_layer("head").kernel.trainable = False
    model = GrowableModel.from_keras(plain)
    assert [v.trainable for v in model.variables] == [v.trainable for v in plain.variables]
    assert [v.path for v in model.variables] == [v.path for v in plain.variables]


def test_operations_go_along(tmp_path):
    tensor = keras.Input((4,))
    x = keras.layers.Dense(6, name="hidden")(tensor)
    x = keras.layers.Dense(6)(keras.ops.where(x > 0, x, 0.1 * np.ones(6, "float32")))
    x = keras.ops.einsum("bi,bi->bi", x, x)
    plain = keras.Model(tensor, x)
    model = GrowableModel.from_keras(plain)
    np.testing.assert_allclose(values(model(ROWS)), values(plain(ROWS)), rtol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float16"])
def test_a_copy_in_float32_rounds_nothing(policy):
    def layers(dtype):
        return [
            adapted(keras.layers.Normalization(dtype=dtype), 2 * ROWS + 1),
            keras.layers.Normalization(mean=4 * [1.1], variance=4 * [3.3], dtype=dtype),
            keras.Sequential([keras.layers.Dense(4, dtype=dtype)]),
        ]

    half, exact = network(*layers(policy)), network(*layers("float32"))
    copy = copy_in_float32(half)
    assert {layer.compute_dtype for layer in copy.layers} == {"float32"}
    exact.set_weights(copy.get_weights())
    exact.layers[1].finalize_state()
    np.testing.assert_allclose(values(copy(ROWS)), values(exact(ROWS)), rtol=1e-5, atol=1e-6)


def test_names_stay():
    plain = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(2)])
    tensor = keras.Input((4,))
    functional = keras.Model(tensor, keras.layers.Dense(2)(keras.layers.Dense(3)(tensor)))
    names = [layer.name for layer in functional.layers]
    model = GrowableModel.from_keras(functional)
    for copy in (model, model.to_keras(), copy_in_float32(model)):
        assert [layer.name for layer in copy.layers] == names
        assert copy.name == functional.name
    assert GrowableModel.from_keras(plain).name == plain.name


def derived(*names, base=keras.Model):
    return type("Mine", (base,), {name: getattr(base, name, None) for name in names})


@pytest.mark.parametrize("name", ["train_step", "test_step", "compute_loss", "call", "metrics"])
def test_a_class_with_methods_of_its_own_is_refused(name):
    tensor = keras.Input((4,))
    model = derived(name)(tensor, keras.layers.Dense(2)(tensor))
    with pytest.raises(TypeError, match=rf"Mine, whose `{name}`(.|\n)*Derive the class from"):
        GrowableModel.from_keras(model)


def test_a_class_that_only_builds_is_converted():
    class Network(keras.Model):
        def __init__(self, units):
            tensor = keras.Input((4,))
            x = keras.layers.Dense(units, name="hidden")(tensor)
            super().__init__(tensor, keras.layers.Dense(2, name="head")(x))

        def get_config(self):
            return {"units": 3}

    assert_converts(Network(3), ROWS)


def test_a_growable_class_keeps_its_methods():
    mine = derived("train_step", base=GrowableModel)
    model = mine.from_keras(network())
    assert type(model) is mine
    assert type(mine.from_keras(model)) is mine
    with pytest.raises(TypeError, match="Mine, whose `train_step`"):
        GrowableModel.from_keras(model)
    called = derived("call", base=GrowableModel)
    with pytest.raises(TypeError, match="`call` of its own"):
        called(model.input, model.output).to_keras()


def test_what_nothing_grows_for_is_told():
    tensor = keras.Input((4,))
    plain = keras.Model(tensor, keras.layers.Dense(2, name="head")(tensor))
    converted, built = GrowableModel.from_keras(plain), GrowableModel(plain.input, plain.output)
    for model in (converted, built):
        model.compile("sgd", "mse")
    for model in (converted, built):
        with pytest.raises(ValueError, match=r"stay at their widths(.|\n)*an output of the model"):
            model.grow(0.5, "random")
