"""Growing deeper within `fit`: what a callback does, and what it refuses."""

import random

import keras
import pytest
from blocks import compiled, conv_branch, data_of, relu_mlp
from networks import mlp, plain_cnn

from keras_grow import GrowthCallback


def test_a_block_of_unknown_cost_is_refused_before_training():
    def attention(x):
        y = keras.layers.Dense(2)(keras.layers.Reshape((2, 2))(x))
        return keras.layers.Dense(4)(keras.layers.Flatten()(keras.layers.Attention()([y, y])))

    model = compiled(relu_mlp())
    callback = GrowthCallback(0.3, method="net2wider", depth={"hidden0": attention})
    random.seed(3)
    drawn = random.Random(3).random()
    callback.set_model(model)
    assert random.random() == drawn  # what is tried draws nothing
    callback = GrowthCallback(
        0.3, method="net2wider", depth={"hidden0": attention}, max_flops=10**9
    )
    with pytest.raises(ValueError, match=r"cost of layer .* isn't known"):
        callback.set_model(model)


@pytest.mark.long
def test_a_callback_with_a_ceiling_deepens_up_to_it(capsys):
    model = compiled(relu_mlp())
    callback = GrowthCallback(
        0.25, every=1, method="net2wider", depth={"hidden0": None}, max_params=115, verbose=1
    )
    model.fit(*data_of(model), epochs=4, callbacks=[callback], verbose=0)
    assert [e.method for e in model.growth_history] == ["net2wider", "deepen", "net2wider"]
    assert "epoch 2: no room for a block after `hidden0`" in capsys.readouterr().out
    assert model.count_params() <= 115


def test_a_callback_that_deepens(capsys):
    model = compiled(plain_cnn(dropout=0.0))
    callback = GrowthCallback(
        0.3, every=1, method="net2wider", depth={"a": None, "b_act": conv_branch}
    )
    model.fit(*data_of(model), epochs=3, callbacks=[callback], verbose=0)
    methods = [event.method for event in model.growth_history]
    assert methods == ["net2wider", "deepen", "deepen"] * 2
    assert "follows `a_act`" in capsys.readouterr().out
    assert sum(isinstance(layer, keras.layers.Add) for layer in model.layers) == 2


@pytest.mark.parametrize(
    ("depth", "error", "words"),
    [
        (["a"], TypeError, "must be a dictionary"),
        ({"a": 3}, TypeError, "a function, or None"),
    ],
)
def test_a_callback_with_a_wrong_depth(depth, error, words):
    with pytest.raises(error, match=words):
        GrowthCallback(0.3, depth=depth)


@pytest.mark.parametrize(
    ("branch", "words"),
    [
        (lambda x: keras.layers.Dense(7)(x), "a tensor like its argument"),
        (None, "changes what has"),
    ],
)
def test_a_callback_for_a_block_that_cannot_be(branch, words):
    model = compiled(mlp())
    callback = GrowthCallback(0.3, every=9, method="net2wider", depth={"hidden0": branch})
    with pytest.raises(ValueError, match=words):
        model.fit(*data_of(model), callbacks=[callback], verbose=0)


def test_a_callback_for_a_layer_that_is_not_there():
    with pytest.raises(ValueError, match="Received: after='z'"):
        GrowthCallback(0.3, depth={"z": None}).set_model(compiled(plain_cnn()))
