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

from keras_grow.tensorflow_distribution import batch_of_first_replica, spans_processes
from keras_grow.tensorflow_tracing import forget_tracings


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


class BuiltOnEveryWorker:
    """Mixin of a model that `fit` and `evaluate` can build where several processes train it.

    Keras 3.15 takes the mean of the first batch over the replicas, as a structure, which
    `MultiWorkerMirroredStrategy` refuses (reported in
    https://github.com/keras-team/keras/issues/20585); any replica's batch does as well. Relies on
    `TensorFlowTrainer._maybe_symbolic_build` (keras/src/backend/tensorflow/trainer.py).
    """

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        if iterator is not None and spans_processes(self.distribute_strategy):
            _, _, batches = next(iter(iterator))
            data_batch = batch_of_first_replica(self.distribute_strategy, next(batches))
            iterator = None
        super()._maybe_symbolic_build(iterator=iterator, data_batch=data_batch)


@dataclass(frozen=True)
class Held:
    """What a variable held before it was resized, so that it can be put back."""

    variable: keras.Variable
    value: Any
    shape: tuple


def hold(variable: keras.Variable) -> Held:
    """Returns what a variable holds now, for `put_back`."""
    return Held(variable, variable._value, variable._shape)


def resize(variable: keras.Variable, value: np.ndarray) -> Held:
    """Replaces a variable's value by one of another shape; the variable object stays.

    Relies on `Variable._shape`, `_value` and `_initialize` (keras/src/backend/common/variables.py
    and keras/src/backend/tensorflow/core.py).

    Returns:
        What it held before, for `put_back`.
    """
    held = hold(variable)
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
    # New dictionaries: TensorFlow can't export an object whose tracked ones have lost entries.
    for name in ("_trainable_variables_indices", "_var_to_optimizer_idx"):
        if hasattr(optimizer, name):
            entries = getattr(optimizer, name)
            setattr(optimizer, name, {renamed[key]: value for key, value in entries.items()})
    excluded = getattr(optimizer, "_exclude_from_weight_decay", None)
    if excluded:
        optimizer._exclude_from_weight_decay = {renamed.get(key, key) for key in excluded}
    if hasattr(optimizer, "_exclude_from_weight_decay_cache"):
        optimizer._exclude_from_weight_decay_cache = {}


_KEYED = (
    "_trainable_variables_indices",
    "_var_to_optimizer_idx",
    "_exclude_from_weight_decay",
    "_exclude_from_weight_decay_cache",
)


def keys_of(optimizer: Any) -> dict[str, Any]:
    """Returns all of an optimizer that `rekey` replaces, for `put_back_keys`."""
    return {name: getattr(optimizer, name) for name in _KEYED if hasattr(optimizer, name)}


def put_back_keys(optimizer: Any, keys: dict[str, Any]) -> None:
    """Undoes a `rekey`, one that was interrupted included."""
    for name, value in keys.items():
        setattr(optimizer, name, value)


def forget_compiled_functions(model: keras.Model) -> None:
    """Has the train, test and predict functions built anew: the old ones hold the old variables.

    `fit` makes its train function once, before its first epoch, so one that exists is remade at
    once (keras/src/backend/tensorflow/trainer.py).
    """
    training = model.train_function is not None
    model.train_function = model.test_function = model.predict_function = None
    forget_tracings()
    if training:
        model.make_train_function(force=True)


def seed_states(model: keras.Model) -> list[keras.Variable]:
    """Returns the states of the seed generators of a model's layers (Dropout, RandomFlip).

    Relies on `Layer._flatten_layers` and `_seed_generators` (keras/src/layers/layer.py).
    """
    layers = model._flatten_layers()
    return [generator.state for layer in layers for generator in layer._seed_generators]


def global_seed_state(make: bool = False) -> keras.Variable | None:
    """Returns the state of Keras's global seed generator; `None` where nothing has used it yet.

    Relies on keras/src/random/seed_generator.py.

    Args:
        make: Whether to make one where there is none.
    """
    from keras.src.backend.common.global_state import get_global_attribute
    from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR, global_seed_generator

    generator = global_seed_generator() if make else get_global_attribute(GLOBAL_SEED_GENERATOR)
    return None if generator is None else generator.state


def set_first_epoch(model: keras.Model, epoch: int | None) -> None:
    """Has the `fit` that has just begun start at an epoch; `None` leaves it where the user said.

    Relies on `Trainer._initial_epoch`, which `fit` reads after `on_train_begin`, as
    `keras.callbacks.BackupAndRestore` does (keras/src/callbacks/backup_and_restore.py).
    """
    model._initial_epoch = epoch


def iterators_of(epochs: int) -> int:
    """Returns how many iterators `fit` makes of a data set of known length in some epochs.

    Relies on `EpochIterator._enumerate_iterator` (keras/src/trainers/epoch_iterator.py): without
    `steps_per_epoch` it makes one as an epoch begins, and another, which it doesn't read, as the
    epoch ends.
    """
    return 2 * epochs


def build_metrics(model: keras.Model, batch: Any) -> None:
    """Makes the variables of a model's metrics, if its first step hasn't made them yet.

    Relies on `TensorFlowTrainer._symbolic_build` (keras/src/trainers/trainer.py).
    """
    with strategy_scope(model):
        model._symbolic_build(data_batch=batch)
