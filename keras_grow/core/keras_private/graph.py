"""Running a Functional model call by call, and its static shapes (Keras 3.15)."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Collection, Sequence
from typing import Any

import keras
from keras.src import backend as keras_backend

from keras_grow.backend import is_out_of_memory, released_gradients
from keras_grow.core.keras_private.calls import (
    graph_of,
    input_layers,
    named_arguments,
    nodes_of,
    placed_nodes,
)
from keras_grow.core.keras_private.inner_calls import (
    Call,
    inner_calls,
    is_recurrent,
    refresh_states,
)


def standard_inputs(model: keras.Model, x: Any) -> list:
    """Returns inputs as a Functional model hands them to its first layers.

    Relies on `Functional._standardize_inputs` (keras/src/models/functional.py).
    """
    return model._standardize_inputs(x)


def run_calls(
    model: keras.Model,
    x: Any,
    change: Callable[[keras.KerasTensor, Any], Any] = lambda tensor, value: value,
    see: Callable[[Any, Sequence], None] = lambda operation, inputs: None,
) -> tuple[Any, dict[int, Any]]:
    """Runs a Functional model in inference, with what its calls return open to change.

    No node is added to its layers. Relies on `operation_fn` and `Functional._outputs_struct`
    (keras/src/models/functional.py), and on masks being attributes of tensors
    (keras/src/backend/common/masking.py).

    Args:
        model: The model.
        x: Its inputs.
        change: Takes a symbolic tensor and its value, and returns the value that later calls see.
        see: Takes each operation and what goes into it, before it is called.

    Returns:
        The outputs, and `id` of each symbolic tensor -> its value: the last, in a model within the
        model that is called more than once.
    """
    from keras.src.backend.common.masking import get_keras_mask, set_keras_mask
    from keras.src.models.functional import operation_fn, unpack_singleton

    values = dict(zip(map(id, model.inputs), standard_inputs(model, x), strict=True))
    for placed in placed_nodes(model):
        operation = placed.node.operation
        see(operation, [values[id(tensor)] for tensor in placed.inputs])
        args, kwargs = placed.arguments(values)
        outputs = operation_fn(operation, training=False)(*args, **kwargs)
        for tensor, value in zip(placed.outputs, keras.tree.flatten(outputs), strict=True):
            changed = change(tensor, value)
            if changed is not value and get_keras_mask(value) is not None:
                set_keras_mask(changed, get_keras_mask(value))
            values[id(tensor)] = changed
    outputs = keras.tree.map_structure(lambda t: values[id(t)], model._outputs_struct)
    return unpack_singleton(outputs), values


def shapes_within(model: keras.Model, shapes: Sequence[tuple]) -> dict[int, tuple]:
    """Returns `id` of each symbolic tensor -> its shape, for shapes of the model's inputs."""
    known = {
        id(tensor): keras.KerasTensor(shape, tensor.dtype, record_history=False)
        for tensor, shape in zip(model.inputs, shapes, strict=True)
    }
    for placed in placed_nodes(model):
        args, kwargs = placed.arguments(known)
        specs = keras.tree.flatten(placed.node.operation.compute_output_spec(*args, **kwargs))
        known.update(zip(map(id, placed.outputs), specs, strict=True))
    return {tensor: tuple(spec.shape) for tensor, spec in known.items()}


def refresh_shapes(model: keras.Model) -> None:
    """Brings every static shape of a Functional model up to date with its layers' widths.

    Updates the symbolic tensors (`summary()`, `layer.output`), the layers' `input_spec` and the
    input shapes that they save as their build config; those of models within the model, too. Relies
    on `KerasTensor._shape` (keras/src/backend/common/keras_tensor.py), `SymbolicArguments.fill_in`
    (keras/src/ops/symbolic_arguments.py) and `Layer._build_shapes_dict`
    (keras/src/layers/layer.py).
    """
    for node in nodes_of(graph_of(model)):
        named = named_arguments(node)
        _refresh_layer(Call(node.operation, node.input_tensors, node.outputs, (), "", named))
        # Stand-ins of the same shapes: a symbolic call on the model's own tensors would record
        # another node.
        stand_ins = {
            id(t): keras.KerasTensor(t.shape, t.dtype, record_history=False)
            for t in node.input_tensors
        }
        args, kwargs = node.arguments.fill_in(stand_ins)
        specs = keras.tree.flatten(node.operation.compute_output_spec(*args, **kwargs))
        for tensor, spec in zip(node.outputs, specs, strict=True):
            tensor._shape = spec.shape


def copy_operation(operation: keras.Operation) -> keras.Operation:
    """Copies an operation that is no layer: it holds the arguments of its calls, and no state.

    Relies on `Operation._inbound_nodes` and `_outbound_nodes` (keras/src/ops/operation.py).
    """
    copy = object.__new__(type(operation))
    vars(copy).update(vars(operation), _inbound_nodes=[], _outbound_nodes=[])
    return copy


@functools.cache
def attributes_of_layers() -> frozenset[str]:
    """Returns the names of what every layer or Functional model holds of Keras's own.

    Relies on `Layer.__new__` (keras/src/layers/layer.py) putting `build` and `quantize` there.
    """
    inputs = keras.Input((1,), name="inputs")
    model = keras.Model(inputs, inputs, name="model")
    model.compile("sgd", "mse")
    held = {*vars(keras.Layer(name="layer")), *vars(model)}
    later = {"_build_shapes_dict", "_functional", "_tracker", "history", "stop_training"}
    # Not arguments of every layer, but what can be set on any.
    settable = {"activity_regularizer", "autocast", "supports_jit"}
    return frozenset(held | later) - settable


