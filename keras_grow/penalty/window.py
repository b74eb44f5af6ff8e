"""The penalty's window: for how many more epochs the penalty is part of the training loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras

from keras_grow.channels.graph import ChannelGraph
from keras_grow.core.index_maps import AxisChannels
from keras_grow.penalty.similarity import mean_similarity
from keras_grow.penalty.similarity_penalty import PenaltyTerms, SimilarityPenalty


class Neurons(NamedTuple):
    """Where the neurons lie in a kernel.

    Attributes:
        axis: Their axis.
        blocks: How many times they lie side by side along it: once for each gate of a recurrent
            layer.
    """

    axis: int
    blocks: int = 1


def penalised_kernels(graph: ChannelGraph) -> list[tuple[keras.Variable, Neurons]]:
    """Returns the kernels of the layers that can grow, each with where its neurons lie.

    A kernel of attention holds heads and their dimensions: its neurons are the heads.
    """
    found = []
    for item in graph.variables:
        axes = [axis for axis in item.axes if axis.role in ("output", "through")]
        if item.is_kernel and axes and any(s.group in graph.growable for s in axes[0].segments):
            found.append((item.variable, _neurons(axes[0])))
    return found


def _neurons(axis: AxisChannels) -> Neurons:
    side_by_side = axis.role == "output" and len(set(axis.segments)) == 1
    return Neurons(axis.axis, len(axis.segments) if side_by_side else 1)


def model_similarity(graph: ChannelGraph) -> float:
    """Returns the mean over the layers that can grow of Eq. 2, for the present weights.

    Raises:
        ValueError: if the model has no such layer.
    """
    kernels = penalised_kernels(graph)
    if not kernels:
        raise ValueError(
            f"Model `{graph.model.name}` has no layer that can grow, so there are no neurons to "
            "compare: see `model.growth_report()`."
        )
    values = [mean_similarity(kernel, *neurons) for kernel, neurons in kernels]
    return float(keras.ops.mean(keras.ops.stack(values)))


class WindowState(keras.metrics.Metric):
    """The variables of a window: how long it stays armed, and what it measures.

    A metric, because Keras threads the variables of metrics through every training step, whatever
    the backend, and keeps them apart from the model's weights. Unlike others it isn't reset with
    each epoch, and adds nothing to the logs by itself: a validation would log it too.

    Args:
        epochs_left: Epochs for which the penalty stays armed.
        sums: The sums of weights that Eq. 4 compares with, one per kernel.
    """

    def __init__(self, epochs_left: int, sums: Sequence[float]):
        super().__init__(name="penalty_window", dtype="float32")
        self.epochs_left = _state(epochs_left, "int32")
        self.sums = _state(sums, "float32")
        self.penalty, self.drift, self.steps = (_state(0.0, "float32") for _ in range(3))

    def update_state(self, armed: Any, terms: PenaltyTerms, keep_sums: bool) -> None:
        """Takes in the penalty of one step."""
        if not keep_sums:
            self.sums.assign(terms.sums)
        self.penalty.assign_add(terms.loss)
        self.drift.assign_add(terms.drift)
        self.steps.assign_add(keras.ops.cast(armed, "float32"))

    def reset_state(self) -> None:
        """Leaves everything as it is: an epoch ends by `end_epoch`."""

    def result(self) -> dict:
        """Returns nothing to log."""
        return {}

    def end_epoch(self) -> dict[str, float]:
        """Counts an epoch, and returns its means: 0 where the window was closed."""
        steps = _number(self.steps) or 1.0
        means = {"penalty": _number(self.penalty), "weight_drift": _number(self.drift)}
        means = {name: value / steps for name, value in means.items()}
        for variable in (self.penalty, self.drift, self.steps):
            variable.assign(0.0)
        self.epochs_left.assign(max(int(_number(self.epochs_left)) - 1, 0))
        return means


class PenaltyWindow:
    """A penalty on the kernels of a model, armed for some epochs after a growth.

    It opens and closes by a variable, so that closing it retraces nothing.

    Args:
        penalty: The penalty.
        kernels: Pairs of a kernel and where its neurons lie.
        epochs_left: Epochs for which it stays armed.
        sums: The sums of weights to compare with. Defaults to the present ones.

    Attributes:
        state: Its variables, as a metric.
    """

    def __init__(
        self,
        penalty: SimilarityPenalty,
        kernels: Sequence[tuple[keras.Variable, Neurons]],
        epochs_left: int,
        sums: Sequence[float] | None = None,
    ):
        self.penalty = penalty
        self.kernels = [kernel for kernel, _ in kernels]
        self.axes = [neurons.axis for _, neurons in kernels]
        self.blocks = [neurons.blocks for _, neurons in kernels]
        if sums is None:
            zeros = keras.ops.zeros(len(self.kernels))
            terms = penalty(self.kernels, self.axes, zeros, self.blocks)
            sums = keras.ops.convert_to_numpy(terms.sums)
        self.state = WindowState(epochs_left, sums)

    @property
    def epochs_left(self) -> int:
        """Number of epochs for which the penalty is still part of the training loss."""
        return int(_number(self.state.epochs_left))

    def loss(self) -> Any:
        """Returns the penalty of the present weights, or zero outside the window.

        Called once per training step, before the update.
        """
        armed = keras.ops.greater(self.state.epochs_left, 0)
        terms = PenaltyTerms(*keras.ops.cond(armed, self._armed, self._idle))
        self.state.update_state(armed, terms, keep_sums=self.penalty.reference != "step")
        return terms.loss

    def _armed(self) -> tuple:
        sums = keras.ops.convert_to_tensor(self.state.sums)
        return tuple(self.penalty(self.kernels, self.axes, sums, self.blocks))

    def _idle(self) -> tuple:
        zero = keras.ops.zeros((), "float32")
        return tuple(PenaltyTerms(zero, zero, zero, keras.ops.convert_to_tensor(self.state.sums)))

    def end_epoch(self) -> dict[str, float]:
        """Counts an epoch, and returns the means over its steps: 0 where the window was closed.

        `fit` calls it. A training loop of your own calls it after each epoch.

        Returns:
            "penalty" (its two terms, weighted; a relative one without the loss) and
            "weight_drift" (Eq. 4).
        """
        return self.state.end_epoch()

    def get_config(self) -> dict:
        """Returns what `from_config` needs, beside the kernels."""
        state = self.state
        return {
            "penalty": keras.saving.serialize_keras_object(self.penalty),
            "epochs_left": self.epochs_left,
            "sums": keras.ops.convert_to_numpy(state.sums).tolist(),
            **{name: _number(getattr(state, name)) for name in ("drift", "steps")},
            "penalty_sum": _number(state.penalty),
        }

    @classmethod
    def from_config(cls, config: dict, kernels: Sequence) -> PenaltyWindow:
        """Makes a window from what `get_config` returned."""
        penalty = keras.saving.deserialize_keras_object(config["penalty"])
        window = cls(penalty, kernels, config["epochs_left"], config["sums"])
        window.state.drift.assign(config.get("drift", 0.0))
        window.state.steps.assign(config.get("steps", 0.0))
        window.state.penalty.assign(config.get("penalty_sum", 0.0))
        return window


def _state(value, dtype: str) -> keras.Variable:
    return keras.Variable(value, dtype=dtype, trainable=False, aggregation="only_first_replica")


def _number(variable: keras.Variable) -> float:
    """Returns the value of a scalar, also of one that lives on several devices."""
    return float(keras.ops.convert_to_numpy(variable))
