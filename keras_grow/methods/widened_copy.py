"""A copy of a model with more channels, on which methods try what they might add.

It computes in float32 (in float64, where the model does), normalisations in inference form, and
with the values that it is given: it is a pure function, and nothing in it changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_grow.backend import compiled
from keras_grow.channels.graph import ChannelGraph, find_groups
from keras_grow.channels.layer_table import acts_as
from keras_grow.core import keras_private
from keras_grow.core.float32_copy import copy_in_float32
from keras_grow.core.widening import Widening, widen_array
from keras_grow.growing.resizing import widen_model

Moments = dict[str, dict[str, np.ndarray]]


class WidenedCopy:
    """A widened copy of a model.

    Args:
        graph: The channel groups of the model.
        widenings: How the groups are widened. What they add is left to `values`.

    Attributes:
        paths: Paths of the weights that widened channels run through.
        present: Their values in the model, in the precision of the copy.
    """

    def __init__(self, graph: ChannelGraph, widenings: Iterable[Widening]):
        self._model = graph.model
        widenings = list(widenings)
        widened = {widening.group for widening in widenings}
        self._items = [
            item
            for item in graph.variables
            if any(s.group in widened for axis in item.axes for s in axis.segments)
        ]
        self.paths = [item.path for item in self._items]
        self._network = copy_in_float32(graph.model)
        twins = zip(graph.model.weights, self._network.weights, strict=True)
        twin_of = {id(variable): twin for variable, twin in twins}
        self._targets = [twin_of[id(item.variable)] for item in self._items]
        self.present = [keras.ops.convert_to_numpy(target) for target in self._targets]
        widen_model(self._network, find_groups(self._network), widenings)
        norms = {item.layer_name for item in self._items if acts_as(item.layer) == "normalisation"}
        self._norms: dict[int, str] = {}
        for call in keras_private.calls_of(self._network):
            if call.name in norms and acts_as(call.operation) == "normalisation":
                self._norms.setdefault(id(call.operation), call.name)
        self._moments = compiled(self._input_moments)

    def values(self, present: Sequence, widenings: Mapping[str, Widening]) -> list:
        """Returns the values of the widened weights.

        Args:
            present: The values of the model's, in the order of `paths`: NumPy's arrays or
                (to differentiate through a widening) the backend's.
            widenings: Group -> widening, with what is added.
        """
        return [
            widen_array(value, item.axes, widenings, path=item.path)
            for value, item in zip(present, self._items, strict=True)
        ]

    def outputs(self, values: Sequence, x: Any) -> Any:
        """Computes the outputs of the copy, with given values of the widened weights."""
        with self._holding(values):
            return self._network(x, training=False)

    def loss(self, values: Sequence, x: Any, y: Any, sample_weight: Any) -> Any:
        """Computes the task loss of a batch, with given values of the widened weights."""
        with self._holding(values) as scope:
            outputs = self._network(x, training=False)
        return self._model.task_loss(x, y, outputs, sample_weight, scope.losses)

    def norm_inputs(self, values: Sequence, x: Any) -> list[tuple[str, Any, list[int]]]:
        """Looks at what goes into the normalisations that widened channels run through.

        Not into those within a wrapper (TimeDistributed), where nobody sees it.

        Returns:
            For each call of one: its name, its inputs, and their axes beside that of the channels.
        """
        if not self._norms:
            return []
        found = []

        def see(operation, inputs):
            if id(operation) in self._norms:
                name, axes = self._norms[id(operation)], axes_beside_channels(operation, inputs[0])
                found.append((name, inputs[0], axes))

        with self._holding(values):
            keras_private.run_calls(self._network, x, see=see)
        return found

    def measure(self, values: Sequence, batches: Sequence[tuple]) -> Moments:
        """Measures the statistics of what goes into the normalisations.

        Args:
            values: Values of the widened weights.
            batches: Batches `(x, y, sample_weight)`, which count alike.

        Returns:
            Name of each normalisation -> its "moving_mean" and "moving_variance".
        """
        if not self._norms:
            return {}
        values = [keras.ops.convert_to_tensor(value) for value in values]
        pairs: dict[str, list] = {}
        for x, *_ in batches:
            for norm, of_batch in self._moments(values, x).items():
                for pair in of_batch:
                    pair = [keras.ops.convert_to_numpy(value).astype("float64") for value in pair]
                    pairs.setdefault(norm, []).append(pair)
        return {name: _pool(of_batches) for name, of_batches in pairs.items()}

    def _input_moments(self, values: Sequence, x: Any) -> dict[str, list]:
        moments: dict[str, list] = {}
        for norm, value, axes in self.norm_inputs(values, x):
            moments.setdefault(norm, []).append(keras.ops.moments(value, axes))
        return moments

    def _holding(self, values: Sequence) -> keras.StatelessScope:
        mapping = list(zip(self._targets, values, strict=True))
        return keras.StatelessScope(state_mapping=mapping, collect_losses=True)


def axes_beside_channels(norm: keras.layers.BatchNormalization, value: Any) -> list[int]:
    """Returns all axes of a normalisation's inputs but that of the channels."""
    rank = len(value.shape)
    return [axis for axis in range(rank) if axis != norm.axis % rank]


def _pool(pairs: list) -> dict[str, np.ndarray]:
    """Returns the mean and the variance over batches, of those of each batch."""
    means, variances = np.array(pairs).transpose(1, 0, 2)
    with np.errstate(all="ignore"):  # what is not finite stays so, for the method to see
        return {"moving_mean": means.mean(0), "moving_variance": variances.mean(0) + means.var(0)}
