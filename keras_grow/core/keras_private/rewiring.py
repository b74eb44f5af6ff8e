"""Other tensors into the calls of a Functional model, and what it then consists of (Keras 3.15)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

import keras
from keras.src.ops.function import map_graph
from keras.src.ops.symbolic_arguments import SymbolicArguments
from keras.src.utils.tracking import DotNotTrackScope

from keras_grow.core.keras_private.calls import nodes_of
from keras_grow.core.keras_private.graph import layers_within


def output_of(model: keras.Model, name: str) -> keras.KerasTensor | None:
    """Returns what an operation of a Functional model puts out.

    `None` where there is no such operation, it is called more than once, or puts out several.
    """
    found = [node for node in nodes_of(model) if node.operation.name == name]
    outputs = found[0].outputs if len(found) == 1 else ()
    return outputs[0] if len(outputs) == 1 else None


def maker_of(tensor: keras.KerasTensor) -> keras.Operation:
    """Returns the operation that puts a symbolic tensor out (keras/src/ops/node.py)."""
    return tensor._keras_history.operation


def readers_of(model: keras.Model, tensor: keras.KerasTensor) -> list:
    """Returns the nodes of a Functional model that a tensor goes into."""
    return [node for node in nodes_of(model) if any(t is tensor for t in node.input_tensors)]


def nearest_with_weights(call: Any) -> list[keras.Operation]:
    """Returns the operation of a call, or those before it, whichever are the first with weights.

    If there are none, those behind it.
    """
    return _first_with_weights(call, _calls_before) or _first_with_weights(call, _calls_behind)


def _first_with_weights(call: Any, further: Callable[[Any], list]) -> list[keras.Operation]:
    """Relies on `Node.operation` (keras/src/ops/node.py)."""
    calls, seen, found = [call], set(), {}
    while calls:
        each = calls.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if getattr(each.operation, "weights", ()):
            found[id(each.operation)] = each.operation
        else:
            calls += further(each)
    return list(found.values())


def _calls_before(call: Any) -> list:
    nodes = [n for t in call.input_tensors for n in t._keras_history.operation._inbound_nodes]
    known = {*map(id, call.input_tensors)}
    return [node for node in nodes if any(id(t) in known for t in node.outputs)]


def _calls_behind(call: Any) -> list:
    known = {*map(id, call.outputs)}
    nodes = call.operation._outbound_nodes
    return [node for node in nodes if any(id(t) in known for t in node.input_tensors)]


def redirect(undo: ExitStack, node: Any, old: keras.KerasTensor, new: keras.KerasTensor) -> None:
    """Has a call take one tensor in place of another, once it is noted how to undo it.

    Models that hold the call are then to be told by `remap`. Relies on `Node.arguments` and
    `KerasTensor._keras_history` (keras/src/ops/node.py), and on `SymbolicArguments.convert`
    (keras/src/ops/symbolic_arguments.py).
    """
    arguments = node.arguments
    into_old, into_new = (t._keras_history.operation._outbound_nodes for t in (old, new))

    def put_back() -> None:
        node.arguments = arguments
        into_old[:], into_new[:] = before

    before = list(into_old), list(into_new)
    undo.callback(put_back)
    args, kwargs = arguments.convert(lambda value: new if value is old else value)
    node.arguments = SymbolicArguments(*args, **kwargs)
    into_old[:] = [each for each in into_old if each is not node]
    into_new.append(node)


def has_calls(model: Any, nodes: Iterable[Any]) -> bool:
    """Tells whether any of some nodes is one of a Functional model's."""
    wanted = {id(node) for node in nodes}
    return any(id(n) in wanted for level in model._nodes_by_depth.values() for n in level)


_MAP = ("_nodes", "_nodes_by_depth", "_operations", "_operations_by_depth")


def remap(undo: ExitStack, model: keras.Model) -> None:
    """Has a Functional model find its calls and layers anew, once it is noted how to undo it.

    Its layers are then in the order in which a model that is built of them has them: that of a
    model that is saved and loaded. Relies on `Function.__init__` (keras/src/ops/function.py) and on
    `Layer._layers` and its tracker (keras/src/layers/layer.py).
    """
    held = {name: getattr(model, name) for name in _MAP}
    tracked, mapped = list(model._layers), model.layers
    undo.callback(_set_map, model, held, tracked)
    found = dict(zip(_MAP, map_graph(model._inputs, model._outputs), strict=True))
    layers = [each for each in found["_operations"] if isinstance(each, keras.Layer)]
    known = {*map(id, mapped), *map(id, layers)}
    beside = [each for each in tracked if id(each) not in known]  # layers that it doesn't call
    _set_map(model, found, layers + beside)


def _set_map(model: keras.Model, found: dict[str, Any], layers: list) -> None:
    with DotNotTrackScope():
        for name, value in found.items():
            setattr(model, name, value)
    model._layers[:] = layers
    model._tracker.stored_ids["layers"] = {*map(id, layers)}


def hold_calls(model: keras.Model) -> Callable[[], None]:
    """Returns what takes back the calls that are made from now on of what a model consists of.

    Relies on `Operation._inbound_nodes` and `_outbound_nodes` (keras/src/ops/operation.py).
    """
    operations = {id(each): each for each in (*layers_within(model), *model.operations)}
    nodes = [n for op in operations.values() for n in (op._inbound_nodes, op._outbound_nodes)]
    held = [list(each) for each in nodes]

    def take_back() -> None:
        for each, before in zip(nodes, held, strict=True):
            each[:] = before

    return take_back


def has_mask(tensor: keras.KerasTensor) -> bool:
    """Tells whether a symbolic tensor has a mask (keras/src/backend/common/masking.py)."""
    from keras.src.backend.common.masking import get_keras_mask

    return get_keras_mask(tensor) is not None
