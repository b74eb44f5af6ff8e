"""Channel groups against what a person reads off the network."""

import keras
import numpy as np
import pytest
from networks import NETWORKS, conv_bn, dense_cnn, depthwise_cnn, plain_cnn, residual_cnn

from keras_grow import GrowableModel
from keras_grow.channels.graph import find_groups
from keras_grow.layers import GrowableConv2D, GrowableDense


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


def test_a_plain_layer_is_frozen_but_consumes():
    tensor = keras.Input((6, 6, 2))
    x = GrowableConv2D(3, 3, name="grows")(tensor)
    x = keras.layers.Conv2D(4, 3, name="plain")(x)
    model = classify(tensor, x)
    assert growable(model) == {"grows": 3}
    assert "`plain` is a Conv2D, not one of the growable layers" in reason(model, "plain")


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
    assert reason(model, "before") == "what `mystery` (Mystery) does to its channels isn't known"
    rows = {row.layer: row for row in model.growth_report().rows}
    assert rows["mystery"].reason and not rows["before"].growable and rows["after"].growable


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda x: keras.layers.LayerNormalization(name="x")(x), "mixes channels"),
        (lambda x: keras.layers.GroupNormalization(1, name="x")(x), "mixes channels"),
        (lambda x: keras.layers.Softmax(name="x")(x), "mixes channels"),
        (lambda x: keras.layers.Activation("softmax", name="x")(x), "'softmax' of `x`"),
        (lambda x: keras.layers.Activation(lambda y: y[..., ::-1], name="x")(x), "isn't known to"),
        (lambda x: keras.layers.BatchNormalization(axis=1, name="x")(x), "another axis"),
        (lambda x: keras.layers.PReLU(shared_axes=(1, 2, 3), name="x")(x), "shares its slope"),
        (lambda x: keras.layers.Reshape((8, 6), name="x")(x), "reshapes the channel axis"),
        (lambda x: GrowableConv2D(3, 3, groups=3, name="x")(x), "grouped convolution"),
        (lambda x: keras.layers.Conv2D(3, 3, trainable=False, name="x")(x), "not trainable"),
        (lambda x: x + np.ones(3, "float32"), "array of fixed shape"),
        (lambda x: x * keras.ops.ones(3), "array of fixed shape"),
        (lambda x: x - keras.Variable(np.ones(3)), "array of fixed shape"),
        (lambda x: keras.ops.mean(x, axis=(1, 2)), "isn't known"),
    ],
)
def test_what_keeps_a_group_from_growing(make, expected):
    tensor = keras.Input((6, 6, 2))
    x = GrowableConv2D(3, 3, name="conv")(tensor)
    assert expected in reason(classify(tensor, make(x)), "conv")


def test_joining_a_fixed_tensor_freezes():
    tensor = keras.Input((6, 6, 3))
    x = GrowableConv2D(3, 3, padding="same", name="conv")(tensor)
    model = classify(tensor, keras.layers.Add(name="add")([x, tensor]))
    assert "joins them with channels that can't grow alike" in reason(model, "conv")


def test_a_nested_model_freezes():
    inner_in = keras.Input((6, 6, 3))
    inner = keras.Model(inner_in, keras.layers.Conv2D(3, 1)(inner_in), name="inner")
    tensor = keras.Input((6, 6, 2))
    x = GrowableConv2D(3, 3, padding="same", name="conv")(tensor)
    model = classify(tensor, inner(x))
    assert "`inner` is a model inside the model" in reason(model, "conv")


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
