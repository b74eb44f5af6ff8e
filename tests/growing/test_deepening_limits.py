"""Blocks that can't be, and ceilings: what `deepen` refuses, and what it leaves alone."""

import random

import keras
import numpy as np
import pytest
from blocks import branch, compiled, outputs, relu_mlp, train
from networks import conv_bn, mlp, plain_cnn, relative_change, residual_cnn

from keras_grow import GrowableModel
from keras_grow.channels.flops import forward_flops
from keras_grow.channels.graph import find_groups


def test_a_sequential_model_of_the_same_calls():
    plain = keras.Sequential(
        [keras.Input((5,)), keras.layers.Dense(4, "relu", name="a"), keras.layers.Dense(2)]
    )
    model = compiled(GrowableModel(plain.inputs[0], plain.outputs[0]))
    before = outputs(model)
    with pytest.raises(ValueError, match=r"Sequential model.*Delete that model"):
        model.deepen("a")
    np.testing.assert_array_equal(before, outputs(model))
    compiled(GrowableModel.from_keras(plain)).deepen("a")


@pytest.mark.parametrize(
    ("build", "arguments", "error", "words"),
    [
        (relu_mlp, {"after": 3}, TypeError, "name of a layer"),
        (
            relu_mlp,
            {"after": "hidden7"},
            ValueError,
            "hidden0.*Received: after='hidden7'",
        ),
        (relu_mlp, {"after": "head"}, ValueError, "Nothing in model .* reads the output of `head`"),
        (mlp, {"after": "hidden0"}, ValueError, "activation of `hidden0` changes .*`branch=`"),
        (residual_cnn, {"after": "r1_add"}, ValueError, "An? Add can't be repeated"),
        (plain_cnn, {"after": "a"}, ValueError, "needs training data"),
        (relu_mlp, {"after": "hidden0", "branch": 3}, TypeError, "must be a function"),
        (relu_mlp, {"after": "hidden0", "branch": lambda x: [x]}, TypeError, "return one tensor"),
        (
            relu_mlp,
            {"after": "hidden0", "branch": keras.layers.Dense(3)},
            ValueError,
            r"of shape \(None, 4\).*Received: shape=\(None, 3\)",
        ),
        (
            relu_mlp,
            {"after": "hidden0", "branch": lambda x: keras.layers.Activation("tanh")(x)},
            ValueError,
            "must end with a layer that puts out zero",
        ),
        (
            relu_mlp,
            {"after": "hidden0", "branch": lambda x: keras.layers.Dense(4, "sigmoid")(x)},
            ValueError,
            "must end with a layer that puts out zero",
        ),
        (
            relu_mlp,
            {"after": "hidden0", "branch": lambda x: keras.layers.Dense(4)(keras.Input((4,)))},
            ValueError,
            "from its argument",
        ),
    ],
)
def test_errors(build, arguments, error, words):
    model = compiled(build())
    before, layers = outputs(model), [layer.name for layer in model.layers]
    with pytest.raises(error, match=f"(?s){words}"):
        model.deepen(**arguments)
    assert [layer.name for layer in model.layers] == layers and not model.growth_history
    np.testing.assert_array_equal(before, outputs(model))


def test_layers_of_the_model_are_none_of_a_branch():
    model = compiled(relu_mlp())
    layer = model.get_layer("hidden1")
    with pytest.raises(ValueError, match=r"layers of its own.*hidden1"):
        model.deepen("hidden0", layer)
    assert layer.output is not None  # it is still called once
    with pytest.raises(ValueError, match="a tensor like its argument"):
        model.deepen("hidden0", lambda x: keras.layers.Dense(7)(layer(x)))
    assert layer.output is not None


def test_before_compile():
    with pytest.raises(ValueError, match="must be compiled"):
        relu_mlp().deepen("hidden0")


def test_a_mask_that_would_be_dropped():
    inputs = keras.Input((6,), dtype="int32")
    x = keras.layers.Embedding(5, 4, mask_zero=True, name="embedding")(inputs)
    x = keras.layers.LSTM(3)(x)
    model = compiled(GrowableModel(inputs, keras.layers.Dense(2)(x)))
    tokens = np.random.default_rng(0).integers(0, 5, (8, 6))
    before = outputs(model, tokens)
    with pytest.raises(ValueError, match=r"has a mask, which \['conv1d'\]"):
        model.deepen("embedding", lambda x: keras.layers.Conv1D(4, 3, padding="same")(x))
    model.deepen("embedding", branch)
    assert relative_change(before, outputs(model, tokens)) < 1e-6


def test_names_that_are_taken_get_a_number():
    model = compiled(relu_mlp())
    for _ in range(2):
        model.deepen("hidden0", lambda x: keras.layers.Dense(4, name="head")(x))
    assert {"head", "head_2", "head_3"} <= {layer.name for layer in model.layers}
    assert find_groups(model).groups["head"].frozen == "it is an output of the model"


def test_a_ceiling_is_looked_at_before_the_data():
    x = inputs = keras.Input((6, 6, 2))
    x = conv_bn(x, 4, "normalised")
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = compiled(GrowableModel(inputs, keras.layers.Dense(2, name="head")(x)))
    random.seed(3)
    assert model.deepen("normalised", max_params=10) is None  # no data is asked for
    assert random.random() == random.Random(3).random()  # and what is tried draws nothing
    with pytest.raises(ValueError, match="needs training data"):
        model.deepen("normalised", max_params=10**9)


def test_a_ceiling_that_leaves_no_room():
    model = train(compiled(relu_mlp()))
    parameters, flops = model.count_params(), forward_flops(model)
    for most in ({"max_params": parameters + 19}, {"max_flops": flops + 31}):
        assert model.deepen("hidden0", **most) is None
    assert len(model.layers) == 4 and not model.growth_history
    assert model.deepen("hidden0", max_params=parameters + 20, max_flops=flops + 32).block
    assert (model.count_params(), forward_flops(model)) == (parameters + 20, flops + 32)
