"""Every row of the tables: growth keeps the function, and becomes what is built at that size."""

import keras
import numpy as np
import pytest
from keras import layers as kl
from keras import ops
from networks import randomise, relative_change

from keras_grow import GrowableModel
from keras_grow.channels.graph import find_groups
from keras_grow.layers import GrowableBatchNormalization
from keras_grow.methods import Net2Wider, Random

IMAGE, SEQUENCE, VECTOR = (4, 4, 2), (6, 2), (5,)


def conv(x, width=4, name="a", **kwargs):
    kind = {3: kl.Conv1D, 4: kl.Conv2D, 5: kl.Conv3D}[len(x.shape)]
    return kind(width, 2, padding="same", activation="tanh", name=name, **kwargs)(x)


def dense(x, width=4, name="a"):
    return kl.Dense(width, activation="tanh", name=name)(x)


def heads(x):
    """Attention by hand: heads are what grows."""
    q, k, v = (
        ops.transpose(ops.reshape(kl.Dense(6, name=n)(x), (-1, 6, 3, 2)), (0, 2, 1, 3))
        for n in "qkv"
    )
    scores = ops.softmax(ops.matmul(q, ops.swapaxes(k, -1, -2)) / 2)
    return kl.Reshape((6, 6))(ops.transpose(ops.matmul(scores, v), (0, 2, 1, 3)))


def attention(x):
    q, k, v = (ops.reshape(kl.Dense(6, name=n)(x), (-1, 6, 3, 2)) for n in "qkv")
    return kl.Reshape((6, 6))(ops.dot_product_attention(q, k, v))


def excite(x):
    """Squeeze and excitation: a number per channel, broadcast over positions."""
    x = conv(x)
    gate = kl.Dense(4, activation="sigmoid", name="gate")(dense(ops.mean(x, (1, 2)), 2, "b"))
    return x * ops.expand_dims(ops.expand_dims(gate, 1), 1)


def shuffle(x):
    """ShuffleNet's: groups of channels change places with channels of groups."""
    x = ops.reshape(conv(x, 6), (-1, 4, 4, 2, 3))
    return ops.reshape(ops.transpose(x, (0, 1, 2, 4, 3)), (-1, 4, 4, 6))


