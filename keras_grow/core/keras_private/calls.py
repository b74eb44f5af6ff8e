"""The calls that make up a Functional model, those of models within it included (Keras 3.15)."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
from keras.src.models.functional import Functional
from keras.src.models.sequential import Sequential

from keras_grow.core.keras_private.inner_calls import Call


@dataclass(frozen=True)
class Placed:
    """A node of a graph, at its place in a model that may hold the graph's model.

    Attributes:
        node: The node.
        name: Name of its operation, after those of the models that it is in.
        outer: `id` of a tensor of the graph -> the tensor of the model around it that it is.
    """

    node: Any
    name: str
    outer: Mapping[int, keras.KerasTensor] = field(default_factory=dict)

    @property
    def inputs(self) -> list[keras.KerasTensor]:
        """The tensors that go in."""
        return [self.outer.get(id(t), t) for t in self.node.input_tensors]

    @property
    def outputs(self) -> list[keras.KerasTensor]:
        """The tensors that come out."""
        return [self.outer.get(id(t), t) for t in self.node.outputs]

    def outside(self, passed: Any) -> Any:
        """Returns what is passed, with the tensors of the outermost model in it."""
        if not self.outer:
            return passed
        return keras.tree.map_structure(lambda value: self.outer.get(id(value), value), passed)

    def arguments(self, values: Mapping[int, Any]) -> tuple[tuple, dict]:
        """Returns the arguments of the call, with values for tensors (by `id`).

        Relies on `SymbolicArguments.fill_in` (keras/src/ops/symbolic_arguments.py).
        """
        own = zip(self.node.input_tensors, self.inputs, strict=True)
        return self.node.arguments.fill_in({id(t): values[id(outer)] for t, outer in own})


def calls_of(model: keras.Model, within: str = "") -> list[Call]:
    """Returns the calls that make up a Functional model, inputs first.

    A model within the model is no call, but its calls are. Relies on `Node.arguments`
    (keras/src/ops/node.py).

    Args:
        model: The model, or a Sequential one that is built.
        within: Name of the model, if it is in another.
    """
    calls = []
    for placed in placed_nodes(model, within):
        node = placed.node
        arguments = (node.arguments.args, node.arguments.kwargs)
        passed = tuple(keras.tree.flatten(placed.outside(arguments)))
        named = placed.outside(named_arguments(node))
        tensors = placed.inputs, placed.outputs
        calls.append(Call(node.operation, *tensors, passed, placed.name, named))
    return calls


def named_arguments(node: Any) -> dict[str, Any]:
    """Returns what a node passes, by the names of the parameters of its operation's `call`."""
    arguments = node.arguments
    signature = inspect.signature(node.operation.call)
    return signature.bind_partial(*arguments.args, **arguments.kwargs).arguments


def placed_nodes(
    model: keras.Model, within: str = "", outer: Mapping[int, Any] | None = None
) -> Iterator[Placed]:
    """Yields the nodes of a Functional model and of those within it, inputs first."""
    for node in nodes_of(graph_of(model)):
        name = f"{within}/{node.operation.name}" if within else node.operation.name
        placed = Placed(node, name, outer or {})
        graph = _graph_called(node)
        if graph is None:
            yield placed
            continue
        known = dict(zip(map(id, graph.inputs), placed.inputs, strict=True))
        for own, tensor in zip(graph.outputs, placed.outputs, strict=True):
            known.setdefault(id(own), tensor)
        yield from placed_nodes(graph, name, known)


def graph_of(model: Any) -> Any:
    """Returns what holds the graph of a model: itself, or what a Sequential one is built into.

    `None` for anything else. Relies on `Function._nodes_by_depth` (keras/src/ops/function.py) and
    on `Sequential._functional` (keras/src/models/sequential.py).
    """
    if not isinstance(model, keras.Model):
        return None
    graph = getattr(model, "_functional", model)
    return graph if is_functional(graph) else None


def is_functional(model: keras.Model) -> bool:
    """Tells whether the calls of a model are known: a Functional model, not one within another.

    Relies on `Function._nodes_by_depth` (keras/src/ops/function.py).
    """
    return hasattr(model, "_nodes_by_depth")


def walked_into(model: Any) -> bool:
    """Tells whether a call of a model is nothing but the calls of its graph."""
    return graph_of(model) is not None and type(model).call in (Functional.call, Sequential.call)


def input_layers(model: keras.Model) -> list[keras.layers.InputLayer]:
    """Returns the input layers of a Functional model, or of a Sequential one if it is built.

    Relies on `KerasTensor._keras_history` (keras/src/ops/node.py).
    """
    graph = graph_of(model)
    return [] if graph is None else [t._keras_history.operation for t in graph.inputs]


def graph_called(operation: Any, inputs: Sequence[keras.KerasTensor]) -> Any:
    """Returns the graph of a model that is called on tensors as they are; `None` otherwise."""
    if not walked_into(operation):
        return None
    graph = graph_of(operation)
    alike = [len(t.shape) for t in inputs] == [len(t.shape) for t in graph.inputs]
    return graph if alike else None


def _graph_called(node: Any) -> Any:
    """Returns the graph that a node calls, where its tensors are each one of the node's."""
    graph = graph_called(node.operation, node.input_tensors)
    if graph is None:
        return None
    passed = {*map(id, graph.inputs)}
    through = len({*map(id, graph.outputs)} - passed) < len(graph.outputs)
    masked = node.arguments.kwargs.get("mask") is not None
    return None if through or masked else graph


def nodes_of(graph: Any) -> list:
    """Returns the nodes of a graph, inputs first, in the order of `model.layers`."""
    order = {id(operation): i for i, operation in enumerate(graph.operations)}
    nodes = [
        node
        for depth in sorted(graph._nodes_by_depth, reverse=True)
        for node in sorted(graph._nodes_by_depth[depth], key=lambda n: order[id(n.operation)])
    ]
    return [node for node in nodes if not node.is_input]


def named_layers(model: keras.Model, within: str = "") -> Iterator[tuple[str, keras.Layer]]:
    """Yields the layers of a model without its inputs, and their names, as `calls_of` has them."""
    for layer in model.layers:
        name = f"{within}/{layer.name}" if within else layer.name
        if walked_into(layer):
            yield from named_layers(layer, name)
        elif not isinstance(layer, keras.layers.InputLayer):
            yield name, layer
