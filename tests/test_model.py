"""GrowableModel: conversion, saving, growth by hand, the penalty in its train step."""

import keras
import numpy as np
import pytest
from networks import NETWORKS, batch, mlp, plain_cnn, randomise
from problems import compiled, eager
from states import arrays_of, assert_same_arrays

from keras_grow import GrowableModel, GrowthEvent, SimilarityPenalty
from keras_grow.channels.graph import find_groups
from keras_grow.penalty.similarity import mean_similarity
from keras_grow.penalty.window import penalised_kernels


def slow_but(names, quick):
    """The names as parameters, all of them slow but one."""
    return [name if name == quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


def sequential():
    return keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            keras.layers.Conv2D(4, 3, name="a"),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.DepthwiseConv2D(3),
            keras.layers.Flatten(),
            keras.layers.Dense(5, activation="relu", name="b"),
            keras.layers.Dense(3, name="head"),
        ]
    )


def test_a_sequential_model_becomes_growable_with_its_weights():
    plain = randomise(sequential())
    model = GrowableModel.from_keras(plain)
    assert model.widths == {"a": 4, "b": 5}
    x = batch(plain)
    np.testing.assert_allclose(model(x), plain(x), atol=1e-6)
    eager(model).grow(0.5, "net2wider")
    np.testing.assert_allclose(plain(x), GrowableModel.from_keras(plain)(x), atol=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_to_plain_layers_and_back(name):
    model = eager(randomise(NETWORKS[name]()))
    model.grow(0.5, "net2wider")
    plain = model.to_keras()
    assert not any(type(layer).__module__.startswith("keras_grow") for layer in plain.layers)
    assert type(plain).__name__ == "Functional"
    x = batch(model)
    np.testing.assert_allclose(model(x), plain(x), atol=1e-5)
    assert GrowableModel.from_keras(plain).widths == model.widths


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", slow_but(NETWORKS, "depthwise"))
def test_plain_layers_are_exported(name, tmp_path):
    tf = pytest.importorskip("tensorflow")
    model = compiled(randomise(NETWORKS[name]()))
    model.grow(0.5, "net2wider")
    plain, x = model.to_keras(), batch(model)
    plain.export(tmp_path / "exported", verbose=False)
    exported = tf.saved_model.load(tmp_path / "exported")
    np.testing.assert_allclose(exported.serve(x), plain(x), atol=1e-5)


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        ("a string", TypeError, "Expected a `keras.Model`"),
        (lambda: keras.Sequential([keras.layers.Dense(2)]), ValueError, "is not built"),
        (lambda: type("Own", (keras.Model,), {})(), TypeError, "Only Functional and Sequential"),
    ],
)
def test_what_cannot_be_converted(model, error, message):
    with pytest.raises(error, match=message):
        GrowableModel.from_keras(model() if callable(model) else model)


@pytest.mark.quick(1)
@pytest.mark.parametrize("name", NETWORKS)
def test_saving_and_loading_a_grown_model(name, tmp_path):
    model = eager(NETWORKS[name]())
    x, y = batch(model), np.zeros((8, model.output_shape[-1]))
    model.fit(x, y, verbose=0)
    model.grow(0.5, "random")
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    assert type(again) is GrowableModel
    assert again.growth_history == model.growth_history
    assert_same_arrays(arrays_of(model.weights), arrays_of(again.weights))
    again.grow(0.5, "net2wider")
    again.fit(x, y, verbose=0)


def test_an_event_is_data():
    event = eager(plain_cnn()).grow(0.5, "random")
    assert GrowthEvent.from_dict(event.to_dict()) == event
    assert (event.neurons_before, event.neurons_after) == (15, 22)
    assert event.rate == 0.5 and event.method == "random" and event.epoch is None


def test_the_layers_that_are_penalised():
    model = NETWORKS["depthwise"]()
    names = {v.path for v, _ in penalised_kernels(find_groups(model))}
    assert names == {"stem/kernel", "dw/kernel", "pw/kernel"}
    # An untrainable layer freezes the group that it produces and the one that it consumes.
    model.get_layer("pw").trainable = False
    assert penalised_kernels(find_groups(model)) == []


def test_the_similarity_of_a_model_is_the_mean_over_its_layers():
    model = plain_cnn()
    kernels = [model.get_layer(name).kernel for name in "abc"]
    expected = np.mean([float(mean_similarity(kernel)) for kernel in kernels])
    assert model.similarity == pytest.approx(expected, rel=1e-5)


@pytest.mark.tensorflow
def test_the_train_step_descends_the_loss_plus_the_penalty():
    """One step of plain SGD against the gradient of the sum, taken apart."""
    tf = pytest.importorskip("tensorflow")
    model = eager(mlp(hidden=(6, 4)), optimizer=keras.optimizers.SGD(1.0))
    x, y = batch(model), np.ones((8, 2), "float32")
    penalty = SimilarityPenalty(weight=0.7, weight_sum=0.0, epochs=1)
    model.arm(penalty)
    kernels = [model.get_layer(f"hidden{i}").kernel for i in (0, 1)]
    before = arrays_of(model.trainable_variables)
    with tf.GradientTape() as tape:
        task = tf.reduce_mean(tf.square(model(x) - y))
        loss = task + 0.7 * sum(mean_similarity(k) for k in kernels) / 2
    gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
    logs = model.train_on_batch(x, y, return_dict=True)
    assert logs["loss"] == pytest.approx(float(task), rel=1e-5)  # what a monitor is to see
    for v, old, gradient in zip(model.trainable_variables, before, gradients, strict=True):
        np.testing.assert_allclose(v, old - gradient, atol=1e-5)


