"""Floating-point operations, against counts by hand and TensorFlow's own profiler."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as kl

from keras_grow import GrowableModel, models
from keras_grow.channels.flops import flops_at, forward_flops, training_flops
from keras_grow.channels.graph import find_groups

# VGG16 at width 16: positions x window x in x out, multiply-adds.
VGG16_MULTIPLY_ADDS = (
    1024 * 9 * 3 * 16  # conv1
    + 1024 * 9 * 16 * 16  # conv2
    + 2 * 256 * 9 * 16 * 16  # conv3, 4
    + 3 * 64 * 9 * 16 * 16  # conv5 to 7
    + 3 * 16 * 9 * 16 * 16  # conv8 to 10
    + 3 * 4 * 9 * 16 * 16  # conv11 to 13
    + 16 * 10  # head
)


def profiled_multiply_adds(model):
    """Counts what TensorFlow's profiler finds in the convolutions and matrix products."""
    frozen = tf.function(lambda x: model(x, training=False)).get_concrete_function(
        tf.TensorSpec((1, *model.input_shape[1:]))
    )
    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    options = {**options, "output": "none", "account_type_regexes": [".*Conv.*", "MatMul"]}
    found = tf.compat.v1.profiler.profile(frozen.graph, cmd="op", options=options)
    return found.total_float_ops // 2


def test_vgg16_by_hand():
    model = models.VGG16(width=16)
    assert forward_flops(model) == 2 * VGG16_MULTIPLY_ADDS == 9_124_160
    assert training_flops(model, 50_000) == 3 * 50_000 * 9_124_160


def test_mobilenet_by_hand():
    positions = [1024] + 2 * [256] + 2 * [64] + 6 * [16] + 2 * [4]
    blocks = sum(n * (9 * 32 + 32 * 32) for n in positions)
    expected = 1024 * 9 * 3 * 32 + blocks + 32 * 10
    assert forward_flops(models.MobileNetV1(width=32)) == 2 * expected


