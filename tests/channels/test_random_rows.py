"""Random graphs of all kinds of rows: growth keeps the function, or the group is frozen."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers as kl
from keras import ops
from networks import randomise, relative_change

from keras_grow import GrowableModel
from keras_grow.channels.graph import find_groups
from keras_grow.core.widening import Widening
from keras_grow.growing.resizing import widen_model


def on_sequence(layer, x):
    """Calls a layer on positions as the steps of a sequence."""
    y = layer(ops.reshape(x, (-1, 16, x.shape[-1])))
    return ops.reshape(y, (-1, 4, 4, y.shape[-1]))


def attend(x, heads):
    """A residual block of attention that normalises what it reads."""
    x = kl.Conv2D(4, 1)(x)  # a stream of its own, of which the mean is known
    y = ops.reshape(kl.LayerNormalization()(x), (-1, 16, 4))
    y = kl.MultiHeadAttention(heads, 3, value_dim=2 + heads)(y, y)
    return x + ops.reshape(y, (-1, 4, 4, 4))


def normalised(x):
    """A residual block that normalises what it reads, and is normalised in the end."""
    x = kl.Conv2D(4, 1)(x)
    y = kl.Conv2D(3, 1, activation="relu")(kl.RMSNormalization()(x))
    return kl.RMSNormalization()(x + kl.Conv2D(4, 1)(y))


def nested(x, calls):
    """A model within the model, called once or twice."""
    conv = kl.Conv2D(4, 2, padding="same", activation="tanh")
    inner = keras.Sequential([keras.Input(x.shape[1:]), conv, kl.BatchNormalization()])
    return ops.maximum(inner(x), inner(x / 2)) if calls > 1 else inner(x)


# Each takes a tensor of shape (batch, 4, 4, channels), another one, and a number.
STEPS = {
    "conv": lambda x, y, n: kl.Conv2D(2 * (1 + n % 3), 2, padding="same", activation="tanh")(x),
    "separable": lambda x, y, n: kl.SeparableConv2D(4, 2, padding="same", depth_multiplier=2)(x),
    "transposed": lambda x, y, n: kl.Conv2DTranspose(4, 2, padding="same", activation="relu")(x),
    "einsum dense": lambda x, y, n: kl.EinsumDense("bijc,dc->bijd", (4, 4, 4), bias_axes="d")(x),
    "grouped": lambda x, y, n: kl.Conv2D(x.shape[-1], 2, padding="same", groups=2)(x),
    "depthwise": lambda x, y, n: kl.Conv2D(x.shape[-1], 2, padding="same", groups=x.shape[-1])(x),
    "group norm": lambda x, y, n: kl.GroupNormalization((1, 2, -1)[n % 3])(x),
    "batch norm": lambda x, y, n: kl.BatchNormalization()(x),
    "layer norm": lambda x, y, n: kl.LayerNormalization(axis=(1, (1, 2), -1)[n % 3])(x),
    "concatenate": lambda x, y, n: ops.concatenate([x, y], axis=-1),
    "add": lambda x, y, n: x + y if x.shape == y.shape else x + ops.mean(y, -1, keepdims=True),
    "multiply": lambda x, y, n: x * y if x.shape == y.shape else x / 2,
    "excite": lambda x, y, n: x * kl.Dense(x.shape[-1])(ops.mean(x, (1, 2)))[:, None, None, :],
    "halves": lambda x, y, n: (lambda a, b: a * ops.sigmoid(b))(*ops.split(x, 2, axis=-1)),
    "shuffle": lambda x, y, n: ops.reshape(
        ops.swapaxes(ops.reshape(x, (-1, 4, 4, 2, x.shape[-1] // 2)), 3, 4), (-1, 4, 4, x.shape[-1])
    ),
    "rows": lambda x, y, n: ops.reshape(ops.reshape(x, (-1, 16, x.shape[-1])), (-1, *x.shape[1:])),
    "stack": lambda x, y, n: ops.max(ops.stack([x, x * 2], axis=1 + n % 3), axis=1 + n % 3),
    "transpose": lambda x, y, n: ops.transpose(ops.transpose(x, (0, 3, 1, 2)) ** 2, (0, 2, 3, 1)),
    "flip": lambda x, y, n: ops.concatenate([x[:, 2:], x[:, :2]], axis=1),
    "positions": lambda x, y, n: ops.einsum("bijc,ik->bkjc", x, np.eye(4, dtype="float32")[::-1]),
    "from a vector": lambda x, y, n: kl.Reshape((4, 4, 2))(kl.Dense(32)(ops.max(x, (1, 2)))),
    "attend": lambda x, y, n: attend(x, 1 + n % 2),
    "grouped queries": lambda x, y, n: on_sequence(
        lambda s: kl.GroupQueryAttention(2, 4, 2)(s, s), x
    ),
    "normalised": lambda x, y, n: normalised(x),
    "recurrent": lambda x, y, n: on_sequence(
        (kl.LSTM, kl.GRU, kl.SimpleRNN)[n % 3](4, return_sequences=True), x
    ),
    "both ways": lambda x, y, n: on_sequence(
        kl.Bidirectional(kl.GRU(2, return_sequences=True), merge_mode=("concat", "sum")[n % 2]), x
    ),
    "conv lstm": lambda x, y, n: kl.ConvLSTM2D(4, 2, padding="same")(ops.stack([x, x * 2], axis=1)),
    "distributed": lambda x, y, n: kl.TimeDistributed(kl.Conv1D(4, 2, padding="same"))(x),
    "nested": lambda x, y, n: nested(x, 1 + n % 2),
    "spectral": lambda x, y, n: kl.SpectralNormalization(kl.Conv2D(4, 2, padding="same"))(x),
    "to heads": lambda x, y, n: kl.Reshape((4, 4, x.shape[-1]))(
        ops.softmax(ops.reshape(x, (-1, 16, 2, x.shape[-1] // 2)), axis=1)
    ),
}
steps = st.lists(
    st.tuples(st.sampled_from(list(STEPS)), st.integers(0, 5), st.integers(0, 5)),
    min_size=1,
    max_size=6,
)


def build(steps):
    inputs = keras.Input((4, 4, 2))
    pool = [kl.Conv2D(4, 2, padding="same", activation="tanh")(inputs)]
    for kind, first, second in steps:
        x, y = pool[first % len(pool)], pool[second % len(pool)]
        pool.append(STEPS[kind](x, y, second) if x.shape[-1] % 2 == 0 else x)
    x = kl.GlobalAveragePooling2D()(kl.Concatenate()([pool[-1], pool[len(pool) // 2]]))
    return randomise(GrowableModel(inputs, kl.Dense(2, name="head")(x)))


def check(steps):
    model = build(steps)
    graph = find_groups(model)
    x = np.random.default_rng(0).normal(size=(3, 4, 4, 2)).astype("float32")
    before = np.asarray(model(x, training=False))
    widenings = []
    for name, group in graph.growable.items():
        # A copy, where no normalisation would see it, and a fresh one of no weight.
        copied = -1 if group.silent else 0
        sources = np.r_[np.arange(group.width), copied, -1]
        scale = np.ones(len(sources))
        if not group.silent:
            scale[[0, -2]] = 0.3, 0.7
        widenings.append(Widening(name, sources, scale))
    widen_model(model, graph, widenings)
    after = np.asarray(model(x, training=False))
    if np.all(np.isfinite(before)):
        assert relative_change(before, after) < 1e-4
    fresh = keras.Model.from_config(model.to_keras().get_config())
    assert [v.shape for v in fresh.weights] == [v.shape for v in model.weights]


@settings(max_examples=12)
@given(steps)
def test_random_graphs_grow_exactly(steps):
    check(steps)


@pytest.mark.parametrize("kind", STEPS)
def test_each_kind_grows_exactly_beside_itself(kind):
    check([(kind, 0, 0), (kind, 1, 1)])


@pytest.mark.slow
@settings(max_examples=100)
@given(steps)
def test_many_random_graphs_grow_exactly(steps):
    check(steps)
