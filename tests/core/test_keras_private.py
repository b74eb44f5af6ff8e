"""What Keras keeps private, and `keras_private.py` relies on: one test for each."""

import inspect
from contextlib import ExitStack

import keras
import numpy as np
import pytest
from networks import batch, dense_cnn, mlp, plain_cnn

from keras_grow import GrowableModel
from keras_grow.backend import TrainSteps
from keras_grow.core import keras_private

# JAX has it only where it is asked for before anything else.
FLOAT64 = pytest.param("float64", marks=pytest.mark.tensorflow)


def trained(optimizer):
    model = mlp()
    model.compile(optimizer, "mse")
    model.fit(batch(model), np.zeros((8, 2)), verbose=0)
    return model


def test_the_calls_of_a_model_come_inputs_first():
    model = dense_cnn()
    calls = keras_private.calls_of(model)
    assert [call.operation for call in calls] == model.layers[1:]
    seen = {id(tensor) for tensor in model.inputs}
    for call in calls:
        assert all(id(tensor) in seen for tensor in call.inputs)
        seen |= {id(tensor) for tensor in call.outputs}
    assert all(id(tensor) in seen for tensor in model.outputs)


def test_arguments_hold_the_constants():
    inputs = keras.Input((2,))
    outputs = inputs * np.float32(3)
    (call,) = keras_private.calls_of(keras.Model(inputs, outputs))
    assert any(isinstance(argument, np.floating) for argument in call.arguments)


def test_the_calls_of_a_model_can_be_run_with_changes():
    """As the model itself, masks included, and without a node more on its layers."""
    inputs = {"words": keras.Input((4,), name="words"), "more": keras.Input((1,), name="more")}
    x = keras.layers.Embedding(5, 3, mask_zero=True, name="embedding")(inputs["words"])
    relu = keras.layers.ReLU(name="relu")
    x = relu(relu(x) - 0.01)
    x = keras.layers.GlobalAveragePooling1D(name="mean")(x)
    x = keras.layers.Dropout(0.5)(keras.layers.Concatenate()([x, inputs["more"]]), training=True)
    model = keras.Model(inputs, {"out": keras.layers.Dense(2, name="out")(x)})
    data = {"words": np.array([[1, 2, 0, 0], [3, 0, 0, 0]]), "more": np.ones(2, "float32")}
    nodes = [len(layer._inbound_nodes) for layer in model.layers]
    shifted = model.get_layer("embedding").output

    def change(tensor, value):
        return value + 1.0 if tensor is shifted else value

    outputs, values = keras_private.run_calls(model, data, lambda tensor, value: value)
    expected = model(data, training=False)
    np.testing.assert_allclose(outputs["out"], expected["out"], rtol=1e-6)
    assert len(keras_private.standard_inputs(model, data)[0].shape) == 2
    assert values[id(shifted)].shape == (2, 4, 3)
    outputs, _ = keras_private.run_calls(model, data, change)
    table = model.get_layer("embedding").embeddings
    table.assign(table + 1.0)
    expected = model(data, training=False)
    np.testing.assert_allclose(outputs["out"], expected["out"], rtol=1e-5)
    assert nodes == [len(layer._inbound_nodes) for layer in model.layers]


def test_a_variable_takes_a_value_of_another_shape():
    variable = keras.Variable(np.ones((2, 3), "float32"))
    held = keras_private.resize(variable, np.zeros((2, 5), "float32"))
    assert variable.shape == (2, 5) and variable.value.shape == (2, 5)
    np.testing.assert_array_equal(variable, 0)
    variable.assign(np.ones((2, 5)))
    keras_private.put_back(held)
    assert variable.shape == (2, 3)
    np.testing.assert_array_equal(variable, 1)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", FLOAT64, "int32"])
def test_a_resized_variable_keeps_its_dtype(dtype):
    variable = keras.Variable(np.ones(2), dtype=dtype)
    keras_private.resize(variable, np.array(variable)[[0, 1, 1]])
    assert variable.dtype == dtype and variable.shape == (3,)


def test_shapes_follow_the_widths():
    model = plain_cnn()
    layer = model.get_layer("a")
    keras_private.resize(layer.kernel, np.zeros((3, 3, 2, 7), "float32"))
    layer.filters = 7
    keras_private.refresh_shapes(model)
    assert layer.output.shape == (None, 6, 6, 7)
    assert model.get_layer("a_bn").input_spec.axes == {-1: 7}
    assert model.get_layer("b").input_spec.axes == {-1: 7}
    assert tuple(model.get_layer("b").get_build_config()["input_shape"]) == (None, 3, 3, 7)


def test_refreshing_shapes_records_no_calls():
    model = plain_cnn()
    before = [len(layer._inbound_nodes) for layer in model.layers]
    keras_private.refresh_shapes(model)
    assert [len(layer._inbound_nodes) for layer in model.layers] == before


