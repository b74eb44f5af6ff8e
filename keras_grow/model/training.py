"""How a model that grows trains: the data of a `fit`, the task's loss, and the penalty."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar

import keras

from keras_grow.backend import TrainSteps, share_of_replica, strategy_scope, sync_state
from keras_grow.channels.graph import find_groups
from keras_grow.core import keras_private
from keras_grow.fit_context import FitContext
from keras_grow.penalty.similarity_penalty import SimilarityPenalty
from keras_grow.penalty.window import PenaltyWindow, penalised_kernels

# While the task loss is computed: what stands for the losses of the layers.
_SCORING: ContextVar[list | None] = ContextVar("scoring", default=None)


class PenalisedModel(TrainSteps, keras.Model):
    """A Functional model whose training loss takes a penalty in, for some epochs."""

    # The signature by which every Keras 3 knows that a subclass is built like a Functional model.
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._window: PenaltyWindow | None = None
        self._fit_context: FitContext | None = None

    def arm(self, penalty: SimilarityPenalty) -> None:
        """Makes the penalty part of the training loss for `penalty.epochs` epochs from now.

        Args:
            penalty: The penalty. Its reference for Eq. 4 is the present weights.

        Raises:
            TypeError: if it is no `SimilarityPenalty`.
            ValueError: if the model has no layer that can grow.
        """
        if not isinstance(penalty, SimilarityPenalty):
            raise TypeError(
                f"`penalty` must be a `keras_grow.SimilarityPenalty`. Received: penalty={penalty!r}"
            )
        sync_state(self)
        kernels = penalised_kernels(find_groups(self))
        with strategy_scope(self):
            window = PenaltyWindow(penalty, kernels, penalty.epochs)
        self.set_window(window)

    @property
    def penalty_window(self) -> PenaltyWindow | None:
        """The penalty that was armed last, with the epochs that it has left."""
        return self._window

    def set_window(self, window: PenaltyWindow | None) -> None:
        """Puts a window in the place of the present one; `None` takes the penalty out."""
        self._window = window
        keras_private.forget_compiled_functions(self)

    def fit(
        self,
        x=None,
        y=None,
        batch_size=None,
        epochs=1,
        verbose="auto",
        callbacks=None,
        validation_split=0.0,
        validation_data=None,
        shuffle=True,
        class_weight=None,
        sample_weight=None,
        initial_epoch=0,
        steps_per_epoch=None,
        validation_steps=None,
        validation_batch_size=None,
        validation_freq=1,
    ):
        """Trains as `keras.Model.fit` does, and lets growth methods score neurons on its data.

        See `keras_grow.methods.scoring_data` for what is kept of data that can be read only once.
        Where a penalty is armed, each epoch's logs get `penalty` and `weight_drift` (Eq. 4), its
        means over the steps in which it was part of the training; `loss` is that of `compile`.
        """
        arguments = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        self._fit_context = FitContext(self, arguments)
        try:
            with self._fit_context.at_end:
                return super().fit(**self._fit_context.arguments_of_keras())
        finally:
            self._fit_context = None

    @property
    def fit_context(self) -> FitContext | None:
        """What belongs to the `fit` that is running; `None` where none is."""
        return self._fit_context

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Computes the loss of `compile`; in training, the penalty adds to its gradient."""
        loss = super().compute_loss(
            x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=training
        )
        if self._window is None or not training:
            return loss
        penalty = self._window.loss()
        share = share_of_replica(keras.ops.ones((), penalty.dtype))
        if self._window.penalty.relative:  # Keras has shared out the loss, too
            size = keras.ops.abs(keras.ops.cast(keras.ops.stop_gradient(loss), penalty.dtype))
            share *= keras.ops.minimum(size / share, 1.0)
        penalty = keras.ops.cast(penalty * share, loss.dtype)
        # Its gradient, and not its value: callbacks that watch the loss are to see the task.
        return loss + (penalty - keras.ops.stop_gradient(penalty))

    @property
    def metrics(self) -> list:
        """The metrics of `compile`, and the state of the penalty's window."""
        return super().metrics + ([] if self._window is None else [self._window.state])

    def task_loss(self, x, y, y_pred, sample_weight=None, added: Sequence = ()):
        """Computes the loss of `compile` alone, for scoring: no regularizer, no penalty.

        Where `compile` was given none, the task is what layers add in a call (`add_loss`, activity
        regularizers). Nothing is assigned: a loss may note metrics.

        Args:
            x: Inputs.
            y: Targets.
            y_pred: Outputs.
            sample_weight: Weights of the examples.
            added: The losses that layers added in the call that computed the outputs.

        Raises:
            ValueError: if there is no loss at all.
        """
        self.check_task_loss(added)
        token = _SCORING.set([] if self.loss is not None else list(added))
        try:
            with keras.StatelessScope():
                return self.compute_loss(
                    x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=False
                )
        finally:
            _SCORING.reset(token)

    def check_task_loss(self, added: Sequence) -> None:
        """Refuses to score neurons by no loss at all; `added` is as for `task_loss`."""
        own = type(self).compute_loss is not PenalisedModel.compute_loss
        if self.loss is None and not added and not own:
            raise ValueError(
                f"Neurons can't be scored: model `{self.name}` was compiled without a loss, and no "
                "layer adds one (`add_loss`) when it is called with `training=False`. Pass a loss "
                "to `compile`, or use a method that needs no data ('net2wider', 'random')."
            )

    @property
    def losses(self) -> list:
        """Losses of regularizers and of `add_loss`; while neurons are scored, see `task_loss`."""
        scored = _SCORING.get()
        return super().losses if scored is None else scored
