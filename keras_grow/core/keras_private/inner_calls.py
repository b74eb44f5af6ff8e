"""The calls that wrappers and recurrent layers make of the layers within them (Keras 3.15)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import keras
from keras import layers as kl
from keras.src.applications.convnext import LayerScale, StochasticDepth
from keras.src.applications.inception_resnet_v2 import CustomScaleLayer
from keras.src.layers.rnn.conv_lstm import ConvLSTMCell

__all__ = [
    "Call",
    "ConvLSTMCell",
    "CustomScaleLayer",
    "LayerScale",
    "StochasticDepth",
    "count_states",
    "inner_calls",
    "is_recurrent",
    "refresh_states",
    "states_passed",
]


@dataclass(frozen=True)
class Call:
    """One call of one operation in a Functional graph.

    Attributes:
        operation: The layer (or `keras.Operation`) that was called.
        inputs: The symbolic tensors that it received, in order.
        outputs: The symbolic tensors that it returned.
        arguments: All that was passed, flattened, constants included.
        name: Name of the operation, after those of the models that it is in: "encoder/conv1".
        named: All that was passed, by the names of the parameters of the operation's `call`.
    """

    operation: Any
    inputs: Sequence[keras.KerasTensor]
    outputs: Sequence[keras.KerasTensor]
    arguments: tuple
    name: str
    named: Mapping[str, Any] = field(default_factory=dict)


def inner_calls(call: Call) -> list[Call]:
    """Returns the calls that a layer makes of layers within it, of tensors as they see them.

    Known are SpectralNormalization, TimeDistributed and recurrent layers (one step of them),
    Bidirectional, and cells in a stack. Relies on the attributes of these layers
    (keras/src/layers/rnn/).
    """
    layer, x, states = call.operation, call.inputs[0], states_passed(call)
    if isinstance(layer, kl.SpectralNormalization):
        return [_inner(call, layer.layer, [x], [*call.outputs])]
    if isinstance(layer, kl.TimeDistributed):
        return [_inner(call, layer.layer, [_step(x)], [_step(call.outputs[0])])]
    if isinstance(layer, kl.Bidirectional):
        halves = zip(
            (layer.forward_layer, layer.backward_layer),
            (states[: len(states) // 2], states[len(states) // 2 :]),
            strict=True,
        )
        first, second = (_direction(call, each, x, of_each) for each, of_each in halves)
        return [first, replace(second, name=f"{call.name}/backward")]
    if isinstance(layer, kl.RNN):
        out = call.outputs[0]
        h = _step(out) if layer.return_sequences else _like(out.shape, out)
        return [_inner(call, layer.cell, [_step(x), *states], [h])]
    if isinstance(layer, kl.StackedRNNCells):
        return _stacked(call, x, states)
    return []


def states_passed(call: Call) -> list[keras.KerasTensor]:
    """Returns the initial states that a call passes to a recurrent layer, masks left out."""
    return [tensor for tensor in call.inputs[1:] if tensor.dtype != "bool"]


def count_states(cell: Any) -> int:
    """Returns how many states a cell has."""
    return len(keras.tree.flatten(cell.state_size))


def is_recurrent(layer: Any) -> bool:
    """Tells whether a layer takes a sequence, and maybe states to start from."""
    return isinstance(layer, (kl.RNN, kl.Bidirectional))


def refresh_states(layer: Any) -> None:
    """Brings what recurrent layers note of their states' widths up to date with their units.

    Relies on `RNN.__init__` and on those of the cells (keras/src/layers/rnn/).
    """
    for cell in getattr(layer, "cells", None) or [getattr(layer, "cell", None)]:
        if cell is not None:
            refresh_states(cell)
    if isinstance(layer, (kl.SimpleRNNCell, kl.GRUCell, kl.LSTMCell)):
        layer.output_size = layer.units
        layer.state_size = keras.tree.map_structure(lambda _: layer.units, layer.state_size)
    if isinstance(layer, kl.RNN):
        sizes = layer.cell.state_size
        layer.state_size = [sizes] if isinstance(sizes, int) else list(sizes)


def _inner(call: Call, layer: Any, inputs: list, outputs: list, part: str = "") -> Call:
    return Call(layer, inputs, outputs, tuple(inputs), call.name + part)


def _direction(call: Call, layer: Any, x: Any, states: list) -> Call:
    shapes = layer.compute_output_shape(x.shape)
    shapes = list(shapes) if layer.return_state else [shapes]
    width = call.outputs[0].shape[-1] // (2 if call.operation.merge_mode == "concat" else 1)
    outputs = [_like((*shape[:-1], width), x) for shape in shapes]
    return _inner(call, layer, [x, *states], outputs)


def _stacked(call: Call, x: Any, states: list) -> list[Call]:
    calls, cells = [], call.operation.cells
    for number, cell in enumerate(cells):
        width = getattr(cell, "output_size", None) or keras.tree.flatten(cell.state_size)[0]
        h = _like((*x.shape[:-1], width), x)
        own, states = states[: count_states(cell)], states[count_states(cell) :]
        calls.append(_inner(call, cell, [x, *own], [h], f"/{number}"))
        x = h
    return calls


def _step(tensor: keras.KerasTensor) -> keras.KerasTensor:
    """Returns a tensor of one step of a sequence."""
    return _like((tensor.shape[0], *tensor.shape[2:]), tensor)


def _like(shape: Sequence, tensor: keras.KerasTensor) -> keras.KerasTensor:
    return keras.KerasTensor(shape, tensor.dtype, record_history=False)
