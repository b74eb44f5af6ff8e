"""The calls of a Functional model, and its static shapes (Keras 3.15)."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
from keras.src import backend as keras_backend

from keras_grow.backend import is_out_of_memory, released_gradients


@dataclass(frozen=True)
class Call:
    """One call of one operation in a Functional graph.

    Attributes:
        operation: The layer (or `keras.Operation`) that was called.
        inputs: The symbolic tensors that it received, in order.
        outputs: The symbolic tensors that it returned.
        arguments: All that was passed, flattened, constants included.
        named: All that was passed, by the names of the parameters of the operation's `call`.
    """

    operation: Any
    inputs: Sequence[keras.KerasTensor]
    outputs: Sequence[keras.KerasTensor]
    arguments: tuple
    named: Mapping[str, Any]


def calls_of(model: keras.Model) -> list[Call]:
    """Returns the calls that make up a Functional model, inputs first.

    Relies on `Function._nodes_by_depth` (keras/src/ops/function.py) and on `Node.arguments`
    (keras/src/ops/node.py).
    """
    return [
        Call(node.operation, node.input_tensors, node.outputs, _arguments_of(node), _named(node))
        for node in _nodes_of(model)
    ]


def _arguments_of(node: Any) -> tuple:
    return tuple(keras.tree.flatten((node.arguments.args, node.arguments.kwargs)))


def _named(node: Any) -> dict[str, Any]:
    arguments = node.arguments
    signature = inspect.signature(node.operation.call)
    return signature.bind_partial(*arguments.args, **arguments.kwargs).arguments


def _nodes_of(model: keras.Model) -> list:
    """Returns the nodes of a Functional model, inputs first, in the order of `model.layers`."""
    order = {id(operation): i for i, operation in enumerate(model.operations)}
    nodes = [
        node
        for depth in sorted(model._nodes_by_depth, reverse=True)
        for node in sorted(model._nodes_by_depth[depth], key=lambda n: order[id(n.operation)])
    ]
    return [node for node in nodes if not node.is_input]


def standard_inputs(model: keras.Model, x: Any) -> list:
    """Returns inputs as a Functional model hands them to its first layers.

    Relies on `Functional._standardize_inputs` (keras/src/models/functional.py).
    """
    return model._standardize_inputs(x)


def run_calls(
    model: keras.Model, x: Any, change: Callable[[keras.KerasTensor, Any], Any]
) -> tuple[Any, dict[int, Any]]:
    """Runs a Functional model in inference, with what its calls return open to change.

    No node is added to its layers. Relies on `SymbolicArguments.fill_in`
    (keras/src/ops/symbolic_arguments.py), on `operation_fn` and `Functional._outputs_struct`
    (keras/src/models/functional.py), and on masks being attributes of tensors
    (keras/src/backend/common/masking.py).

    Args:
        model: The model.
        x: Its inputs.
        change: Takes a symbolic tensor and its value, and returns the value that later calls see.

    Returns:
        The outputs, and `id` of each symbolic tensor -> its value.
    """
    from keras.src.backend.common.masking import get_keras_mask, set_keras_mask
    from keras.src.models.functional import operation_fn, unpack_singleton

    values = dict(zip(map(id, model.inputs), standard_inputs(model, x), strict=True))
    for node in _nodes_of(model):
        args, kwargs = node.arguments.fill_in(values)
        outputs = operation_fn(node.operation, training=False)(*args, **kwargs)
        for tensor, value in zip(node.outputs, keras.tree.flatten(outputs), strict=True):
            changed = change(tensor, value)
            if changed is not value and get_keras_mask(value) is not None:
                set_keras_mask(changed, get_keras_mask(value))
            values[id(tensor)] = changed
    outputs = keras.tree.map_structure(lambda t: values[id(t)], model._outputs_struct)
    return unpack_singleton(outputs), values


def refresh_shapes(model: keras.Model) -> None:
    """Brings every static shape of a Functional model up to date with its layers' widths.

    Updates the symbolic tensors (`summary()`, `layer.output`), the layers' `input_spec` and the
    input shapes that they save as their build config. Relies on `KerasTensor._shape`
    (keras/src/backend/common/keras_tensor.py), `SymbolicArguments.fill_in`
    (keras/src/ops/symbolic_arguments.py) and `Layer._build_shapes_dict`
    (keras/src/layers/layer.py).
    """
    for node in _nodes_of(model):
        _refresh_layer(node.operation, [t.shape for t in node.input_tensors], _named(node))
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


def is_functional(model: keras.Model) -> bool:
    """Tells whether the calls of a model are known: a Functional model, not one within another.

    Relies on `Function._nodes_by_depth` (keras/src/ops/function.py).
    """
    return hasattr(model, "_nodes_by_depth")


def layers_within(model: keras.Model) -> list[keras.Layer]:
    """Returns a model and all layers in it, at any depth.

    Relies on `Layer._flatten_layers` (keras/src/layers/layer.py).
    """
    return list(model._flatten_layers())


def check_calls(model: keras.Model, names: Container[str] | None = None) -> None:
    """Calls operations of a Functional model symbolically, in training, at their present shapes.

    `refresh_shapes` asks layers for their shapes, which most of them compute without a call.
    Relies on `compute_output_spec` of the backend (keras/src/backend/*/core.py), in whose scope
    nothing is assigned.

    Args:
        model: The model.
        names: Names of the operations to call. Defaults to all.

    Raises:
        ValueError: if a call fails, naming the operation.
    """
    chosen = [n for n in _nodes_of(model) if names is None or n.operation.name in names]
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


def _refresh_layer(layer: Any, input_shapes: Sequence[tuple], named: Mapping) -> None:
    """Tells one layer the shapes that it now receives."""
    if not isinstance(layer, keras.layers.Layer) or isinstance(layer, keras.Model):
        return
    specs = layer.input_spec
    for spec, shape in zip(keras.tree.flatten(specs), input_shapes, strict=False):
        if isinstance(spec, keras.InputSpec) and spec.axes:
            spec.axes = {axis: shape[axis] for axis in spec.axes}
    built = layer._build_shapes_dict
    if built is not None and len(built) == 1 and len(input_shapes) == 1:
        (key,) = built
        built[key] = tuple(input_shapes[0])
        return
    for key in built or ():  # of a layer with several inputs: "query_shape", "value_shape"
        tensor = named.get(key.removesuffix("_shape"))
        if isinstance(tensor, keras.KerasTensor):
            built[key] = tuple(tensor.shape)