@pytest.mark.parametrize(
    ("layer", "shape", "multiply_adds"),
    [
        (kl.Dense(5), (7,), 7 * 5),
        (kl.Dense(5), (3, 7), 3 * 7 * 5),
        (kl.Conv1D(6, 3, padding="same"), (8, 4), 8 * 3 * 4 * 6),
        (kl.Conv2D(6, (3, 2), strides=2), (9, 8, 4), 4 * 4 * 6 * 4 * 6),
        (kl.Conv2D(6, 3, groups=2), (9, 8, 4), 7 * 6 * 9 * 2 * 6),
        (kl.Conv2D(6, 3, dilation_rate=2), (9, 8, 4), 5 * 4 * 9 * 4 * 6),
        (kl.Conv3D(2, 2), (3, 3, 3, 4), 8 * 8 * 4 * 2),
        (kl.Conv2DTranspose(6, 3, strides=2), (4, 5, 2), 4 * 5 * 9 * 2 * 6),
        (kl.DepthwiseConv2D(3, depth_multiplier=2), (9, 8, 4), 7 * 6 * 9 * 4 * 2),
        (kl.DepthwiseConv1D(3), (9, 4), 7 * 3 * 4),
        (kl.SeparableConv2D(6, 3, depth_multiplier=2), (9, 8, 4), 7 * 6 * (9 * 8 + 8 * 6)),
        (kl.Conv2D(6, 3, groups=2), (9, 8, 4), 7 * 6 * 9 * 2 * 6),
        (kl.EinsumDense("abc,cde->abde", (9, 2, 3)), (9, 4), 9 * 4 * 6),
        (kl.EinsumDense("...c,cd->...d", 5, trainable=False), (9, 4), 9 * 4 * 5),
        (kl.BatchNormalization(), (9, 8, 4), 0),
        (kl.LayerNormalization(axis=(1, 2)), (9, 4), 0),
        (kl.PReLU(), (9, 8, 4), 0),
        (kl.MaxPooling2D(), (9, 8, 4), 0),
        (kl.Embedding(9, 4), (3,), 0),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_layers_by_hand(layer, shape, multiply_adds):
    model = keras.Sequential([keras.Input(shape), layer])
    assert forward_flops(model) == 2 * multiply_adds


@pytest.mark.parametrize("network", [models.VGG16, models.MobileNetV1, models.ResNet])
@pytest.mark.tensorflow
@pytest.mark.quick(1)
def test_networks_against_the_profiler_of_tensorflow(network):
    model = network(width=6).to_keras()
    assert forward_flops(model) == 2 * profiled_multiply_adds(model)


def test_every_call_of_a_shared_layer_counts():
    x = keras.Input((4,))
    shared = kl.Dense(4)
    assert forward_flops(keras.Model(x, shared(shared(shared(x))))) == 2 * 3 * 16


def test_nested_models_count():
    inner = keras.Sequential([keras.Input((4,)), kl.Dense(3)])
    x = keras.Input((4,))
    assert forward_flops(keras.Model(x, kl.Add()([inner(x), inner(x)]))) == 2 * 2 * 12


def test_the_count_follows_a_growth():
    model = models.VGG16(width=4)
    model.compile("sgd", "mse")
    before = forward_flops(model)
    model.grow(0.35, method="random")
    assert forward_flops(model) == forward_flops(models.VGG16(widths=model.widths)) > before


@pytest.mark.parametrize(
    ("layer", "inputs"),
    [
        (kl.Attention(name="look"), [(3, 4), (3, 4)]),
        (kl.Dot(axes=1, name="product"), [(4,), (4,)]),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_an_unknown_layer_is_refused(layer, inputs):
    tensors = [keras.Input(shape) for shape in inputs]
    model = keras.Model(tensors, layer(tensors[0] if len(tensors) == 1 else tensors))
    named = f"The cost of layer `{layer.name}` of type {type(layer).__name__} isn't known"
    with pytest.raises(ValueError, match=named):
        forward_flops(model)


def test_an_open_input_shape_is_refused():
    x = keras.Input((None, None, 3))
    with pytest.raises(ValueError, match="Build the model with a fixed input shape"):
        forward_flops(keras.Model(x, kl.Conv2D(4, 3, name="conv")(x)))


class Subclassed(keras.Model):
    def call(self, x):
        return x


@pytest.mark.parametrize(
    "model", [Subclassed(), keras.Sequential([kl.Dense(3)]), np.ones(3), kl.Dense(3), None]
)
def test_other_models_are_refused(model):
    with pytest.raises(TypeError, match="`model` must be a Functional model"):
        forward_flops(model)


@pytest.mark.parametrize(("examples", "error"), [(0, ValueError), (1.5, TypeError)])
def test_bad_examples(examples, error):
    model = keras.Sequential([keras.Input((4,)), kl.Dense(3)])
    with pytest.raises(error, match="`examples` must be a positive integer"):
        training_flops(model, examples)


def wide(layer, width, shape=(4, 6)):
    inputs = keras.Input(shape)
    return keras.Model(inputs, kl.Dense(2, name="head")(kl.Flatten()(layer(width)(inputs))))


def inner_model(width):
    inputs = keras.Input((6,))
    return keras.Model(inputs, kl.Dense(width, name="out")(kl.Dense(width, name="in")(inputs)))


WRAPPED = {
    "dense": lambda w: kl.TimeDistributed(kl.Dense(w)),
    "model": lambda w: kl.TimeDistributed(inner_model(w)),
    "sequential": lambda w: kl.TimeDistributed(
        keras.Sequential([keras.Input((6,)), kl.Dense(w), kl.Dense(w)])
    ),
    "lstm": lambda w: kl.LSTM(w, return_sequences=True),
    "cells": lambda w: kl.RNN([kl.LSTMCell(w), kl.GRUCell(w)], return_sequences=True),
    "both ways": lambda w: kl.Bidirectional(kl.GRU(w), merge_mode="sum"),
    "attention": lambda w: lambda x: kl.MultiHeadAttention(w, w, output_shape=w)(x, x),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_a_plan_counts_what_the_grown_model_costs(name):
    model = GrowableModel.from_keras(wide(WRAPPED[name], 3))
    graph = find_groups(model)
    planned = flops_at(graph, dict.fromkeys(graph.growable, 6))
    assert planned == forward_flops(wide(WRAPPED[name], 6)) > forward_flops(model)


def test_an_embedding_that_is_used_again_counts_as_it_is_called():
    inputs = keras.Input((5,), dtype="int32")
    embedding = kl.ReversibleEmbedding(7, 4)
    model = keras.Model(inputs, embedding(embedding(inputs), reverse=True))
    assert forward_flops(model) == 2 * 5 * 7 * 4
