"""Everything that touches what Keras keeps private, in one place.

Each function names the Keras file that it relies on (checked with Keras 3.15). A release that
changes one of them fails in `tests/test_internals.py`, not in the middle of a training run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np


@dataclass(frozen=True)
class Call:
    """One call of one operation in a Functional graph.

    Attributes:
        operation: The layer (or `keras.Operation`) that was called.
        inputs: The symbolic tensors that it received, in order.
        outputs: The symbolic tensors that it returned.
        arguments: All that was passed, flattened, constants included.
    """

    operation: Any
    inputs: Sequence[keras.KerasTensor]
    outputs: Sequence[keras.KerasTensor]
    arguments: tuple


def calls_of(model: keras.Model) -> list[Call]:
    """Returns the calls that make up a Functional model, inputs first.

    Relies on `Function._nodes_by_depth` (keras/src/ops/function.py) and on `Node.arguments`
    (keras/src/ops/node.py).
    """
    return [
        Call(node.operation, node.input_tensors, node.outputs, _arguments_of(node))
        for node in _nodes_of(model)
    ]


def _arguments_of(node: Any) -> tuple:
    return tuple(keras.tree.flatten((node.arguments.args, node.arguments.kwargs)))


def _nodes_of(model: keras.Model) -> list:
    """Returns the nodes of a Functional model, inputs first, in the order of `model.layers`."""
    order = {id(operation): i for i, operation in enumerate(model.operations)}
    nodes = [
        node
        for depth in sorted(model._nodes_by_depth, reverse=True)
        for node in sorted(model._nodes_by_depth[depth], key=lambda n: order[id(n.operation)])
    ]
    return [node for node in nodes if not node.is_input]


def refresh_shapes(model: keras.Model) -> None:
    """Brings every static shape of a Functional model up to date with its layers' widths.

    Updates the symbolic tensors (`summary()`, `layer.output`), the layers' `input_spec` and the
    input shapes that they save as their build config. Relies on `KerasTensor._shape`
    (keras/src/backend/common/keras_tensor.py), `SymbolicArguments.fill_in`
    (keras/src/ops/symbolic_arguments.py) and `Layer._build_shapes_dict`
    (keras/src/layers/layer.py).
    """
    for node in _nodes_of(model):
        _refresh_layer(node.operation, [t.shape for t in node.input_tensors])
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


def _refresh_layer(layer: Any, input_shapes: Sequence[tuple]) -> None:
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


def strategy_scope(model: keras.Model):
    """Returns the scope under which the model's variables live (a `tf.distribute` scope).

    Relies on `TensorFlowTrainer.distribute_strategy` (keras/src/backend/tensorflow/trainer.py).
    """
    from contextlib import nullcontext

    strategy = getattr(model, "_distribute_strategy", None)
    return nullcontext() if strategy is None else strategy.scope()


@dataclass(frozen=True)
class Held:
    """What a variable held before it was resized, so that it can be put back."""

    variable: keras.Variable
    value: Any
    shape: tuple


def resize(variable: keras.Variable, value: np.ndarray) -> Held:
    """Replaces a variable's value by one of another shape; the variable object stays.

    Relies on `Variable._shape`, `_value` and `_initialize` (keras/src/backend/common/variables.py
    and keras/src/backend/tensorflow/core.py).

    Returns:
        What it held before, for `put_back`.
    """
    held = Held(variable, variable._value, variable._shape)
    try:
        variable._shape = tuple(value.shape)
        variable._initialize(keras.ops.convert_to_tensor(value, dtype=variable._dtype))
    except BaseException:
        put_back(held)
        raise
    return held


def put_back(held: Held) -> None:
    """Undoes a `resize`: the variable is as it was, down to the backend's own object."""
    held.variable._shape = held.shape
    held.variable._value = held.value


def optimizers_of(optimizer: Any) -> Iterator[Any]:
    """Yields an optimizer and those that it wraps (loss scaling, one optimizer per layer)."""
    if optimizer is None:
        return
    yield optimizer
    inner = [getattr(optimizer, "inner_optimizer", None), *getattr(optimizer, "optimizers", ())]
    for wrapped in inner:
        yield from optimizers_of(wrapped)


def trained_variables(optimizer: Any) -> list[keras.Variable]:
    """Returns the variables that an optimizer was built for, in the order of its slots."""
    return list(optimizer._trainable_variables)


def slots_of(optimizer: Any) -> dict[str, list]:
    """Returns an optimizer's slots: attribute name -> one variable (or None) per trained variable.

    Relies on every Keras optimizer keeping its slots in lists that run parallel to the trained
    variables (keras/src/optimizers/*.py).
    """
    bookkeeping = {"_variables", "_trainable_variables", "_inner_optimizers"}
    count = len(optimizer._trainable_variables)
    return {
        name: list(value)
        for name, value in vars(optimizer).items()
        if name not in bookkeeping and isinstance(value, list) and len(value) == count and count
        if all(item is None or isinstance(item, keras.Variable) for item in value)
    }


def own_variables(optimizer: Any) -> list[keras.Variable]:
    """Returns an optimizer's variables without those of the optimizers that it wraps."""
    return list(optimizer._variables)


def rekey(optimizer: Any) -> None:
    """Lets an optimizer find its variables again after they have been resized.

    An optimizer's index is keyed by the backend variable, which a resize replaces. Without this
    the optimizer would refuse the variable, or silently skip it. Relies on `_var_key`,
    `_trainable_variables_indices`, `_exclude_from_weight_decay*`
    (keras/src/optimizers/base_optimizer.py) and `_var_to_optimizer_idx` (multi_optimizer.py).
    """
    variables, index = optimizer._trainable_variables, optimizer._trainable_variables_indices
    renamed = {key: optimizer._var_key(variables[i]) for key, i in index.items()}
    for entries in (index, getattr(optimizer, "_var_to_optimizer_idx", {})):
        moved = {renamed[key]: value for key, value in entries.items()}
        entries.clear()
        entries.update(moved)
    excluded = getattr(optimizer, "_exclude_from_weight_decay", None)
    if excluded:
        optimizer._exclude_from_weight_decay = {renamed.get(key, key) for key in excluded}
    if hasattr(optimizer, "_exclude_from_weight_decay_cache"):
        optimizer._exclude_from_weight_decay_cache = {}


def forget_compiled_functions(model: keras.Model) -> None:
    """Has the train, test and predict functions built anew: the old ones hold the old variables.

    `fit` makes its train function once, before its first epoch, so one that exists is remade at
    once (keras/src/backend/tensorflow/trainer.py).
    """
    training = model.train_function is not None
    model.train_function = model.test_function = model.predict_function = None
    if training:
        model.make_train_function(force=True)