def recorded_arguments(layer: keras.Layer) -> dict[str, Any]:
    """Returns the arguments that a layer was made with, where Keras could record them.

    `keras.Model.get_config` leaves them out. Relies on `Operation._auto_config`
    (keras/src/ops/operation.py).
    """
    recorded = getattr(layer, "_auto_config", None)
    return {} if recorded is None else dict(recorded.config)


def set_argument(operation: keras.Operation, name: str, value: Any) -> None:
    """Sets an argument that an operation was made with, also where it was recorded to be saved.

    Relies on `Operation._auto_config` (keras/src/ops/operation.py).
    """
    setattr(operation, name, value)
    recorded = getattr(operation, "_auto_config", None)
    if recorded is not None and name in recorded.config:
        recorded = copy.copy(recorded)  # a copy of the operation may hold the same
        value = keras.saving.serialize_keras_object(value)
        recorded.config = {**recorded.config, name: value}
        operation._auto_config = recorded


def layers_within(model: keras.Model) -> list[keras.Layer]:
    """Returns a model and all layers in it, at any depth.

    Relies on `Layer._flatten_layers` (keras/src/layers/layer.py).
    """
    return list(model._flatten_layers())


def check_calls(model: keras.Model, around: Collection[Any] | None = None) -> None:
    """Calls operations of a Functional model symbolically, in training, at their present shapes.

    `refresh_shapes` asks layers for their shapes, which most of them compute without a call.
    Relies on `compute_output_spec` of the backend (keras/src/backend/*/core.py), in whose scope
    nothing is assigned.

    Args:
        model: The model.
        around: The operations to call, or what calls those. Defaults to all.

    Raises:
        ValueError: if a call fails, naming the operation.
    """
    wanted = None if around is None else set(map(id, around))
    chosen = [n for n in nodes_of(graph_of(model)) if wanted is None or _within(n, wanted)]
    tensors = {id(t): t for node in chosen for t in node.input_tensors}
    inputs = set(map(id, model.inputs))

    def sparse(tensor: keras.KerasTensor) -> bool:
        """Only of inputs: Keras takes `x * 2` for sparse, whatever x is."""
        return tensor.sparse and id(tensor) in inputs

    stand_ins = [
        keras.KerasTensor(t.shape, t.dtype, sparse=sparse(t), record_history=False)
        for t in tensors.values()
    ]

    def call_all(values: Sequence) -> None:
        given = dict(zip(tensors, values, strict=True))
        with released_gradients():
            for node in chosen:
                _call(node, given)

    keras_backend.compute_output_spec(call_all, stand_ins)


def _within(node: Any, wanted: set[int]) -> bool:
    """Tells whether a node calls any of some operations (by `id`), or a layer that holds one."""
    operation = node.operation
    parts = layers_within(operation) if isinstance(operation, keras.Layer) else [operation]
    return any(id(each) in wanted for each in parts)


def _call(node: Any, given: dict[int, Any]) -> None:
    """Calls the operation of a node on values for its inputs, or says that it can't."""
    operation = node.operation
    args, kwargs = node.arguments.fill_in(given)
    if "training" in inspect.signature(operation.call).parameters:
        kwargs = {**kwargs, "training": True}  # as the model does where it trains
    try:
        operation(*args, **kwargs)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        shapes = [tuple(t.shape) for t in node.input_tensors]
        raise ValueError(
            f"`{operation.name}` ({type(operation).__name__}) can't be called at the widths of "
            "this growth: an argument or a weight of it holds a width that does not grow along. "
            f"Received: inputs of shape {shapes}; {error}"
        ) from error


def _refresh_layer(call: Call) -> None:
    """Tells a layer, and those that it calls, the shapes that they now receive."""
    layer, shapes = call.operation, [t.shape for t in call.inputs]
    if not isinstance(layer, keras.layers.Layer):
        return
    if isinstance(layer, keras.Model):
        _refresh_model(layer, shapes)
        return
    refresh_states(layer)
    for inner in inner_calls(call):
        _refresh_layer(inner)
    for spec, shape in zip(keras.tree.flatten(layer.input_spec), shapes, strict=False):
        if isinstance(spec, keras.InputSpec) and spec.axes:
            spec.axes = {axis: shape[axis] for axis in spec.axes}
        if isinstance(spec, keras.InputSpec) and spec.shape is not None:
            spec.shape = (spec.shape[0], *shape[1:])
    built = layer._build_shapes_dict
    if built and (len(built) == len(shapes) == 1 or is_recurrent(layer)):
        built[next(iter(built))] = tuple(shapes[0])
        return
    for key in built or ():  # of a layer with several inputs: "query_shape", "value_shape"
        tensor = call.named.get(key.removesuffix("_shape"))
        if isinstance(tensor, keras.KerasTensor):
            built[key] = tuple(tensor.shape)


def _refresh_model(model: keras.Model, shapes: Sequence[tuple]) -> None:
    """Tells a model within another, and all layers in it, the shapes that they now receive.

    Relies on `InputLayer._batch_shape` (keras/src/layers/core/input_layer.py).
    """
    graph = graph_of(model)
    if graph is None or [len(t.shape) for t in graph.inputs] != list(map(len, shapes)):
        return
    for layer, tensor, shape in zip(input_layers(graph), graph.inputs, shapes, strict=True):
        # What the model leaves open stays so: it may be called on other lengths elsewhere.
        pairs = zip(tensor.shape, shape, strict=True)
        tensor._shape = tuple(a if a is None or b is None else b for a, b in pairs)
        layer._batch_shape = tensor._shape
    refresh_shapes(model)
