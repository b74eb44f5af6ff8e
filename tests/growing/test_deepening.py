"""Blocks that are the identity at first: the function, the optimizer, and everything around."""

import re

import keras
import numpy as np
import pytest
from blocks import (
    OPTIMIZERS,
    attention_branch,
    branch,
    compiled,
    conv_branch,
    data_of,
    outputs,
    relu_mlp,
    train,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import (
    batch,
    build,
    conv_bn,
    mlp,
    plain_cnn,
    random_graphs,
    randomise,
    relative_change,
    residual_cnn,
)
from states import arrays_of, assert_same_arrays

from keras_grow import GrowableModel, SimilarityPenalty
from keras_grow.layers import GrowableDense
from keras_grow.methods import Net2Wider


def names_of(variables):
    """Names without the numbers that Keras gives to those that have none."""
    return [re.sub(r"^variable_\d+$", "variable", variable.name) for variable in variables]


def sequences(kind):
    x = inputs = keras.Input((6, 3))
    x = kind(x)
    x = keras.layers.GlobalAveragePooling1D()(x)
    return GrowableModel(inputs, keras.layers.Dense(2, name="head")(x))


def causal():
    return sequences(
        keras.layers.Conv1D(4, 4, padding="causal", dilation_rate=2, activation="relu", name="c")
    )


def strided():
    return sequences(keras.layers.Conv1D(4, 2, strides=2, groups=1, activation="relu6", name="c"))


def several_steps():
    inputs = keras.Input((4, 6))
    x = keras.layers.Dense(5, name="c")(inputs)
    x = keras.layers.ReLU(name="relu")(x)
    return GrowableModel(inputs, keras.layers.Dense(2, name="head")(x))


@pytest.mark.parametrize(
    ("build", "after", "make"),
    [
        (relu_mlp, "hidden0", None),
        (relu_mlp, "hidden0", branch),
        (mlp, "hidden0", branch),
        (plain_cnn, "b", None),
        (plain_cnn, "b_act", conv_branch),
        (residual_cnn, "r1_add", conv_branch),
        (residual_cnn, "re_lu", conv_branch),
        (causal, "c", None),
        (strided, "c", None),
        (several_steps, "c", None),
        (several_steps, "relu", attention_branch),
    ],
)
@pytest.mark.quick(1)
def test_the_function_is_preserved_and_all_of_it_trains_on(build, after, make, tmp_path):
    model = train(compiled(randomise(build())))
    x, y = data_of(model)
    before, layers = outputs(model), len(model.layers)
    event = model.deepen(after, make, data=(x, y))
    assert len(model.layers) > layers
    assert event.parameters_after > event.parameters_before
    assert relative_change(before, outputs(model)) < 1e-5
    assert relative_change(before, outputs(model.to_keras())) < 1e-5
    # A new block learns, to its last layer at once, and to its first one then.
    had = arrays_of(model.trainable_variables)
    for _ in range(3):
        train(model)
    moved = [np.any(a != b) for a, b in zip(had, arrays_of(model.trainable_variables), strict=True)]
    assert all(moved[-2:]) and sum(moved) > len(moved) / 2
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert relative_change(outputs(model), outputs(loaded)) < 1e-5
    assert loaded.growth_history == model.growth_history
    assert_same_arrays(arrays_of(model.optimizer.variables), arrays_of(loaded.optimizer.variables))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.quick(1)
def test_a_step_is_that_of_a_model_built_so_deep(optimizer):
    """With the same weights and slots: those of old variables are kept, in the order of a build."""
    model = train(compiled(relu_mlp(), optimizer))
    kept = model.optimizer.variables
    values = arrays_of(kept)
    model.deepen("hidden0")
    model.deepen("hidden1", branch)
    assert {*map(id, kept)} <= {*map(id, model.optimizer.variables)}
    assert_same_arrays(arrays_of(kept), values)
    built = GrowableModel.from_config(model.get_config())
    compiled(built, optimizer)
    built.optimizer.build(built.trainable_variables)
    built.set_weights(model.get_weights())
    assert names_of(model.optimizer.variables) == names_of(built.optimizer.variables)
    for own, other in zip(model.optimizer.variables, built.optimizer.variables, strict=True):
        other.assign(own)
    data = data_of(model)
    for _ in range(2):
        for own, other in zip(
            train(model, data).get_weights(), train(built, data).get_weights(), strict=True
        ):
            np.testing.assert_allclose(own, other, rtol=1e-5, atol=1e-6)


@pytest.mark.long
@pytest.mark.skipif(not hasattr(keras.optimizers, "MultiOptimizer"), reason="not in this Keras")
def test_an_optimizer_of_blocks_alone_that_come_and_go(tmp_path):
    adam, sgd = keras.optimizers.Adam(0.01), keras.optimizers.SGD(0.05, momentum=0.9)
    model = relu_mlp()
    of_blocks = keras.optimizers.OptimizerMap(sgd, {"block.*": adam})
    model.compile(keras.optimizers.MultiOptimizer(of_blocks), "mse", run_eagerly=True)
    start = train(model).get_weights()
    for number in range(2):
        model.set_weights(start)
        train(model)
        model.deepen("hidden0", lambda x, n=number: keras.layers.Dense(4, name=f"block{n}")(x))
        assert [v.path for v in train(model).optimizer.variables if "block" in v.path] == [
            f"adam/block{number}_{what}" for what in
            ("kernel_momentum", "kernel_velocity", "bias_momentum", "bias_velocity")
        ]  # fmt: skip
    model.grow(0.5, Net2Wider(noise=0, seed=1))
    train(model).save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    data = data_of(model)
    assert_same_arrays(arrays_of(loaded.optimizer.variables), arrays_of(model.optimizer.variables))
    trained = train(loaded, data).get_weights(), train(model, data).get_weights()
    for one, other in zip(*trained, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


def test_an_average_of_new_weights_starts_at_the_weights():
    model = train(compiled(relu_mlp(), "adam"))
    model.deepen("hidden0")
    average = next(v for v in model.optimizer.variables if "hidden0_2_kernel_average" in v.path)
    np.testing.assert_array_equal(average, np.eye(4))


def test_a_normalisation_passes_training_batches_through_too():
    """It starts from the statistics of what comes in, not from none."""
    x = inputs = keras.Input((6, 6, 2))
    x = conv_bn(x, 4, "a")
    model = compiled(randomise(GrowableModel(inputs, keras.layers.Conv2D(2, 1, name="head")(x))))
    images = np.random.default_rng(0).normal(size=(32, 6, 6, 2)).astype("float32")
    x = keras.ops.convert_to_numpy(model.get_layer("a").call(images)).reshape(-1, 4)
    model.get_layer("a_bn").moving_mean.assign(x.mean(0))
    model.get_layer("a_bn").moving_variance.assign(x.var(0))
    before = keras.ops.convert_to_numpy(model(images, training=True))
    model.deepen("a", data=(images, np.zeros((32, 6, 6, 2))))
    after = keras.ops.convert_to_numpy(model(images, training=True))
    assert relative_change(before, after) < 0.02


def test_widening_after_deepening_and_deepening_after_widening():
    model = train(compiled(relu_mlp()))
    model.deepen("hidden0")
    assert model.widths == {"hidden0": 4, "hidden0_2": 4, "hidden1": 4}
    model.deepen("hidden1", branch)
    before = outputs(model)
    model.grow(0.5, Net2Wider(noise=0, seed=1))
    assert relative_change(before, outputs(model)) < 1e-5
    model.deepen("hidden0_2")
    model.grow(0.5, Net2Wider(noise=0, seed=1))
    assert relative_change(before, outputs(model)) < 1e-5
    assert model.get_layer("hidden0_2_2").units == model.widths["hidden0_2_2"]
    built = GrowableModel.from_config(model.get_config())
    assert [w.shape for w in built.get_weights()] == [w.shape for w in model.get_weights()]
    train(model)


def test_weights_from_before_a_block_take_the_model_back():
    model = train(compiled(relu_mlp(), "adam"))
    weights = [model.get_weights()]
    names = [layer.name for layer in model.layers]
    slots = {v.path: v.shape for v in model.optimizer.variables}
    model.grow(0.5, Net2Wider(noise=0, seed=1))
    weights.append(model.get_weights())
    wide = outputs(model)
    model.deepen("hidden0")
    model.grow(0.5, Net2Wider(noise=0, seed=2))
    model.deepen("hidden1", branch)
    train(model)
    model.set_weights(weights[1])
    assert [layer.name for layer in model.layers] == names and len(model.growth_history) == 1
    assert relative_change(wide, outputs(model)) < 1e-6
    model.set_weights(weights[0])
    assert not model.growth_history and model.widths == {"hidden0": 4, "hidden1": 4}
    assert {v.path: v.shape for v in model.optimizer.variables} == slots
    assert_same_arrays(model.get_weights(), weights[0])
    train(model).deepen("hidden0")
    train(model)


def test_a_callback_takes_its_weights_through_a_block():
    model = compiled(relu_mlp())
    start, before = model.get_weights(), outputs(model)
    model.grow(0.5, Net2Wider(noise=0, seed=1))
    narrow = model.get_weights()
    event = model.deepen("hidden0")
    assert_same_arrays(event.widen(narrow), model.get_weights())
    model.set_weights(model.growth_history[0].widen(start))
    assert relative_change(before, outputs(model)) < 1e-5


def test_attention_that_was_put_in_grows():
    model = train(compiled(several_steps()))
    event = model.deepen("relu", attention_branch)
    model.deepen(event.block["output"], branch)
    train(model)
    before = outputs(model)
    assert any("heads" in name for name in model.widths), model.widths
    model.grow(0.5, Net2Wider(noise=0, seed=1))
    assert relative_change(before, outputs(model)) < 1e-4
    train(model)


def test_old_weights_are_taken_to_the_present_depth():
    """Of a branch beside which another one gets longer, too: the order of layers changes then."""
    inputs = keras.Input((5,))
    a = GrowableDense(4, activation="relu", name="a2")(
        GrowableDense(3, activation="relu", name="a1")(inputs)
    )
    b = GrowableDense(4, activation="relu", name="b1")(inputs)
    x = keras.layers.Add()([a, b])
    model = compiled(GrowableModel(inputs, keras.layers.Dense(2, name="head")(x)))
    start, before = model.get_weights(), outputs(model)
    model.grow(0.5, Net2Wider(noise=0, seed=1))
    model.deepen("b1")
    model.deepen("b1")
    model.grow(0.5, Net2Wider(noise=0, seed=1))
    twin = GrowableModel.from_config(model.get_config())
    twin.set_weights(model.widen_weights(start))
    assert relative_change(before, outputs(twin)) < 1e-5
    model.set_weights(start)
    assert relative_change(before, outputs(model)) < 1e-6


def dense_or_conv(x):
    return branch(x) if len(x.shape) == 2 else conv_branch(x)


@settings(max_examples=5)
@given(random_graphs, st.integers(0, 99))
@pytest.mark.long
def test_random_graphs_get_deeper_and_wider_and_go_back(graph, choice):
    model = compiled(randomise(build(graph)))
    start, before = model.get_weights(), outputs(model)
    can = [layer.name for layer in model.layers[1:-1] if len(layer.output.shape) in (2, 4)]
    model.grow(0.4, Net2Wider(noise=0, seed=1))
    model.deepen(can[choice % len(can)], dense_or_conv)
    model.grow(0.4, Net2Wider(noise=0, seed=2))
    model.deepen(can[choice // 2 % len(can)], dense_or_conv)
    assert relative_change(before, outputs(model)) < 1e-4
    twin = GrowableModel.from_config(model.get_config())
    twin.set_weights(model.widen_weights(start))
    assert relative_change(before, outputs(twin)) < 1e-4
    model.set_weights(start)
    assert_same_arrays(model.get_weights(), start)
    assert relative_change(before, outputs(model)) < 1e-6 and not model.growth_history


@pytest.mark.tensorflow
def test_a_deeper_model_is_exported(tmp_path):
    import tensorflow as tf

    model = train(compiled(relu_mlp(), "adam"))
    model.deepen("hidden0", branch)
    train(model)
    model.export(tmp_path, verbose=False)
    x, loaded = batch(model), tf.saved_model.load(tmp_path)
    served = loaded.serve(tf.constant(x, "float32")).numpy()
    assert relative_change(outputs(model, x), served) < 1e-5


def test_other_models_go_along():
    model = train(compiled(relu_mlp()))
    extractor = keras.Model(model.input, model.get_layer("hidden1").output)
    first = keras.Model(model.input, model.get_layer("hidden0").output)
    other_inputs = keras.Input((5,))
    other = keras.Model(
        other_inputs, keras.layers.Dense(2)(model.get_layer("hidden0")(other_inputs))
    )
    inputs = keras.Input((5,))
    whole = keras.Model(inputs, keras.layers.Dense(2)(model(inputs)))
    whole.compile("adam", "mse", run_eagerly=True)
    x, y = data_of(whole)
    whole.fit(x, y, verbose=0)
    models = [extractor, first, other, whole]
    before = [outputs(each, x) for each in models]
    other_layers = len(other.layers)
    model.deepen("hidden0")
    for each, value in zip(models, before, strict=True):
        assert relative_change(value, outputs(each, x)) < 1e-6
    assert len(other.layers) == other_layers and len(first.layers) == 2
    block = model.get_layer("hidden0_2")
    assert block in extractor.layers
    old = block.kernel.numpy()
    whole.fit(x, y, verbose=0)
    assert np.any(block.kernel.numpy() != old)
    assert relative_change(outputs(model, x), model.predict(x, verbose=0)) < 1e-6


def broken_rebuild(monkeypatch):
    def fail(*arguments):
        raise RuntimeError("broken")

    monkeypatch.setattr("keras_grow.growing.deepening.keras_private.know_layers", fail)


def test_a_failure_on_the_way_changes_nothing(monkeypatch):
    model = train(compiled(relu_mlp(), "adam"))
    twin = GrowableModel.from_config(model.get_config())
    compiled(twin, "adam").optimizer.build(twin.trainable_variables)
    twin.set_weights(model.get_weights())
    for own, other in zip(model.optimizer.variables, twin.optimizer.variables, strict=True):
        other.assign(own)
    model.arm(SimilarityPenalty(weight=0.0, weight_sum=0.0))
    window, layers, variables = model.penalty_window, model.layers, model.optimizer.variables
    config = model.get_config()
    with monkeypatch.context() as patch:
        broken_rebuild(patch)
        with pytest.raises(RuntimeError, match="broken"):
            model.deepen("hidden0", branch)
    assert model.layers == layers and model.penalty_window is window and not model.growth_history
    assert list(map(id, model.optimizer.variables)) == list(map(id, variables))
    assert model.get_config() == config
    data = data_of(model)
    for mine, theirs in zip(
        train(model, data).get_weights(), train(twin, data).get_weights(), strict=True
    ):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)
    model.deepen("hidden0", branch)
    train(model)
