"""Growing in every precision and with every option of an optimizer, against something independent.

What `growing/test_slots.py` (slots) and `test_model.py` (mixed precision by hand) check is not
repeated.
"""

import keras
import numpy as np
import pytest
from networks import batch, mlp, plain_cnn
from problems import eager
from quick_methods import METHODS, SCORING
from states import arrays_of

from keras_grow import GrowableModel, GrowthCallback, SimilarityPenalty
from keras_grow.core import keras_private
from keras_grow.layers import GrowableDense
from keras_grow.methods import Net2Wider, Random

pytestmark = pytest.mark.long

X = np.random.default_rng(0).normal(size=(16, 6, 6, 2)).astype("float32")
Y = np.random.default_rng(1).normal(size=(16, 3)).astype("float32")


def fit(policy="float32", method=None, **options):
    """A run of two epochs with a growth in between, from the same weights in every precision."""
    keras.utils.set_random_seed(3)
    start = plain_cnn(dropout=0).get_weights()
    keras.config.set_dtype_policy(policy)
    keras.config.set_floatx("float64" if policy == "float64" else "float32")
    try:
        model = plain_cnn(dropout=0)
        model.set_weights(start)
        model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "mse", **options)
        callback = GrowthCallback(
            0.4, every=1, method=method or Net2Wider(seed=1), penalty=SimilarityPenalty(), verbose=0
        )
        history = model.fit(X, Y, batch_size=8, epochs=2, shuffle=False, verbose=0,
                            callbacks=[callback]).history  # fmt: skip
    finally:
        keras.config.set_dtype_policy("float32")
        keras.config.set_floatx("float32")
    return model, history


WAYS = {
    "mixed_float16": ({"policy": "mixed_float16", "run_eagerly": True}, 0.02),
    "mixed_bfloat16": ({"policy": "mixed_bfloat16", "run_eagerly": True}, 0.05),
    "float64": ({"policy": "float64", "run_eagerly": True}, 1e-3),
    "xla": ({"jit_compile": True}, 1e-3),
    "graph": ({"jit_compile": False}, 1e-3),
}


@pytest.fixture(scope="module")
def as_float32():
    """The run that the others are compared with."""
    return fit(run_eagerly=True)


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_compute_trains_as_float32_does(way, as_float32):
    expected, losses = as_float32
    options, tolerance = WAYS[way]
    model, history = fit(**options)
    assert model.widths == expected.widths == model.growth_history[0].widths_after
    for name in ("loss", "similarity"):
        np.testing.assert_allclose(history[name], losses[name], rtol=tolerance)
    dtype = "float64" if way == "float64" else "float32"
    assert {v.dtype for v in model.trainable_variables} == {dtype}
    scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled is (way == "mixed_float16")
    parts = list(keras_private.optimizers_of(model.optimizer))
    assert int(parts[-1].iterations) == 4


@pytest.mark.parametrize("name", SCORING)
def test_float64_chooses_as_float32_does(name):
    method = METHODS[name](seed=1)
    expected, _ = fit(method=method, run_eagerly=True)
    model, history = fit("float64", method=method, run_eagerly=True)
    assert model.widths == expected.widths and np.all(np.isfinite(history["loss"]))


def test_growing_in_the_middle_of_an_accumulation():
    """Two steps make an update: growing between them equals growing before them."""
    ends = []
    for grow_first in (True, False):
        keras.utils.set_random_seed(5)
        model = eager(mlp(), optimizer=keras.optimizers.SGD(0.1, gradient_accumulation_steps=2))
        model.optimizer.build(model.trainable_variables)
        x, y = batch(model, 8), np.ones((8, 2), "float32")
        for step in range(2):
            if step == (0 if grow_first else 1):
                model.grow(0.6, Net2Wider(noise=0, seed=1))
            model.train_on_batch(x[4 * step : 4 * step + 4], y[:4])
        ends.append(arrays_of(model.trainable_variables))
    for first, second in zip(*ends, strict=True):
        np.testing.assert_allclose(first, second, atol=1e-6)


def test_averages_go_on_for_old_and_new_neurons():
    momentum = 0.9
    model = eager(mlp(), optimizer=keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=momentum))
    x, y = batch(model), np.ones((8, 2), "float32")
    model.train_on_batch(x, y)
    averages = keras_private.slots_of(model.optimizer)["_model_variables_moving_average"]
    old = arrays_of(averages)
    model.grow(0.6, Random(seed=1))
    for average, before in zip(averages, old, strict=True):
        kept = tuple(slice(size) for size in before.shape)
        np.testing.assert_array_equal(np.asarray(average)[kept], before)
    for _ in range(2):
        before = arrays_of(averages)
        model.train_on_batch(x, y)
        for average, was, variable in zip(averages, before, model.trainable_variables, strict=True):
            expected = momentum * was + (1 - momentum) * np.asarray(variable)
            np.testing.assert_allclose(np.asarray(average), expected, atol=1e-6)
    model.optimizer.finalize_variable_values(model.trainable_variables)
    for average, variable in zip(averages, model.trainable_variables, strict=True):
        np.testing.assert_array_equal(np.asarray(average), np.asarray(variable))


