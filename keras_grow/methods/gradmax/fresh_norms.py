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
from keras_grow.channels.layer_table import acts_as
from keras_grow.core import keras_private
from keras_grow.core.index_maps import AxisChannels, group_positions, positions_by_channel
from keras_grow.core.widening import Widening
from keras_grow.methods.gradmax.fresh_weights import Arrays, FreshWeights, Widenings

Place = tuple[VariableChannels, AxisChannels]


@dataclass(frozen=True)
class FoldedNorm:
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


def find_folded_norms(graph: ChannelGraph) -> list[FoldedNorm]:
    """Returns the batch normalisations of a model that can be folded.

    Example:

    >>> import keras_grow
    >>> from keras_grow.channels.graph import find_groups
    >>> from keras_grow.methods.gradmax.fresh_norms import find_folded_norms
    >>> graph = find_groups(keras_grow.models.VGG16(width=2))
    >>> [folded.norm for folded in find_folded_norms(graph)][:3]
    ['conv1_bn', 'conv2_bn', 'conv3_bn']
    """
    paths = {id(item.variable): item.path for item in graph.variables}
    found, makers = [], {}
    for call in keras_private.calls_of(graph.model):
        norm, layer = call.operation, makers.get(id(call.inputs[0]))
        makers.update({id(tensor): norm for tensor in call.outputs})
        linear = getattr(layer, "activation", None) in (None, keras.activations.linear)
        kernel = paths.get(id(getattr(layer, "kernel", None)))
        if acts_as(norm) == "normalisation" and kernel and linear:
            gamma = _root_mean_square(norm.gamma) if norm.scale else 1.0
            bias = paths[id(layer.bias)] if layer.use_bias else None
            found.append(FoldedNorm(call.name, kernel, bias, gamma or 1.0, norm.epsilon))
    return found


def _root_mean_square(variable: keras.Variable) -> float:
    return float(np.sqrt(np.mean(keras.ops.convert_to_numpy(variable) ** 2)))


class FreshNorms:
    """The parameters and statistics of a group's fresh channels in their batch normalisations.

    Args:
        graph: The channel groups of the model.
        bare: A widening of the group that adds the fresh channels at the end.
        into: The kernels that produce them.
        folded: The normalisations of the model that are folded.
        carried: Variable path -> what the widening adds to it; changed in place.
        norm: Root mean square of gamma where it is folded, relative to the present channels.

    Attributes:
        places: Name of each normalisation -> parameter -> where the group lies in it.
        folded: Those that are folded, right after the group's kernels.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        bare: Widening,
        into: FreshWeights,
        folded: Sequence[FoldedNorm],
        carried: dict[str, np.ndarray],
        norm: float,
    ):
        self._bare, self._into, self._carried, self._norm = bare, into, carried, norm
        self.folded = [each for each in folded if each.kernel in into.once]
        self.places: dict[str, dict[str, Place]] = graph.normalisations(bare.group)
        self._input_means = into.zeros[0]
        self._factors: dict[str, Any] = {}  # normalisation -> gamma / deviation

    def take_input_means(self, gradients: Arrays, widenings: Widenings, examples: int) -> None:
        """Takes the mean of what each weight is multiplied with.

        Args:
            gradients: Gradients of the sum over examples of the mean outputs of the kernels.
            widenings: The widenings of the network that they come from.
            examples: Number of examples.
        """
        self._input_means = self._into.matrix(gradients, widenings)[0] / examples

    def gradients_through_means(self, gradients: Arrays, widenings: Widenings) -> np.ndarray:
        """Returns what the kernels do through the means that the normalisations subtract.

        By the gradient of beta: TensorFlow's fused normalisation has none for its statistics.
        """
        result = np.zeros_like(self._into.zeros)
        for folded in self.folded:
            if "beta" in self.places[folded.norm]:
                item, axis = self.places[folded.norm]["beta"]
                of_beta = self._fresh(gradients[item.path], axis, widenings).ravel()
                columns = self._into.columns[folded.kernel]
                of_mean = -self._factors[folded.norm] * of_beta
                result[:, columns] += np.outer(of_mean, self._input_means[columns])
        return result

    def take_statistics(self, measured: Mapping[str, Arrays], widenings: Widenings) -> None:
        """Sets the statistics, and where they are folded the gamma that makes up for the variance.

        Args:
            measured: Name of each normalisation -> "moving_mean" and "moving_variance" of all
                channels of a widened network.
            widenings: The widenings of that network.
        """
        # Nobody sees what goes into a normalisation within a wrapper: it starts as drawn.
        seen = {norm: places for norm, places in self.places.items() if norm in measured}
        for norm, places in seen.items():
            for name in ("moving_mean", "moving_variance"):
                values = self._fresh(measured[norm][name], places[name][1], widenings)
                self._carry(places[name], values)
        for folded in self.folded:
            self._set_gamma(folded, measured[folded.norm]["moving_variance"], widenings)

    def _set_gamma(self, folded: FoldedNorm, variance: np.ndarray, widenings: Widenings) -> None:
        """Gives all fresh channels the same gamma / deviation; always the same until it is freed,
        so that what is found with it can be compared.
        """
        places = self.places[folded.norm]
        variance = self._fresh(variance, places["moving_variance"][1], widenings).ravel()
        deviation = np.sqrt(variance + folded.epsilon)
        if "gamma" in places:
            factor = self._norm * folded.gamma / np.sqrt(np.mean(deviation**2))
            factor = self._factors.setdefault(folded.norm, factor)
            self._carry(places["gamma"], factor * deviation)
        else:
            self._factors[folded.norm] = 1 / deviation

    def free(self) -> None:
        """Lets the next statistics set gamma / deviation anew."""
        self._factors = {}

    def center(self, weights: np.ndarray) -> None:
        """Sets the means where they are folded to those that follow from the inputs'.

        Args:
            weights: The weights into the fresh channels.
        """
        for folded in self.folded:
            columns = self._into.columns[folded.kernel]
            means = weights[:, columns] @ self._input_means[columns]
            if folded.bias:
                means = means + self._carried[folded.bias][-len(means) :]
            self._carry(self.places[folded.norm]["moving_mean"], means)

    def _fresh(self, whole: Any, axis: AxisChannels, widenings: Widenings) -> np.ndarray:
        """Returns the entries of the fresh channels in a vector of a widened layer."""
        run = np.asarray(whole)[group_positions(axis.segments, widenings, self._bare.group)]
        return run[self._fresh_positions(axis)]

    def _carry(self, place: Place, values: np.ndarray) -> None:
        item, axis = place
        positions = self._fresh_positions(axis)
        self._carried[item.path][positions] = values.reshape(positions.shape) - axis.fresh

    def _fresh_positions(self, axis: AxisChannels) -> np.ndarray:
        """Returns where each fresh channel lies in the group's run, one row per channel."""
        by_channel = positions_by_channel(axis.segments, self._bare.group, self._bare.width)
        return by_channel[self._bare.sources < 0]
