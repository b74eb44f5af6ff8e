"""What a network costs to run and to train: floating-point operations, counted from its layers."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import layers as kl

from keras_grow.channels.layer_table import ROWS
from keras_grow.core import keras_private
from keras_grow.utils.checks import check_positive_int

# A training step computes the activations, the gradients of the activations and the gradients of
# the weights: three products of the same size where the forward pass has one.
_TRAINING_OVER_FORWARD = 3


def forward_flops(model: keras.Model) -> int:
    """Counts the floating-point operations of one forward pass, per example.

    Counted: the multiply-adds of dense layers and of every kind of convolution, two operations
    each, at the shapes that the layers have now. Left out: biases, normalisation, activation,
    pooling, additions and whatever else costs a few operations per element (at three for a
    normalisation with its activation, 1.5 % on top of the count of a VGG16 of width 16, 7 % for a
    MobileNetV1 of width 32), and operations that aren't layers. A convolution counts its whole
    window at the borders too. A layer that is called several times counts several times.

    Args:
        model: A Functional model (a `GrowableModel` is one) or a built Sequential one.

    Returns:
        Number of floating-point operations per example.

    Raises:
        TypeError: if the model is neither.
        ValueError: if it has a layer whose matrix products aren't known here (attention, a
            recurrent layer), or no fixed input shape.

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


# Products of activations with each other: nothing in their weights shows them.
_UNKNOWN = (kl.Dot, kl.Attention, kl.AdditiveAttention)


def _call_flops(call: keras_private.Call) -> int:
    """Counts one call of one layer."""
    layer = call.operation
    if isinstance(layer, keras.Model):
        return forward_flops(layer)
    rows = (ROWS[kind] for kind in type(layer).__mro__ if kind in ROWS)
    row = next(rows, None)
    if row is None or row.multiply_adds is None:
        _check_cheap(layer)
        return 0
    inputs, outputs = (_elements(layer, t.shape) for t in (call.inputs[0], call.outputs[0]))
    count = row.multiply_adds(layer, inputs, outputs)
    if row.between_inputs is not None:
        named = call.named.items()
        shapes = {name: t.shape for name, t in named if isinstance(t, keras.KerasTensor)}
        _ = [_elements(layer, shape) for shape in shapes.values()]
        count += row.between_inputs(layer, shapes)
    return 2 * count


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