def test_evaluation_and_other_losses_have_no_penalty():
    model = eager(mlp())
    x, y = batch(model), np.ones((8, 2))
    before = model.evaluate(x, y, verbose=0)
    model.arm(SimilarityPenalty(weight=10.0))
    assert model.evaluate(x, y, verbose=0) == pytest.approx(before)


@pytest.mark.parametrize("reference", ["step", "growth"])
def test_what_the_drift_is_measured_against(reference):
    model = eager(mlp(), optimizer=keras.optimizers.SGD(0.5))
    x, y = batch(model), np.ones((8, 2))
    model.arm(SimilarityPenalty(weight=0, weight_sum=0, epochs=1, reference=reference))
    start = model.penalty_window.get_config()["sums"]
    now = [float(keras.ops.sum(k)) for k, _ in penalised_kernels(find_groups(model))]
    np.testing.assert_allclose(start, now, rtol=1e-5)
    model.train_on_batch(x, y)
    np.testing.assert_allclose(model.penalty_window.get_config()["sums"], start, rtol=1e-6)
    after_one = [float(keras.ops.sum(k)) for k, _ in penalised_kernels(find_groups(model))]
    model.train_on_batch(x, y)
    expected = after_one if reference == "step" else start
    np.testing.assert_allclose(model.penalty_window.get_config()["sums"], expected, rtol=1e-5)


@pytest.mark.parametrize("policy", slow_but(["mixed_float16", "mixed_bfloat16"], "mixed_float16"))
def test_mixed_precision(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = compiled(plain_cnn())
    finally:
        keras.config.set_dtype_policy("float32")
    x, y = batch(model), np.zeros((8, 3))
    model.fit(x, y, verbose=0)
    model.grow(0.5, "net2wider")
    model.arm(SimilarityPenalty())
    history = model.fit(x, y, verbose=0, epochs=2).history
    assert np.all(np.isfinite(history["loss"]))
    assert all(v.dtype == "float32" for v in model.trainable_variables)


def test_float64():
    keras.config.set_floatx("float64")
    try:
        model = eager(plain_cnn())
        x = batch(model).astype("float64")
        before = np.asarray(model(x))
        from keras_grow.methods import Net2Wider

        model.grow(0.5, Net2Wider(noise=0))
        np.testing.assert_allclose(model(x), before, rtol=1e-12, atol=1e-12)
        model.fit(x, np.zeros((8, 3)), verbose=0)
    finally:
        keras.config.set_floatx("float32")


def test_a_report_can_be_read():
    model = plain_cnn()
    lines = str(model.growth_report()).splitlines()
    assert lines[0].split() == ["layer", "type", "group", "width", "growable"]
    assert len({line.index("GrowableConv2D") for line in lines if "GrowableConv2D" in line}) == 1


BAD_CALLS = [
    (lambda: {"rate": 0}, ValueError, "`rate` must be a positive number"),
    (lambda: {"rate": -0.1}, ValueError, "Received: rate=-0.1"),
    (lambda: {"rate": float("nan")}, ValueError, "Received: rate=nan"),
    (lambda: {"rate": float("inf")}, ValueError, "Received: rate=inf"),
    (lambda: {"rate": "much"}, TypeError, "`rate` must be a number"),
    (lambda: {"rate": True}, TypeError, "`rate` must be a number"),
    (lambda: {"rate": 0.5, "method": "magic"}, ValueError, r"Known methods: .*'net2wider'"),
    (lambda: {"rate": 0.5, "method": 3}, TypeError, "name of a growth method"),
    (lambda: {"rate": 0.5, "max_params": 0}, ValueError, "`max_params` must be a positive"),
    (lambda: {"rate": 0.5, "max_params": 1.5}, TypeError, "`max_params` must be a positive"),
    (lambda: {"rate": 0.5, "max_widths": {"a": -1}}, ValueError, "max_widths"),
    (lambda: {"rate": 0.5, "max_widths": {"z": 9}}, ValueError, "no group named 'z'"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD_CALLS)
def test_bad_arguments_change_nothing(arguments, error, message):
    model = eager(plain_cnn())
    widths = model.widths
    with pytest.raises(error, match=message):
        model.grow(**arguments())
    assert model.widths == widths and model.growth_history == []


def test_growing_before_compile():
    with pytest.raises(ValueError, match="must be compiled before it can grow"):
        plain_cnn().grow(0.5, "random")


def test_growing_what_cannot_grow():
    tensor = keras.Input((4,))
    model = eager(GrowableModel(tensor, keras.layers.Dense(2, name="out")(tensor)))
    with pytest.raises(ValueError, match=r"has nothing to grow(.|\n)*output of the model|Dense"):
        model.grow(0.5, "random")
