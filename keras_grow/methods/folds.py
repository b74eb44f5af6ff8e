"""Folds: batch normalisations that do nothing but scale and shift what a linear layer puts out.

A network computes with the product of the kernel and gamma over the deviation, so that a bound on
the norm of a neuron's weights means something only for that product.
"""

from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np

from keras_grow import internals


@dataclass(frozen=True)
class Fold:
    """A batch normalisation right after a linear layer.

    Attributes:
        norm: Name of the normalisation.
        kernel: Path of the layer's kernel.
        bias: Path of its bias, or `None`.
        gamma: Root mean square of gamma over the present channels; 1 where it is zero.
        epsilon: The normalisation's.
    """

    norm: str
    kernel: str
    bias: str | None
    gamma: float
    epsilon: float


def find_folds(model: keras.Model) -> list[Fold]:
    """Returns the folds of a Functional model.

    Example:

    >>> import keras_grow
    >>> from keras_grow.methods.folds import find_folds
    >>> [fold.norm for fold in find_folds(keras_grow.models.VGG16(width=2))][:3]
    ['conv1_bn', 'conv2_bn', 'conv3_bn']
    """
    folds, makers = [], {}
    for call in internals.calls_of(model):
        norm, layer = call.operation, makers.get(id(call.inputs[0]))
        makers.update({id(tensor): norm for tensor in call.outputs})
        linear = getattr(layer, "activation", None) in (None, keras.activations.linear)
        if hasattr(norm, "moving_variance") and hasattr(layer, "kernel") and linear:
            gamma = float(np.sqrt(np.mean(norm.gamma.numpy() ** 2))) if norm.scale else 1.0
            bias = layer.bias.path if layer.use_bias else None
            folds.append(Fold(norm.name, layer.kernel.path, bias, gamma or 1.0, norm.epsilon))
    return folds