# Name -> input shape, what is between the input and the head, what can grow.
CASES = {
    "Conv1D": (SEQUENCE, conv, {"a": 4}),
    "Conv3D": ((2, 3, 2, 1), conv, {"a": 4}),
    "Conv1DTranspose": (SEQUENCE, lambda x: kl.Conv1DTranspose(3, 2, name="b")(conv(x)), "ab"),
    "Conv2DTranspose": (IMAGE, lambda x: kl.Conv2DTranspose(3, 2, 2, name="b")(conv(x)), "ab"),
    "Conv3DTranspose": (
        (2, 2, 2, 1),
        lambda x: kl.Conv3DTranspose(3, 2, name="b")(conv(x)),
        "ab",
    ),
    "SeparableConv1D": (SEQUENCE, lambda x: kl.SeparableConv1D(3, 2, name="b")(conv(x)), "ab"),
    "SeparableConv2D": (
        IMAGE,
        lambda x: kl.SeparableConv2D(3, 2, depth_multiplier=2, name="b")(conv(x)),
        "ab",
    ),
    "DepthwiseConv1D": (
        SEQUENCE,
        lambda x: kl.DepthwiseConv1D(2, depth_multiplier=2)(conv(x)),
        "a",
    ),
    "EinsumDense": (
        SEQUENCE,
        lambda x: kl.EinsumDense("...c,dc->...d", 3, bias_axes="d", name="b")(conv(x)),
        "ab",
    ),
    "EinsumDense of rank 3": (
        SEQUENCE,
        lambda x: kl.EinsumDense("btc,cde->bdte", (2, 6, 3), bias_axes="de", name="b")(conv(x)),
        "ab",
    ),
    "EinsumDense through": (
        SEQUENCE,
        lambda x: kl.EinsumDense("btc,cts->bsc", (3, 4), bias_axes="c", name="b")(conv(x)),
        {"a": 4},
    ),
    "EinsumDense to the right": (
        SEQUENCE,
        lambda x: kl.EinsumDense("bt...,ts->bs...", 3, bias_axes="s", name="b")(conv(x)),
        {"a": 4},
    ),
    "Embedding": ("numbers", lambda x: conv(kl.Embedding(7, 3, name="e")(x)), {"e": 3, "a": 4}),
    "grouped convolution": (
        IMAGE,
        lambda x: kl.Conv2D(9, 2, groups=3, activation="relu", name="g")(conv(x, 6)),
        {"a": 3},
    ),
    "depthwise as grouped": (IMAGE, lambda x: kl.Conv2D(4, 2, groups=4)(conv(x)), {"a": 4}),
    "GroupNormalization": (IMAGE, lambda x: kl.GroupNormalization(3)(conv(x, 6)), {"a": 3}),
    "instance normalisation": (IMAGE, lambda x: kl.GroupNormalization(-1)(conv(x)), {"a": 4}),
    "groups of a concatenation": (
        IMAGE,
        lambda x: kl.GroupNormalization(4)(kl.Concatenate()([conv(x), conv(x, 4, "b")])),
        {"a": 2, "b": 2},
    ),
    "LayerNormalization": (SEQUENCE, lambda x: kl.LayerNormalization(axis=1)(conv(x)), "a"),
    "UnitNormalization": (SEQUENCE, lambda x: kl.UnitNormalization(axis=1)(conv(x)), "a"),
    "Softmax": (SEQUENCE, lambda x: kl.Softmax(axis=1)(conv(x)), "a"),
    "PReLU": (IMAGE, lambda x: kl.PReLU(shared_axes=(1,))(conv(x)), "a"),
    "shared PReLU": (IMAGE, lambda x: kl.PReLU(shared_axes=(1, 2, 3))(conv(x)), "a"),
    "SpectralNormalization": (
        IMAGE,
        lambda x: kl.SpectralNormalization(kl.Conv2D(3, 2), name="b")(conv(x)),
        "ab",
    ),
    "Rescaling": (IMAGE, lambda x: conv(kl.Rescaling([1.0, 2.0], [0.5, 1.0])(x)), "a"),
    "Rescaling of positions": (SEQUENCE, lambda x: kl.Rescaling(np.ones((6, 1)))(conv(x)), "a"),
    "Normalization": (
        IMAGE,
        lambda x: conv(kl.Normalization(mean=[1.0, 2.0], variance=[1.0, 4.0])(x)),
        "a",
    ),
    "Normalization of all": (
        IMAGE,
        lambda x: kl.Normalization(axis=None, mean=1.0, variance=4.0)(conv(x)),
        "a",
    ),
    "preprocessing": (
        IMAGE,
        lambda x: kl.RandomContrast(0.2)(kl.CenterCrop(3, 3)(kl.RandomRotation(0.1)(conv(x)))),
        "a",
    ),
    "Masking": (SEQUENCE, lambda x: kl.GlobalAveragePooling1D()(dense(kl.Masking()(x))), "a"),
    "Dot": (
        SEQUENCE,
        lambda x: kl.Dot(axes=(1, 1))([kl.Softmax(axis=1)(x), conv(x)]),
        "a",
    ),
    "RepeatVector": (VECTOR, lambda x: kl.RepeatVector(3)(dense(x)), "a"),
    "Reshape to images": (
        VECTOR,
        lambda x: conv(kl.Reshape((2, 2, 3))(dense(x, 12)), 2, "b"),
        {"a": 3, "b": 2},
    ),
    "Reshape to positions": (IMAGE, lambda x: dense(kl.Reshape((16, 4))(conv(x)), 3, "b"), "ab"),
    "heads": (SEQUENCE, heads, {"k": 3}),
    "attention of operations": (SEQUENCE, attention, {"q": 3}),
    "tile": (SEQUENCE, lambda x: ops.tile(conv(x), (1, 2, 3)), "a"),
    "adaptive pooling": (IMAGE, lambda x: kl.AdaptiveAveragePooling2D(2)(conv(x)), "a"),
    "excitation": (IMAGE, excite, {"a": 4, "b": 2}),
    "channel shuffle": (IMAGE, shuffle, {"a": 2}),
    "sum with a concatenation": (
        IMAGE,
        lambda x: conv(x, 5, "c") + kl.Concatenate()([conv(x, 3), conv(x, 2, "b")]),
        {"a": 3, "b": 2},
    ),
    "Glu": (SEQUENCE, lambda x: ops.glu(conv(x)), {"a": 2}),
    "split channels": (
        SEQUENCE,
        lambda x: (lambda p, q: p * ops.sigmoid(q))(*ops.split(conv(x), 2, axis=-1)),
        {"a": 2},
    ),
    "split positions": (SEQUENCE, lambda x: ops.add(*ops.split(conv(x), 2, axis=1)), "a"),
    "slices": (SEQUENCE, lambda x: conv(x)[:, 1:-1, :][:, None, ::2], "a"),
    "an entry": (SEQUENCE, lambda x: conv(x)[:, 0], "a"),
    "take": (SEQUENCE, lambda x: ops.take(conv(x), [0, 2], axis=1), "a"),
    "stack": (SEQUENCE, lambda x: ops.stack([conv(x), conv(x, name="b")], axis=-1), {"a": 4}),
    "unstack": (SEQUENCE, lambda x: ops.unstack(conv(x), axis=1)[2], "a"),
    "concatenate": (SEQUENCE, lambda x: ops.concatenate([conv(x), conv(x, 3, "b")], -1), "ab"),
    "repeat": (SEQUENCE, lambda x: ops.repeat(ops.repeat(conv(x), 2, axis=-1), 2, axis=1), "a"),
    "pad": (SEQUENCE, lambda x: ops.pad(conv(x), [[0, 0], [1, 1], [0, 0]]), "a"),
    "squeeze": (SEQUENCE, lambda x: ops.squeeze(ops.expand_dims(conv(x), (1, -1)), 1), "a"),
    "moveaxis": (SEQUENCE, lambda x: ops.moveaxis(conv(x), 1, -1), "a"),
    "flatten by reshape": (IMAGE, lambda x: dense(ops.reshape(conv(x), (-1, 64)), 3, "b"), "ab"),
    "reductions": (
        IMAGE,
        lambda x: (
            ops.mean(x := conv(x), (1, 2))
            + ops.max(x, (1, 2))
            + ops.squeeze(ops.var(x, (1, 2), keepdims=True), (1, 2))
            + ops.logsumexp(ops.sum(ops.abs(x), axis=1), axis=1)
        ),
        "a",
    ),
    "moments": (IMAGE, lambda x: ops.add(*ops.moments(conv(x), (1, 2))), "a"),
    "einsum": (
        SEQUENCE,
        lambda x: ops.einsum("bts,bsc->btc", ops.einsum("btd,bsd->bts", x, x), conv(x)),
        "a",
    ),
    "einsum with dots": (
        SEQUENCE,
        lambda x: ops.einsum("...tc,ts->...sc", conv(x), np.eye(6, 3)),
        "a",
    ),
    "matmul": (SEQUENCE, lambda x: ops.matmul(np.ones((3, 6), "float32"), conv(x)), "a"),
    "arithmetic": (
        IMAGE,
        lambda x: ops.where(
            (y := conv(x)) > 0, ops.power(y, 2), -y / (2 + y) + ops.minimum(y, 0.1)
        ),
        "a",
    ),
    "broadcast constants": (SEQUENCE, lambda x: conv(x) * np.ones((6, 1), "float32") + 2, "a"),
    "spatial attention": (
        IMAGE,
        lambda x: (y := conv(x)) * kl.Conv2D(1, 1, activation="sigmoid", name="s")(y),
        "a",
    ),
    "layers of other ranks": (
        SEQUENCE,
        lambda x: kl.Add()([y := conv(x), ops.max(y, axis=1)]),
        "a",
    ),
    "normalised": (
        IMAGE,
        lambda x: GrowableBatchNormalization()(kl.Conv2D(4, 2, name="a")(x)),
        "a",
    ),
}
WIDTHS = {"a": 4, "b": 3}