def test_optimizers_are_found_inside_others():
    inner = keras.optimizers.Adam()
    assert list(keras_private.optimizers_of(keras.optimizers.LossScaleOptimizer(inner)))[1] is inner
    assert list(keras_private.optimizers_of(None)) == []


def test_slots_run_parallel_to_the_trained_variables():
    model = trained(keras.optimizers.Adam(use_ema=True))
    slots = keras_private.slots_of(model.optimizer)
    assert set(slots) == {"_momentums", "_velocities", "_model_variables_moving_average"}
    variables = keras_private.trained_variables(model.optimizer)
    assert [v.path for v in variables] == [v.path for v in model.trainable_variables]
    for values in slots.values():
        assert [slot.shape for slot in values] == [v.shape for v in variables]
    known = {id(slot) for values in slots.values() for slot in values}
    assert all(id(v) in known for v in keras_private.own_variables(model.optimizer) if v.ndim)


@pytest.mark.tensorflow
def test_an_optimizer_finds_resized_variables_again():
    model = trained(keras.optimizers.SGD(momentum=0.9))
    variable = model.trainable_variables[0]
    index = model.optimizer._get_variable_index(variable)
    keras_private.resize(variable, np.array(variable))
    with pytest.raises(KeyError):
        model.optimizer._get_variable_index(variable)
    keras_private.rekey(model.optimizer)
    assert model.optimizer._get_variable_index(variable) == index


def test_compiled_functions_are_made_anew():
    model = trained("sgd")
    before = model.train_function
    keras_private.forget_compiled_functions(model)
    assert model.train_function is not None and model.train_function is not before
    assert model.test_function is None and model.predict_function is None
    fresh = mlp()
    keras_private.forget_compiled_functions(fresh)
    assert fresh.train_function is None


def test_seed_states_are_those_of_the_layers():
    model = plain_cnn()
    (state,) = keras_private.seed_states(model)
    before = np.array(state)
    model(batch(model), training=True)
    assert not np.array_equal(before, np.array(state))
    state.assign(before)
    first = model(batch(model), training=True)
    state.assign(before)
    np.testing.assert_array_equal(first, model(batch(model), training=True))


def test_the_global_seed_state_is_that_of_the_global_draws():
    assert (
        keras_private.global_seed_state() is None
    )  # nothing has drawn since the session was cleared
    state = keras_private.global_seed_state(make=True)
    assert keras_private.global_seed_state() is state
    before = np.array(state)
    first = keras.random.normal((3,))
    assert not np.array_equal(before, np.array(state))
    state.assign(before)
    np.testing.assert_array_equal(first, keras.random.normal((3,)))


def test_fit_starts_at_the_epoch_that_is_set_as_it_begins():
    model = trained("sgd")
    x, y = batch(model), np.zeros((8, 2))
    begin = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: keras_private.set_first_epoch(model, 2)
    )
    assert model.fit(x, y, epochs=4, verbose=0, callbacks=[begin]).epoch == [2, 3]
    keras_private.set_first_epoch(model, None)
    assert model.fit(x, y, epochs=1, verbose=0).epoch == [0]


@pytest.mark.tensorflow
@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_iterators_that_fit_makes_of_a_data_set(epochs, monkeypatch):
    tf = pytest.importorskip("tensorflow")
    model = trained("sgd")
    data = tf.data.Dataset.from_tensors((batch(model), np.zeros((8, 2))))
    assert int(data.cardinality()) == 1
    made = []
    make = tf.data.Dataset.__iter__
    monkeypatch.setattr(tf.data.Dataset, "__iter__", lambda self: made.append(self) or make(self))
    model.fit(data, epochs=epochs, shuffle=False, verbose=0)
    assert len(made) == keras_private.iterators_of(epochs)


def test_metrics_have_their_variables_before_the_first_step():
    model = mlp()
    model.compile("sgd", "mse", metrics=["mae"])
    assert len(model.metrics_variables) == 2  # the loss alone
    keras_private.build_metrics(model, (batch(model), np.zeros((8, 2), "float32")))
    names = [v.path for v in model.metrics_variables]
    model.fit(batch(model), np.zeros((8, 2)), verbose=0)
    assert [v.path for v in model.metrics_variables] == names and len(names) == 4


@pytest.mark.tensorflow
def test_a_model_is_built_from_a_batch_where_several_processes_train_it():
    """What `TrainSteps` overrides; tests/test_distribution.py has it at work."""
    build = keras.Model._maybe_symbolic_build
    assert list(inspect.signature(build).parameters) == ["self", "iterator", "data_batch"]
    order = GrowableModel.__mro__
    assert order.index(TrainSteps) < order.index(keras.Model)


