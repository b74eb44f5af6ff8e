"""What a network costs to run and to train: floating-point operations, counted from its layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import keras
from keras import layers as kl

from keras_grow.channels.graph import ChannelGraph
from keras_grow.channels.layer_table import ROWS, as_called
from keras_grow.core import keras_private
from keras_grow.core.index_maps import length_at
from keras_grow.utils.checks import check_positive_int

# A training step computes the activations, the gradients of the activations and the gradients of
# the weights: three products of the same size where the forward pass has one.
_TRAINING_OVER_FORWARD = 3


def forward_flops(model: keras.Model) -> int:
    """Counts the floating-point operations of one forward pass, per example.

    Counted: the multiply-adds of dense layers, of every kind of convolution, of recurrent layers
    (at each step) and of attention (its projections and its two products), two operations each, at
    the shapes that the layers have now. Left out: biases, normalisation, activation, pooling,
    additions and whatever else costs a few operations per element (at three for a normalisation
    with its activation, 1.5 % on top of the count of a VGG16 of width 16, 7 % for a MobileNetV1 of
    width 32), and operations that aren't layers. A convolution counts its whole window at the
    borders too, attention all pairs of positions. A layer that is called several times counts
    several times.

    Args:
        model: A Functional model (a `GrowableModel` is one) or a built Sequential one.

    Returns:
        Number of floating-point operations per example.

    Raises:
        TypeError: if the model is neither.
        ValueError: if it has a layer whose matrix products aren't known here (`Dot`), or no fixed
            input shape.

    Example:

    >>> import keras
    >>> from keras_grow.channels.flops import forward_flops
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, activation="relu"),
    ...                           keras.layers.Dense(3)])
    >>> forward_flops(model)  # 2 * (8 * 4 + 4 * 3)
    88
    """
    if not isinstance(model, keras.Model) or not _is_functional(model):
        raise TypeError(
            "`model` must be a Functional model, or a Sequential one that is built. "
            f"Received: model={model!r} of type {type(model)}"
        )
    if isinstance(model, keras.Sequential):
        model = keras.Model(model.inputs, model.outputs)
    return sum(_call_flops(call) for call in keras_private.calls_of(model))


def training_flops(model: keras.Model, examples: int) -> int:
    """Counts the floating-point operations of training on a number of examples.

    A training step counts as three forward passes: the backward pass takes two, one for the
    gradients of the activations and one for those of the weights. The optimizer's update, the
    similarity penalty and the choice of neurons at a growth are left out. A network that grows
    changes its cost: add up the stages.

    Args:
        model: The model, as for `forward_flops`.
        examples: Number of examples trained on, each epoch's counted anew.

    Returns:
        Number of floating-point operations.

    Example:

    >>> import keras_grow
    >>> from keras_grow.channels.flops import training_flops
    >>> model = keras_grow.models.VGG16(width=16)
    >>> training_flops(model, examples=50 * 50_000)  # 50 epochs of CIFAR-10
    68431200000000
    """
    examples = check_positive_int("examples", examples)
    return _TRAINING_OVER_FORWARD * forward_flops(model) * examples


def flops_at(graph: ChannelGraph, widths: Mapping[str, int]) -> int:
    """Counts the floating-point operations of a forward pass with groups of other widths.

    Args:
        graph: The channel groups of the model.
        widths: Group name -> width. Groups that are not named stay as they are.

    Raises:
        ValueError: as for `forward_flops`.

    Example:

    >>> import keras_grow
    >>> from keras_grow.channels.flops import flops_at, forward_flops
    >>> from keras_grow.channels.graph import find_groups
    >>> model = keras_grow.models.VGG16(width=16)
    >>> wider = {name: 2 * width for name, width in model.widths.items()}
    >>> flops_at(find_groups(model), wider) == forward_flops(keras_grow.models.VGG16(width=32))
    True
    """
    axes = {id(item.variable): item.axes for item in graph.variables}
    axes |= {key: (channels,) for key, channels in graph.tensors.items()}

    def shape_of(array: Any) -> tuple:
        shape = list(array.shape)
        for axis in axes.get(id(array), ()):
            shape[axis.axis] = length_at(axis.segments, widths)
        return tuple(shape)

    return sum(_call_flops(call, shape_of) for call in graph.calls)


# Returns the shape of a variable or of a symbolic tensor: the present one, or another.
ShapeOf = Callable[[Any], tuple]


def _present_shape(array: Any) -> tuple:
    return tuple(array.shape)


class _At:
    """What a layer holds, with variables of other shapes.

    Args:
        held: A layer, or a variable.
        shape_of: Returns the shape of a variable.
    """

    def __init__(self, held: Any, shape_of: ShapeOf):
        self._held, self._shape_of = held, shape_of

    @property
    def shape(self) -> tuple:
        """The shape of a variable."""
        return self._shape_of(self._held)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._held, name)
        known = isinstance(value, (keras.Variable, kl.Layer))
        return _At(value, self._shape_of) if known else value


# Products of activations with each other: nothing in their weights shows them.
_UNKNOWN = (kl.Dot, kl.Attention, kl.AdditiveAttention)


def _call_flops(call: keras_private.Call, shape_of: ShapeOf = _present_shape) -> int:
    """Counts one call of one layer, or of a model that is still one call."""
    layer = call.operation
    if isinstance(layer, keras.Model):
        if not _is_functional(layer):
            return forward_flops(layer)  # which refuses it
        return sum(_call_flops(each, shape_of) for each in keras_private.calls_of(layer))
    inner = keras_private.inner_calls(_at_shapes(call, shape_of))
    if inner:
        return _times_called(call) * sum(_call_flops(each, shape_of) for each in inner)
    row = next((ROWS[kind] for kind in type(layer).__mro__ if kind in ROWS), None)
    row = row and as_called(row, call)
    if row is None or row.multiply_adds is None:
        _check_cheap(layer)
        return 0
    held = _At(layer, shape_of)
    passed = (call.inputs[0], call.outputs[0])
    inputs, outputs = (_elements(layer, shape_of(tensor)) for tensor in passed)
    count = row.multiply_adds(held, inputs, outputs)
    if row.between_inputs is not None:
        tensors = {n: t for n, t in call.named.items() if isinstance(t, keras.KerasTensor)}
        named = {name: shape_of(tensor) for name, tensor in tensors.items()}
        for shape in named.values():
            _elements(layer, shape)
        count += row.between_inputs(held, named)
    return 2 * count


def _at_shapes(call: keras_private.Call, shape_of: ShapeOf) -> keras_private.Call:
    """Returns a call on tensors of other shapes."""

    def moved(tensors: Sequence) -> list:
        return [keras.KerasTensor(shape_of(t), t.dtype, record_history=False) for t in tensors]

    return replace(call, inputs=moved(call.inputs), outputs=moved(call.outputs))


def _times_called(call: keras_private.Call) -> int:
    """Returns how many times a layer calls those within it: once, or once a step."""
    layer, (_, steps, *_) = call.operation, call.inputs[0].shape
    if not isinstance(layer, (kl.RNN, kl.TimeDistributed)):
        return 1
    return _elements(layer, (None, steps))


def _elements(layer: Any, shape: tuple) -> int:
    if None in shape[1:]:
        raise ValueError(
            f"The cost of layer `{layer.name}` depends on the size of its input. Build the model "
            f"with a fixed input shape. Received: shape {shape}"
        )
    return math.prod(shape[1:])


def _check_cheap(layer: Any) -> None:
    """Refuses a layer that may multiply matrices in a way that isn't known here."""
    weights = getattr(layer, "weights", ())
    if isinstance(layer, _UNKNOWN) or any(len(w.shape) > 1 for w in weights):
        known = ", ".join(kind.__name__ for kind, row in ROWS.items() if row.multiply_adds)
        raise ValueError(
            f"The cost of layer `{layer.name}` of type {type(layer).__name__} isn't known. Known: "
            f"{known}, and layers without matrices."
        )


def _is_functional(model: keras.Model) -> bool:
    built = isinstance(model, keras.Sequential) and model.built
    return built or keras_private.is_functional(model)