def classify(shape, between):
    inputs = keras.Input((6,), dtype="int32") if shape == "numbers" else keras.Input(shape)
    x = between(inputs)
    x = kl.Flatten()(x) if len(x.shape) > 2 else x
    return inputs, kl.Dense(2, name="head")(x)


def made(case):
    shape, between, _ = CASES[case]
    return randomise(GrowableModel(*classify(shape, between)))


def examples(model):
    rng = np.random.default_rng(0)
    shape = (5, *model.input_shape[1:])
    if model.inputs[0].dtype == "int32":
        return rng.integers(0, 7, shape)
    return rng.normal(size=shape).astype("float32")


def run(model, x):
    return np.asarray(model(x, training=False))


def expected(case):
    *_, groups = CASES[case]
    return {name: WIDTHS[name] for name in groups} if isinstance(groups, str) else groups


@pytest.mark.quick(18)
@pytest.mark.parametrize("case", CASES)
def test_a_row_grows_exactly(case, tmp_path):
    model = made(case)
    graph = find_groups(model)
    assert {name: group.width for name, group in graph.growable.items()} == expected(case)
    for item in graph.variables:
        for axis in item.axes:
            assert item.variable.shape[axis.axis] == sum(s.width * s.repeat for s in axis.segments)
    model.compile("sgd", "mse", run_eagerly=True)
    x = examples(model)
    before = run(model, x)
    assert model.grow(0.6, Net2Wider(noise=0, seed=0)) is not None
    assert relative_change(before, run(model, x)) < 1e-4
    assert model.grow(0.6, Random(seed=0)) is not None
    assert relative_change(before, run(model, x)) < 1e-4
    assert np.isfinite(model.train_on_batch(x, np.ones((5, 2))))
    model.save(tmp_path / "m.keras")
    outputs, plain = run(model, x), model.to_keras()
    for copy in (keras.models.load_model(tmp_path / "m.keras"), plain):
        assert relative_change(outputs, run(copy, x)) < 1e-5
    # Built at that size, from nothing but the config.
    fresh = keras.Model.from_config(plain.get_config())
    assert [v.shape for v in fresh.weights] == [v.shape for v in model.weights]
    assert fresh.output_shape == model.output_shape
