"""Growing live models: the function, the bookkeeping, and putting things back."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from networks import NETWORKS, batch, build, plain_cnn, random_graphs, randomise, relative_change

from keras_grow import GrowableModel, Widening, models
from keras_grow.channels.graph import find_groups
from keras_grow.channels.layer_table import ROWS
from keras_grow.core import keras_private
from keras_grow.growing.resizing import widen_model
from keras_grow.layers import GrowableBatchNormalization, GrowableConv2D, GrowableDense
from keras_grow.methods import Net2Wider, Random

FULL_SIZE = {
    "vgg16": lambda: models.VGG16(width=8),
    "mobilenet": lambda: models.MobileNetV1(width=8),
    "resnet": lambda: models.ResNet(width=8),
}


def compiled(model):
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse")
    return model


def check_preserved(model, method, rate=0.35, tolerance=1e-5):
    x = batch(model)
    before = model(x, training=False).numpy()
    event = compiled(model).grow(rate, method)
    assert event.neurons_after > event.neurons_before
    assert relative_change(before, model(x, training=False).numpy()) < tolerance
    return event


@pytest.mark.quick(5)
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("method", [Net2Wider(noise=0, seed=1), Random(seed=1)])
def test_the_function_is_preserved(name, method):
    model = randomise(NETWORKS[name]())
    for _ in range(3):
        check_preserved(model, method)


@pytest.mark.parametrize("name", list(FULL_SIZE))
def test_the_function_of_the_papers_networks_is_preserved(name):
    check_preserved(FULL_SIZE[name](), Net2Wider(noise=0, seed=1))


@given(random_graphs)
def test_the_function_of_random_graphs_is_preserved(graph):
    check_preserved(randomise(build(graph)), Net2Wider(noise=0, seed=1), rate=0.6)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.quick(2)
def test_a_grown_model_is_like_one_built_at_that_size(name):
    model = compiled(NETWORKS[name]())
    model.fit(batch(model), np.zeros((8, model.output_shape[-1])), verbose=0)
    model.grow(0.5, "random")
    twin = GrowableModel.from_config(model.get_config())
    twin.set_weights(model.get_weights())
    assert [v.shape for v in model.variables] == [v.shape for v in twin.variables]
    assert model.count_params() == twin.count_params()
    assert [layer.output.shape for layer in model.layers] == [
        layer.output.shape for layer in twin.layers
    ]
    assert [layer.get_config() for layer in model.layers] == [
        layer.get_config() for layer in twin.layers
    ]
    assert [layer.get_build_config() for layer in model.layers] == [
        layer.get_build_config() for layer in twin.layers
    ]
    lines = {id(model): [], id(twin): []}
    for each in (model, twin):
        each.summary(print_fn=lines[id(each)].append)
    wanted = [line for line in "".join(lines[id(twin)]).splitlines() if "Optimizer" not in line]
    seen = "".join(lines[id(model)]).splitlines()
    assert all(line in seen for line in wanted if "params" not in line)
    x = batch(model)
    np.testing.assert_allclose(model(x), twin(x), atol=1e-6)


def test_objects_stay_the_same():
    model = compiled(plain_cnn())
    model.fit(batch(model), np.zeros((8, 3)), verbose=0)
    variables, slots = list(map(id, model.variables)), list(map(id, model.optimizer.variables))
    optimizer, iterations = model.optimizer, int(model.optimizer.iterations)
    model.grow(0.5, "net2wider")
    assert list(map(id, model.variables)) == variables
    assert list(map(id, model.optimizer.variables)) == slots
    assert model.optimizer is optimizer and int(optimizer.iterations) == iterations


def state_of(model):
    """Everything that a failed growth must leave alone."""
    return (
        [v.numpy() for v in model.variables + model.optimizer.variables],
        model.get_config(),
        [layer.output.shape for layer in model.layers],
        [keras_private.trained_variables(o) for o in keras_private.optimizers_of(model.optimizer)],
    )


@pytest.mark.parametrize("failing_call", range(1, 24, 4))
@pytest.mark.quick(1)
def test_a_growth_that_fails_changes_nothing(failing_call, monkeypatch):
    """The n-th replacement of a variable fails, as when memory runs out."""
    model = compiled(plain_cnn())
    x, y = batch(model), np.zeros((8, 3))
    model.fit(x, y, verbose=0)
    before, resize, calls = state_of(model), keras_private.resize, []

    def fail(*args):
        calls.append(args)
        if len(calls) == failing_call:
            raise MemoryError("no more")
        return resize(*args)

    monkeypatch.setattr(keras_private, "resize", fail)
    with pytest.raises(MemoryError):
        model.grow(0.5, "net2wider")
    monkeypatch.undo()
    after = state_of(model)
    for a, b in zip(before[0], after[0], strict=True):
        np.testing.assert_array_equal(a, b)
    assert before[1:] == after[1:]
    model.fit(x, y, verbose=0)
    model.grow(0.5, "net2wider")
    model.fit(x, y, verbose=0)


def test_a_failure_while_shapes_are_refreshed_changes_nothing(monkeypatch):
    model = compiled(plain_cnn())
    model.fit(batch(model), np.zeros((8, 3)), verbose=0)
    before, refresh, calls = state_of(model), keras_private.refresh_shapes, []

    def fail(*args):
        calls.append(args)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return refresh(*args)

    monkeypatch.setattr(keras_private, "refresh_shapes", fail)
    with pytest.raises(KeyboardInterrupt):
        model.grow(0.5, "net2wider")
    after = state_of(model)
    assert before[1:] == after[1:]
    for a, b in zip(before[0], after[0], strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_reshape_that_keeps_the_channels_grows_along():
    inputs = keras.Input((4, 4, 2))
    x = GrowableConv2D(3, 3, padding="same", name="conv")(inputs)
    x = keras.layers.Reshape((16, 3), name="kept")(x)
    x = GrowableDense(4, name="dense")(x)
    x = keras.layers.Permute((2, 1), name="permuted")(x)
    x = keras.layers.Reshape((64,), name="flat")(x)
    model = randomise(GrowableModel(inputs, keras.layers.Dense(2, name="head")(x)))
    check_preserved(model, Net2Wider(noise=0, seed=1), rate=0.6)
    assert model.get_layer("kept").target_shape[-1] == model.widths["conv"] > 3
    assert model.get_layer("flat").target_shape == (16 * model.widths["dense"],)


@pytest.mark.parametrize("kind", [keras.layers.Dropout, keras.layers.AlphaDropout])
def test_a_noise_shape_grows_along(kind):
    inputs = keras.Input((4, 4, 2))
    x = GrowableConv2D(4, 3, name="conv")(inputs)
    x = kind(0.5, noise_shape=(None, 1, 1, 4), name="drop")(x)
    x = keras.layers.Flatten()(x)
    model = randomise(GrowableModel(inputs, keras.layers.Dense(2, name="head")(x)))
    check_preserved(model, Net2Wider(noise=0, seed=1), rate=0.5)
    assert tuple(model.get_layer("drop").noise_shape) == (None, 1, 1, 6)
    model.fit(batch(model), np.zeros((8, 2)), verbose=0)
    dropped = model.get_layer("drop")(np.ones((1, 2, 2, 6)), training=True).numpy()
    assert np.all(dropped == dropped[:, :1, :1])  # whole channels are dropped


@pytest.mark.parametrize("length", [4, 3, 6])
def test_a_producer_that_sums_over_another_axis_keeps_its_rows(length):
    inputs = keras.Input((length, 3))
    x = keras.layers.Permute((2, 1))(GrowableDense(4, name="a")(inputs))
    x = GrowableDense(3, name="c")(GrowableDense(10, name="b")(x))
    x = keras.layers.Flatten()(x)
    model = randomise(GrowableModel(inputs, keras.layers.Dense(2, name="head")(x)))
    kernel = model.get_layer("b").kernel.numpy()
    check_preserved(model, Net2Wider(noise=0, seed=1), rate=0.5)
    assert model.widths["b"] > 10
    np.testing.assert_array_equal(model.get_layer("b").kernel.numpy()[:, :10], kernel)


class FixedWidth(keras.layers.Layer):
    """Says that it takes any number of channels, and does not."""

    def build(self, shape):
        self.width = shape[-1]

    def compute_output_shape(self, shape):
        return shape

    def call(self, inputs, training=False):
        return inputs * keras.ops.ones(self.width) if training else inputs


def test_a_layer_that_can_not_be_called_undoes_the_growth(monkeypatch):
    monkeypatch.setitem(ROWS, FixedWidth, ROWS[keras.layers.ReLU])
    inputs = keras.Input((5,))
    x = FixedWidth(name="fixed")(GrowableDense(4, name="a")(inputs))
    x = keras.layers.Dropout(0.2)(GrowableDense(3, name="b")(x))
    model = compiled(GrowableModel(inputs, keras.layers.Dense(2, name="head")(x)))
    x, y = batch(model), np.zeros((8, 2))
    model.fit(x, y, verbose=0)
    before, seeds = state_of(model), [s.numpy() for s in keras_private.seed_states(model)]
    with pytest.raises(ValueError, match=r"`fixed` \(FixedWidth\) can't be called at the widths"):
        model.grow(0.5, "net2wider")
    after = state_of(model)
    for a, b in zip(before[0], after[0], strict=True):
        np.testing.assert_array_equal(a, b)
    assert before[1:] == after[1:]
    np.testing.assert_array_equal(seeds, [s.numpy() for s in keras_private.seed_states(model)])
    model.fit(x, y, verbose=0)


def test_trying_the_layers_leaves_no_trace():
    """Neither statistics nor seeds move, though the layers are called in training."""
    model = compiled(plain_cnn())
    model.fit(batch(model), np.zeros((8, 3)), verbose=0)
    x, seeds = batch(model), [s.numpy() for s in keras_private.seed_states(model)]
    before = model.predict(x, verbose=0)
    model.grow(0.5, Net2Wider(noise=0, seed=1))
    np.testing.assert_array_equal(seeds, [s.numpy() for s in keras_private.seed_states(model)])
    np.testing.assert_allclose(model.predict(x, verbose=0), before, atol=1e-5)


def test_pruning_is_a_widening_with_fewer_channels():
    model = compiled(randomise(plain_cnn()))
    widen_model(model, find_groups(model), [Widening("a", [0, 2])])
    assert model.widths["a"] == 2
    model.fit(batch(model), np.zeros((8, 3)), verbose=0)


@pytest.mark.parametrize(
    ("widening", "message"),
    [
        (Widening("nowhere", [0]), "can't be widened"),
        (Widening("head", [0, 1, 2, 2]), "it is an output of the model"),
        (Widening("a", [0, 4]), "must lie between -1 and 3"),
        (Widening("a", [0, -2]), "must lie between -1 and 3"),
    ],
)
def test_widenings_that_do_not_fit_are_refused(widening, message):
    model = compiled(plain_cnn())
    with pytest.raises(ValueError, match=message):
        widen_model(model, find_groups(model), [widening])


def test_channels_first_models_grow():
    """TensorFlow's CPU kernels can't run them, but their shapes can be checked."""
    inputs = keras.Input((2, 6, 6))
    x = GrowableConv2D(3, 3, data_format="channels_first", name="a")(inputs)
    x = GrowableBatchNormalization(axis=1)(x)
    x = keras.layers.MaxPooling2D(data_format="channels_first")(x)
    x = keras.layers.Flatten(data_format="channels_last")(x)
    model = compiled(GrowableModel(inputs, keras.layers.Dense(2, name="head")(x)))
    model.grow(0.7, Net2Wider(noise=0, seed=0))
    assert model.get_layer("head").kernel.shape == (5 * 4, 2)
    (head,) = [v for v in find_groups(model).variables if v.path == "head/kernel"]
    (axis,) = [axis for axis in head.axes if axis.role == "input"]
    assert axis.segments == (("a", 5, 4),)


@settings(max_examples=5)
@given(random_graphs)
@pytest.mark.long
def test_random_graphs_train_after_growing(graph):
    model = build(graph)
    x = batch(model)
    compiled(model).fit(x, np.zeros((8, 2)), verbose=0)
    model.grow(0.5, "random")
    before = [v.numpy() for v in model.trainable_variables]
    model.fit(x, np.ones((8, 2)), verbose=0, epochs=2)
    assert [v.shape for v in model.trainable_variables] == [b.shape for b in before]


def test_what_is_multiplied_by_a_constant_grows():
    """Keras takes the product for sparse."""
    inputs = keras.Input((5,))
    x = keras.layers.ReLU()(GrowableDense(4, name="hidden")(inputs) * 2.0)
    model = compiled(GrowableModel(inputs, keras.layers.Dense(2)(x)))
    check_preserved(model, Net2Wider(noise=0, seed=0))
