"""Small networks that the tests grow."""

import keras
import numpy as np
from hypothesis import strategies as st

from keras_grow import GrowableModel
from keras_grow.layers import (
    GrowableBatchNormalization,
    GrowableConv2D,
    GrowableDense,
    GrowableDepthwiseConv2D,
)


def mlp(inputs=5, hidden=(4, 3), outputs=2, **dense):
    tensor = x = keras.Input((inputs,))
    for number, units in enumerate(hidden):
        x = GrowableDense(units, activation="tanh", name=f"hidden{number}", **dense)(x)
    return GrowableModel(tensor, keras.layers.Dense(outputs, name="head")(x))


def conv_bn(x, filters, name, activation="relu", **kwargs):
    x = GrowableConv2D(filters, 3, padding="same", name=name, **kwargs)(x)
    x = GrowableBatchNormalization(name=f"{name}_bn")(x)
    return keras.layers.Activation(activation, name=f"{name}_act")(x)


def plain_cnn(dropout=0.2):
    tensor = keras.Input((6, 6, 2))
    x = conv_bn(tensor, 4, "a", use_bias=False)
    x = keras.layers.MaxPooling2D()(x)
    x = conv_bn(x, 5, "b", use_bias=False)
    x = keras.layers.Flatten()(x)
    x = GrowableDense(6, activation="gelu", name="c")(x)
    x = keras.layers.Dropout(dropout)(x)
    return GrowableModel(tensor, keras.layers.Dense(3, name="head")(x))


def depthwise_cnn():
    tensor = keras.Input((6, 6, 2))
    x = conv_bn(tensor, 4, "stem")
    x = GrowableDepthwiseConv2D(3, padding="same", depth_multiplier=2, name="dw")(x)
    x = GrowableBatchNormalization(name="dw_bn")(x)
    x = keras.layers.PReLU(shared_axes=(1, 2), name="prelu")(x)
    x = conv_bn(x, 3, "pw")
    x = keras.layers.GlobalAveragePooling2D()(x)
    return GrowableModel(tensor, keras.layers.Dense(3, name="head")(x))


def residual_cnn():
    tensor = keras.Input((6, 6, 2))
    x = conv_bn(tensor, 4, "stem")
    for block in ("r1", "r2"):
        y = conv_bn(x, 3, f"{block}_in")
        y = GrowableConv2D(4, 3, padding="same", name=f"{block}_out")(y)
        x = keras.layers.Add(name=f"{block}_add")([x, y])
        x = keras.layers.ReLU()(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return GrowableModel(tensor, keras.layers.Dense(3, name="head")(x))


def dense_cnn():
    tensor = keras.Input((6, 6, 2))
    x = conv_bn(tensor, 3, "stem")
    for block in ("d1", "d2"):
        y = conv_bn(x, 2, block)
        x = keras.layers.Concatenate(name=f"{block}_cat")([x, y])
        x = GrowableBatchNormalization(name=f"{block}_cat_bn")(x)
    x = keras.layers.Flatten()(x)
    return GrowableModel(tensor, keras.layers.Dense(3, name="head")(x))


NETWORKS = {
    "mlp": mlp,
    "plain": plain_cnn,
    "depthwise": depthwise_cnn,
    "residual": residual_cnn,
    "dense": dense_cnn,
}


KINDS = ["conv", "bn", "depthwise", "add", "multiply", "concat", "act"]
small = st.integers(0, 5)
random_graphs = st.tuples(
    st.lists(st.tuples(st.sampled_from(KINDS), small, small), min_size=1, max_size=6),
    st.sampled_from(["flatten", "pool"]),
)


def build(graph):
    """Builds the network that `random_graphs` drew: branches, additions, concatenations."""
    steps, end = graph
    tensor = keras.Input((4, 4, 2))
    pool = [conv_bn(tensor, 3, "first")]
    for number, (kind, first, second) in enumerate(steps):
        x = pool[first % len(pool)]
        alike = [y for y in pool if y.shape == x.shape]
        pool.append(_step(kind, f"n{number}", x, alike[second % len(alike)], second))
    x = keras.layers.Concatenate()([pool[-1], pool[len(pool) // 2]])
    x = keras.layers.Flatten()(x) if end == "flatten" else keras.layers.GlobalMaxPooling2D()(x)
    x = GrowableDense(2, activation="relu", name="hidden")(x)
    return GrowableModel(tensor, keras.layers.Dense(2, name="head")(x))


def _step(kind, name, x, other, number):
    if kind == "conv":
        return GrowableConv2D(1 + number % 3, 3, padding="same", name=name)(x)
    if kind == "bn":
        return GrowableBatchNormalization(name=name)(x)
    if kind == "depthwise":
        times = 1 + number % 2
        return GrowableDepthwiseConv2D(2, padding="same", depth_multiplier=times, name=name)(x)
    if kind == "add":
        return keras.layers.Add(name=name)([x, other])
    if kind == "multiply":
        return x * other  # an operation, not a layer
    if kind == "concat":
        return keras.layers.Concatenate(name=name)([x, other])
    return keras.layers.Activation("tanh", name=name)(x)


def randomise(model, seed=0):
    """Gives every weight a value of its own, statistics and biases included."""
    rng = np.random.default_rng(seed)
    for v in model.variables:
        value = rng.normal(0, 0.5, v.shape)
        v.assign(np.abs(value) + 0.5 if "variance" in v.name else value)
    return model


def batch(model, count=8, seed=0):
    """Draws inputs for a model."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, *model.input_shape[1:])).astype("float32")


def relative_change(before, after):
    """The largest change of an output, relative to the largest output."""
    return np.max(np.abs(after - before)) / max(np.max(np.abs(before)), 1e-6)
