"""A widened copy computes what the model would, were it widened, and changes nothing."""

import keras
import numpy as np
import pytest
from networks import NETWORKS, randomise
from problems import compiled, problem

from keras_grow import GrowableModel
from keras_grow.channels.graph import find_groups
from keras_grow.growing.resizing import widen_model
from keras_grow.methods import Random
from keras_grow.methods.widened_copy import WidenedCopy


def widened(name, policy="float32"):
    """Returns a model, data, a copy with more channels, and their values."""
    keras.config.set_dtype_policy(policy)
    try:
        model = compiled(randomise(NETWORKS[name]()))
    finally:
        keras.config.set_dtype_policy("float32")
    graph, data = find_groups(model), problem(model)
    chosen = []

    class Keep(Random):
        def choose(self, *args, **kwargs):
            chosen.extend(super().choose(*args, **kwargs))
            return []

    model.grow(0.6, Keep("small", seed=1))
    copy = WidenedCopy(graph, chosen)
    return model, data, copy, copy.values(copy.present, {w.group: w for w in chosen}), chosen


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.quick(2)
def test_outputs_loss_and_moments_are_those_of_the_widened_model(name):
    model, (x, y), copy, values, chosen = widened(name)
    before = [keras.ops.convert_to_numpy(v) for v in model.variables]
    outputs, loss = copy.outputs(values, x), copy.loss(values, x, y, None)
    halves = [(x[:12], y[:12], None), (x[12:], y[12:], None)]
    moments = copy.measure(values, halves)
    for value, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(value, keras.ops.convert_to_numpy(variable))
    widen_model(model, find_groups(model), chosen)
    np.testing.assert_allclose(outputs, model(x, training=False), rtol=1e-4, atol=1e-5)
    assert float(loss) == pytest.approx(model.evaluate(x, y, verbose=0), rel=1e-4)
    norms = [layer for layer in model.layers if hasattr(layer, "moving_variance")]
    assert set(moments) == {layer.name for layer in norms}
    for layer in norms:
        inputs = keras.Model(model.input, layer.input)(x, training=False)
        inputs = keras.ops.convert_to_numpy(inputs)
        mean, variance = inputs.mean((0, 1, 2)), inputs.var((0, 1, 2))
        measured = moments[layer.name]
        np.testing.assert_allclose(measured["moving_mean"], mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(measured["moving_variance"], variance, rtol=1e-3)


def test_half_precision_is_computed_in_float32():
    _, (x, _), copy, values, _ = widened("plain", "mixed_float16")
    outputs = copy.outputs(values, x)
    assert keras.backend.standardize_dtype(outputs.dtype) == "float32"


def test_a_model_of_several_inputs_and_outputs():
    left, right = keras.Input((3,), name="left"), keras.Input((4,), name="right")
    x = keras.layers.Concatenate()([left, right])
    x = keras.layers.BatchNormalization(name="norm")(x)
    outputs = {name: keras.layers.Dense(2, name=name)(x) for name in ("one", "two")}
    model = GrowableModel.from_keras(keras.Model({"left": left, "right": right}, outputs))
    model.compile("sgd", {"one": "mse", "two": "mse"})
    data = {"left": np.ones((5, 3), "float32"), "right": np.ones((5, 4), "float32")}
    targets = {name: np.ones((5, 2), "float32") for name in ("one", "two")}
    copy = WidenedCopy(find_groups(model), [])
    outputs = copy.outputs([], data)
    assert set(outputs) == {"one", "two"}
    expected = sum(np.mean((keras.ops.convert_to_numpy(v) - 1) ** 2) for v in outputs.values())
    assert float(copy.loss([], data, targets, None)) == pytest.approx(expected, rel=1e-5)