@pytest.mark.parametrize("option", ["clipnorm", "global_clipnorm"])
def test_the_step_after_a_growth_is_clipped(option):
    model = eager(mlp(), optimizer=keras.optimizers.SGD(1.0, **{option: 0.01}))
    x, y = batch(model), 100 * np.ones((8, 2), "float32")
    model.train_on_batch(x, y)
    model.grow(0.6, Net2Wider(seed=1))
    before = arrays_of(model.trainable_variables)
    model.train_on_batch(x, y)
    after = arrays_of(model.trainable_variables)
    norms = [np.linalg.norm(a - b) for a, b in zip(after, before, strict=True)]
    if option == "global_clipnorm":
        norms = [np.linalg.norm(norms)]
    np.testing.assert_allclose(norms, 0.01, rtol=1e-3)


@pytest.mark.parametrize("kind", [keras.optimizers.SGD, keras.optimizers.AdamW])
def test_weights_decay_after_a_growth_the_new_ones_too(kind):
    """Where the gradient is zero, the decay is all that moves a weight."""
    model = eager(mlp(), optimizer=kind(0.1, weight_decay=0.5))
    x, y = batch(model), np.ones((8, 2), "float32")
    nothing = np.zeros(8)
    model.train_on_batch(x, y, sample_weight=nothing)
    model.grow(0.6, Net2Wider(seed=1))
    before = arrays_of(model.trainable_variables)
    model.train_on_batch(x, y, sample_weight=nothing)
    for variable, was in zip(model.trainable_variables, before, strict=True):
        np.testing.assert_allclose(np.asarray(variable), was * (1 - 0.1 * 0.5), atol=1e-6)


def test_a_regularizer_sees_the_widened_kernel():
    model = mlp(kernel_regularizer=keras.regularizers.L2(0.3))
    eager(model, optimizer=keras.optimizers.SGD(0.0))
    x, y = batch(model), np.ones((8, 2), "float32")

    def expected():
        error = np.mean(np.square(np.asarray(model(x)) - y))
        kernels = [np.asarray(model.get_layer(f"hidden{i}").kernel) for i in (0, 1)]
        return error + 0.3 * sum(np.sum(k**2) for k in kernels)

    def loss():
        model.reset_metrics()
        return model.train_on_batch(x, y)

    before = expected()
    assert loss() == pytest.approx(before, rel=1e-5)
    model.grow(0.6, Net2Wider(seed=1))
    assert expected() != pytest.approx(before, rel=1e-2)
    assert loss() == pytest.approx(expected(), rel=1e-5)


def test_a_regularized_model_is_scored_and_grows_within_fit():
    model = mlp(kernel_regularizer=keras.regularizers.L2(0.1))
    eager(model)
    x, y = batch(model), np.ones((8, 2), "float32")
    for name in SCORING:
        callback = GrowthCallback(0.4, every=1, method=METHODS[name](), verbose=0)
        model.fit(x, y, epochs=2, callbacks=[callback], verbose=0)
    assert len(model.growth_history) == 3


@pytest.mark.parametrize("name", SCORING)
def test_what_is_scored_is_the_task(name):
    """Regularizers, of weights and of activities, don't change what is chosen."""
    ends = []
    for strength in (0.0, 5.0):
        keras.utils.set_random_seed(6)
        penalty = keras.regularizers.L2(strength)
        model = mlp(kernel_regularizer=penalty, activity_regularizer=penalty)
        model.compile(keras.optimizers.SGD(0.0), "mse")
        x, y = batch(model), np.ones((8, 2), "float32")
        model.fit(x, y, verbose=0)  # the losses of activities are now tensors of its graph
        model.grow(0.6, METHODS[name](seed=1), data=(x, y))
        ends.append(arrays_of(model.trainable_variables))
    for first, second in zip(*ends, strict=True):
        np.testing.assert_allclose(first, second, atol=1e-5)


def frozen_in_the_middle():
    inputs = keras.Input((5,))
    x = GrowableDense(4, activation="tanh", name="first")(inputs)
    x = GrowableDense(4, activation="tanh", name="frozen", trainable=False)(x)
    x = GrowableDense(4, activation="tanh", name="last")(x)
    return GrowableModel(inputs, keras.layers.Dense(2, name="head")(x))


@pytest.mark.parametrize("name", METHODS)
def test_frozen_layers_stay_as_they_are(name):
    adam = keras.optimizers.Adam(0.05, weight_decay=0.1)
    model = eager(frozen_in_the_middle(), optimizer=adam)
    x, y = batch(model), np.ones((8, 2), "float32")
    before = arrays_of(model.get_layer("frozen").variables)
    callback = GrowthCallback(0.5, every=1, method=METHODS[name](seed=1), verbose=0)
    model.fit(x, y, epochs=2, callbacks=[callback], verbose=0)
    assert model.widths == {"last": 6}
    assert model.get_layer("first").units == 4
    for a, b in zip(before, arrays_of(model.get_layer("frozen").variables), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_layer_that_is_set_free_grows():
    model = eager(frozen_in_the_middle())
    model.grow(0.5, "net2wider")
    model.get_layer("frozen").trainable = True
    eager(model)
    assert set(model.widths) == {"first", "frozen", "last"}
    assert set(model.grow(0.5, "net2wider").widths_after) == {"first", "frozen", "last"}
    model.train_on_batch(batch(model), np.ones((8, 2), "float32"))
    assert np.isfinite(model.evaluate(batch(model), np.ones((8, 2)), verbose=0))