ATTENTIONS = {
    "heads": keras.layers.MultiHeadAttention(2, 4, 3, output_shape=6, use_gate=True),
    "grouped": keras.layers.GroupQueryAttention(4, 4, 2, use_gate=True),
}


@pytest.mark.parametrize("name", ATTENTIONS)
def test_attention_holds_its_sizes_where_it_is_said_to(name):
    layer = ATTENTIONS[name]
    inputs = keras.Input((5, 6))
    layer(inputs, inputs)
    names = keras_private.ATTENTION[type(layer)]
    for attribute in names.heads + names.key + names.value + names.query_heads:
        assert isinstance(getattr(layer, attribute), int)
    assert getattr(layer, names.scale) == 0.5 and hasattr(layer, names.outputs)
    heads = [4, 2, 2, 4] if name == "grouped" else [2, 2, 2, 2]
    parts = keras_private.projections_of(layer)
    assert list(parts) == ["query", "key", "value", "gate", "output"]
    assert [parts[p][1].kernel.shape[-2] for p in ("query", "key", "value", "gate")] == heads
    assert all(getattr(layer, attribute) is dense for attribute, dense in parts.values())
    assert parts["output"][1].kernel.shape[0] == heads[0]


def test_an_einsum_kernel_is_drawn_by_the_axes_that_are_summed_over():
    layer = keras.layers.MultiHeadAttention(2, 4)
    inputs = keras.Input((5, 6))
    layer(inputs, inputs)
    drawn = keras_private.initializer_of(layer.query_dense, "kernel")
    assert (list(drawn.input_axes), list(drawn.output_axes)) == ([0], [1, 2])
    out = keras_private.initializer_of(layer.output_dense, "kernel")
    assert (list(out.input_axes), list(out.output_axes)) == ([0, 1], [2])
    assert keras_private.initializer_of(layer.query_dense, "bias") is not None
    assert keras_private.initializer_of(keras.layers.ReLU(), "kernel") is None


def test_the_shapes_of_a_layer_with_several_inputs_are_kept_up_to_date():
    queries, values = keras.Input((5, 6)), keras.Input((5, 4))
    layer = keras.layers.MultiHeadAttention(2, 4)
    model = keras.Model([queries, values], layer(value=values, query=queries))
    (call,) = keras_private.calls_of(model)
    assert call.named["query"] is queries and call.named["value"] is values
    layer._build_shapes_dict.update({"query_shape": (None, 5, 1), "value_shape": (None, 5, 1)})
    keras_private.refresh_shapes(model)
    assert layer.get_build_config()["shapes_dict"]["query_shape"] == (None, 5, 6)
    assert layer.get_build_config()["shapes_dict"]["value_shape"] == (None, 5, 4)


def test_a_call_that_reads_another_tensor_and_back():
    """The model then finds its layers as one that is built like that finds them."""
    inputs = keras.Input((3,))
    first, last = keras.layers.Dense(3, name="first"), keras.layers.Dense(2, name="last")
    model = keras.Model(inputs, last(first(inputs)))
    x = np.ones((2, 3), "float32")
    before = keras.ops.convert_to_numpy(model(x))
    between = keras.layers.Dense(3, name="between")
    (reader,) = keras_private.readers_of(model, first.output)
    tensor = between(first.output)
    undo = ExitStack()
    keras_private.redirect(undo, reader, first.output, tensor)
    keras_private.remap(undo, model)
    assert keras_private.has_calls(model, [reader]) and last.input is tensor
    assert [layer.name for layer in model.layers[1:]] == ["first", "between", "last"]
    assert [v.path for v in model.weights[2:4]] == ["between/kernel", "between/bias"]
    np.testing.assert_allclose(model(x), last(between(first(x))), atol=1e-6)
    undo.close()
    assert len(model.weights) == 4 and last.input is first.output
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(model(x)), before)


def test_an_optimizer_that_is_built_again_keeps_what_it_has():
    model = trained(keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam()))
    optimizer = model.optimizer
    held = optimizer.variables
    put_back = [keras_private.hold_optimizer(o) for o in keras_private.optimizers_of(optimizer)]
    new = keras.Variable([1.0, 2.0], name="new")
    keras_private.rebuild(optimizer, [new, *model.trainable_variables])
    assert {*map(id, held)} < {*map(id, optimizer.variables)}
    assert len(optimizer.variables) == len(held) + 2  # a momentum and a velocity
    optimizer.apply([keras.ops.zeros(v.shape) for v in [new, *model.trainable_variables]])
    for each in put_back:
        each()
    assert [*map(id, optimizer.variables)] == [*map(id, held)]
    model.fit(batch(model), np.zeros((8, 2)), verbose=0)
