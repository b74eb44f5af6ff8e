"""The batch normalisations that fresh channels run through: their statistics, and folding.

A normalisation right after a linear layer is folded: the network computes with the kernel times
gamma over the deviation, so that a bound on the norm of a neuron's weights means something only
for that product.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_grow.channels.graph import ChannelGraph, VariableChannels
from keras_grow.core import keras_private
from keras_grow.core.widening import AxisChannels, Widening, group_positions
from keras_grow.methods.gradmax.rows import Arrays, Side, Widenings, fresh_by_channel

Place = tuple[VariableChannels, AxisChannels]


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
    >>> from keras_grow.methods.gradmax.folds import find_folds
    >>> [fold.norm for fold in find_folds(keras_grow.models.VGG16(width=2))][:3]
    ['conv1_bn', 'conv2_bn', 'conv3_bn']
    """
    folds, makers = [], {}
    for call in keras_private.calls_of(model):
        norm, layer = call.operation, makers.get(id(call.inputs[0]))
        makers.update({id(tensor): norm for tensor in call.outputs})
        linear = getattr(layer, "activation", None) in (None, keras.activations.linear)
        if hasattr(norm, "moving_variance") and hasattr(layer, "kernel") and linear:
            gamma = float(np.sqrt(np.mean(norm.gamma.numpy() ** 2))) if norm.scale else 1.0
            bias = layer.bias.path if layer.use_bias else None
            folds.append(Fold(norm.name, layer.kernel.path, bias, gamma or 1.0, norm.epsilon))
    return folds


class FreshNorms:
    """The parameters and statistics of a group's fresh channels in their batch normalisations.

    Args:
        graph: The channel groups of the model.
        bare: A widening of the group that adds the fresh channels at the end.
        into: The kernels that produce them.
        folds: The folds of the model.
        carried: Variable path -> what the widening adds to it; changed in place.
        norm: Root mean square of gamma in a fold, relative to the present channels.

    Attributes:
        places: Name of each normalisation -> parameter -> where the group lies in it.
        folds: The folds of the group.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        bare: Widening,
        into: Side,
        folds: Sequence[Fold],
        carried: dict[str, np.ndarray],
        norm: float,
    ):
        self._bare, self._into, self._carried, self._norm = bare, into, carried, norm
        self.folds = [fold for fold in folds if fold.kernel in into.columns]
        self.places: dict[str, dict[str, Place]] = {}
        for item, axis in graph.touching(bare.group, "through"):
            if hasattr(item.layer, "moving_variance"):
                self.places.setdefault(item.layer.name, {})[item.name] = (item, axis)
        self._input_means = into.zeros[0]
        self._slopes: dict[str, Any] = {}  # normalisation -> gamma / deviation

    def take_input_means(self, gradients: Arrays, widenings: Widenings, examples: int) -> None:
        """Takes the mean of what each weight is multiplied with.

        Args:
            gradients: Gradients of the sum over examples of the mean outputs of the kernels.
            widenings: The widenings of the network that they come from.
            examples: Number of examples.
        """
        self._input_means = self._into.rows(gradients, widenings)[0] / examples

    def slopes_of_means(self, gradients: Arrays, widenings: Widenings) -> np.ndarray:
        """Returns what the kernels do through the means that the normalisations subtract.

        By the gradient of beta: TensorFlow's fused normalisation has none for its statistics.
        """
        slopes = np.zeros_like(self._into.zeros)
        for fold in self.folds:
            if "beta" in self.places[fold.norm]:
                item, axis = self.places[fold.norm]["beta"]
                of_beta = self._fresh(gradients[item.path], axis, widenings).ravel()
                columns = self._into.columns[fold.kernel]
                of_mean = -self._slopes[fold.norm] * of_beta
                slopes[:, columns] += np.outer(of_mean, self._input_means[columns])
        return slopes

    def take_statistics(self, measured: Mapping[str, Arrays], widenings: Widenings) -> None:
        """Sets the statistics, and in folds the gamma that makes up for the variance.

        Args:
            measured: Name of each normalisation -> "moving_mean" and "moving_variance" of all
                channels of a widened network.
            widenings: The widenings of that network.
        """
        for norm, places in self.places.items():
            for name in ("moving_mean", "moving_variance"):
                values = self._fresh(measured[norm][name], places[name][1], widenings)
                self._carry(places[name], values)
        for fold in self.folds:
            self._set_gamma(fold, measured[fold.norm]["moving_variance"], widenings)

    def _set_gamma(self, fold: Fold, variance: np.ndarray, widenings: Widenings) -> None:
        """Gives all fresh channels the same gamma / deviation; always the same until it is freed,
        so that what is found with it can be compared.
        """
        places = self.places[fold.norm]
        variance = self._fresh(variance, places["moving_variance"][1], widenings).ravel()
        deviation = np.sqrt(variance + fold.epsilon)
        if "gamma" in places:
            slope = self._norm * fold.gamma / np.sqrt(np.mean(deviation**2))
            slope = self._slopes.setdefault(fold.norm, slope)
            self._carry(places["gamma"], slope * deviation)
        else:
            self._slopes[fold.norm] = 1 / deviation

    def free(self) -> None:
        """Lets the next statistics set gamma / deviation anew."""
        self._slopes = {}

    def center(self, rows: np.ndarray) -> None:
        """Sets the means in folds to those that follow from the inputs'.

        Args:
            rows: The weights into the fresh channels.
        """
        for fold in self.folds:
            columns = self._into.columns[fold.kernel]
            means = rows[:, columns] @ self._input_means[columns]
            if fold.bias:
                means = means + self._carried[fold.bias][-len(means) :]
            self._carry(self.places[fold.norm]["moving_mean"], means)

    def _fresh(self, whole: Any, axis: AxisChannels, widenings: Widenings) -> np.ndarray:
        """Returns the entries of the fresh channels in a vector of a widened layer."""
        run = np.asarray(whole)[group_positions(axis.segments, widenings, self._bare.group)]
        return run[fresh_by_channel(axis, self._bare)]

    def _carry(self, place: Place, values: np.ndarray) -> None:
        item, axis = place
        positions = fresh_by_channel(axis, self._bare)
        self._carried[item.path][positions] = values.reshape(positions.shape) - axis.fresh
