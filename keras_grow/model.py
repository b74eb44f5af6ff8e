"""GrowableModel: a Keras model whose layers can be widened, with the penalty in its train step."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_grow import methods
from keras_grow.backend import TrainSteps, share_of_replica, strategy_scope, sync_state
from keras_grow.channels.budget import count_parameters, plan_budget
from keras_grow.channels.graph import count_weights, find_groups
from keras_grow.channels.report import GrowthReport, report, why_nothing_grows
from keras_grow.core import keras_private
from keras_grow.fit_context import FitContext
from keras_grow.growing import conversion
from keras_grow.growing.agreement import agree_on_weights, agreed
from keras_grow.growing.blocks import identity_block, moments, residual_block
from keras_grow.growing.deepening import check_after, deepened
from keras_grow.growing.events import GrowthEvent
from keras_grow.growing.failures import check_finite, explained
from keras_grow.growing.resizing import widened
from keras_grow.growing.rewidening import at_growths, growths_before, widen_weights
from keras_grow.growing.slots import check_slots
from keras_grow.growing.weight_loading import all_or_nothing, check_save_path, check_shapes
from keras_grow.methods import GrowthMethod
from keras_grow.methods.base import check_choice
from keras_grow.methods.scoring_data import ScoringData, as_scoring_data
from keras_grow.methods.silent import choose_all
from keras_grow.penalty.similarity_penalty import SimilarityPenalty
from keras_grow.penalty.window import PenaltyWindow, model_similarity, penalised_kernels
from keras_grow.utils.checks import check_epoch, check_limits, check_rate

# While the task loss is computed: what stands for the losses of the layers.
_SCORING: ContextVar[list | None] = ContextVar("scoring", default=None)


@keras.saving.register_keras_serializable(package="keras_grow")
class GrowableModel(TrainSteps, keras.Model):
    """A Functional Keras model that can grow.

    Build it as you would a `keras.Model`, from the growable layers of `keras_grow.layers` and any
    other Keras layers; or convert a model with `GrowableModel.from_keras`. Everything else is
    Keras: `compile`, `fit`, `save`, `summary`.

    Args:
        inputs: Input tensor or tensors, as for `keras.Model`.
        outputs: Output tensor or tensors.
        name: Name of the model.

    Example:

    >>> import keras, keras_grow
    >>> inputs = keras.Input((8,))
    >>> x = keras_grow.layers.GrowableDense(4, activation="relu", name="hidden")(inputs)
    >>> model = keras_grow.GrowableModel(inputs, keras.layers.Dense(3)(x))
    >>> model.compile("sgd", "mse")
    >>> event = model.grow(0.5, method="net2wider")
    >>> event.widths_after
    {'hidden': 6}
    >>> model.count_params()
    75
    """

    # The signature by which every Keras 3 knows that a subclass is built like a Functional model.
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._growth_history: tuple[GrowthEvent, ...] = ()
        # Growths that the model has been taken back from, and could be taken to again.
        self._undone_growths: tuple[GrowthEvent, ...] = ()
        self._window: PenaltyWindow | None = None
        self._fit_context: FitContext | None = None
        self._allow_inexact = False

    @classmethod
    def from_keras(cls, model: keras.Model) -> GrowableModel:
        """Makes a growable copy of a Functional or Sequential model, its state kept.

        Dense, Conv2D, DepthwiseConv2D and BatchNormalization layers become their growable kind, in
        Functional and Sequential models within the model too; what stays at its width, and why, is
        in `growth_report()`. All that the layers hold goes along: weights, seeds, vocabularies,
        adapted statistics. The copy is not compiled.

        Args:
            model: A Functional model, or a Sequential one that is built.

        Raises:
            TypeError: if the model is of another kind, or of a class whose methods (`train_step`)
                the copy would not have, or holds a layer that can't be copied.
            ValueError: if it is not built.

        Example:

        >>> import keras, keras_grow
        >>> plain = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="hidden"),
        ...                           keras.layers.Dense(3, name="head")])
        >>> model = keras_grow.GrowableModel.from_keras(plain)
        >>> print(model.growth_report())
        layer   type           group   width  growable
        hidden  GrowableDense  hidden  4      yes
        head    GrowableDense  head    3      no: it is an output of the model
        """
        copy = conversion.with_growable_layers(model, cls)
        return cls(copy.input, copy.output, name=model.name)

    def to_keras(self) -> keras.Model:
        """Returns a copy of plain Keras layers, which loads without this package.

        It is a `keras.Model`, which trains as one: a `train_step` of one's own is not part of it.

        Raises:
            TypeError: if a layer can't be copied, or the model's class has a `call` of its own.
        """
        return conversion.with_plain_layers(self)

    @property
    def growth_history(self) -> list[GrowthEvent]:
        """The growths of this model so far, saved with it."""
        return list(self._growth_history)

    @property
    def allow_inexact(self) -> bool:
        """Whether groups grow that a normalisation sees, where that changes the function.

        `growth_report()` says which those are. Saved with the model. Defaults to `False`.
        """
        return self._allow_inexact

    @allow_inexact.setter
    def allow_inexact(self, value: bool) -> None:
        if not isinstance(value, bool):
            raise TypeError(f"`allow_inexact` must be True or False. Received: {value!r}")
        self._allow_inexact = value

    @property
    def widths(self) -> dict[str, int]:
        """Name -> number of channels of each group that can grow."""
        return {name: group.width for name, group in find_groups(self).growable.items()}

    @property
    def neurons(self) -> int:
        """Number of channels in all groups that can grow."""
        return sum(self.widths.values())

    @property
    def similarity(self) -> float:
        """Mean over the layers that can grow of Eq. 2, the mean |cosine| between neurons."""
        return model_similarity(find_groups(self))

    def growth_report(self) -> GrowthReport:
        """Lists every layer: its group, its width, and whether it can grow or why not."""
        return report(self, find_groups(self))

    def grow(
        self,
        rate: float,
        method: str | GrowthMethod = "random",
        data: Any = None,
        max_params: int | None = None,
        max_widths: int | Mapping[str, int] | None = None,
        epoch: int | None = None,
        of: str = "neurons",
        max_flops: int | None = None,
        multiple_of: int | Mapping[str, int] | None = None,
    ) -> GrowthEvent | None:
        """Grows the model once.

        The model, its variables, its optimizer and their slots stay the same objects. A penalty
        that was armed ends: arm it anew. Within `fit`, callbacks that define `on_growth(event)` are
        told.

        Args:
            rate: Fraction of the neurons (channels of the groups that can grow) to add, or of what
                `of` says.
            method: Name of a growth method, or an instance. Defaults to "random".
            data: Batches of training data, for methods that need them.
            max_params: The most trainable parameters that the model may have afterwards.
            max_widths: The most channels of any group, or group name -> the most channels.
            epoch: Number of epochs completed, for the record.
            of: What the rate is a fraction of: "neurons", "parameters" (trainable ones) or "flops"
                (of a forward pass). Of the last two, as many neurons are added as make them grow by
                the rate, as near as whole neurons allow, and never more.
            max_flops: The most floating-point operations that a forward pass may take afterwards,
                per example: see `keras_grow.flops`.
            multiple_of: What the width of a group that grows is to be a multiple of afterwards,
                such as 8; or group name -> that. One number for all leaves out heads of attention.

        Returns:
            What happened, or `None` where a ceiling (or a model too small for the rate) leaves
            nothing to add.

        Raises:
            ValueError: if an argument is wrong, the model is not compiled, or nothing in it can
                grow, or a weight is NaN. After this and every other failure the model, its
                optimizer and its history are as before.
        """
        rate, method, epoch = check_rate(rate), methods.get(method), check_epoch(epoch)
        limits = {
            "of": of,
            "max_params": max_params,
            "max_flops": max_flops,
            "max_widths": max_widths,
            "multiple_of": multiple_of,
        }
        check_limits(limits)
        if not self.compiled:
            raise ValueError(
                f"Model `{self.name}` must be compiled before it can grow, so that its optimizer "
                "grows with it. Call `model.compile(...)` first."
            )
        graph = find_groups(self)
        if not graph.growable:
            raise ValueError(
                f"Model `{self.name}` has nothing to grow. {why_nothing_grows(self, graph)}"
            )
        sync_state(self)
        budget = plan_budget(graph, rate, **limits)
        check_finite(self)
        check_slots(self.optimizer)
        started = time.perf_counter()
        rng = np.random.default_rng([method.seed, len(self._growth_history)])
        data = self._data_for(method, data)
        with explained(f"Growing model `{self.name}` by '{method.name}'"):
            widenings = choose_all(method, graph, budget, rng, data) if budget.neurons else []
            widenings = agreed(self, widenings)
            chosen = time.perf_counter()
            if not widenings:
                return None
            check_choice(method, budget, widenings)
            with widened(self, graph, widenings) as undo:
                undo.callback(self._set_growths, self._growth_history, self._undone_growths)
                undo.callback(setattr, self, "_window", self._window)
                self._set_window(None)  # its sums are of the narrower weights
                self._record(graph, widenings, method, rate, epoch, (started, chosen))
        event = self._growth_history[-1]
        if self._fit_context is not None:
            self._fit_context.tell_of_growth(event)
        return event

    def deepen(
        self,
        after: str,
        branch: Callable[[keras.KerasTensor], keras.KerasTensor] | None = None,
        data: Any = None,
        epoch: int | None = None,
    ) -> GrowthEvent:
        """Puts a block into the model that is the identity at first: the function stays.

        The model, its variables, its optimizer and their slots stay the same objects, as by `grow`.
        New variables get slots of their own. A penalty that was armed ends: arm it anew.

        Args:
            after: Name of the layer that the block follows. Without a `branch`, a Dense layer or a
                convolution: the block is then a layer like it, with an identity for its kernel, and
                comes after the normalisation and the activation behind the layer, of which it gets
                the like. The activation must leave alone what has been through it, as relu does.
            branch: A function from a tensor to one of the same shape, which makes layers and calls
                them. What it puts out is added, and is zero at first: the kernel, or the scale, of
                its last layer is set to zero. Where the tensor comes out of a relu, the sum goes
                through one too.
            data: Batches of training data, where a BatchNormalization is to be passed through: it
                starts from the statistics of what comes in. Within `fit`, its data by default.
            epoch: Number of epochs completed, for the record.

        Returns:
            What happened. `event.block["output"]` names the layer that the block ends with.

        Raises:
            TypeError: if an argument is of the wrong type.
            ValueError: if the model is not compiled, has no such layer, or the block would change
                the function. After this and every other failure the model, its optimizer and its
                history are as before.

        Example:

        >>> import keras, keras_grow
        >>> inputs = keras.Input((8,))
        >>> x = keras_grow.layers.GrowableDense(4, activation="relu", name="hidden")(inputs)
        >>> model = keras_grow.GrowableModel(inputs, keras.layers.Dense(3, name="head")(x))
        >>> model.compile("sgd", "mse")
        >>> event = model.deepen(after="hidden")
        >>> [layer.name for layer in model.layers[1:]], model.widths
        (['hidden', 'hidden_2', 'head'], {'hidden': 4, 'hidden_2': 4})
        """
        epoch = check_epoch(epoch)
        if not self.compiled:
            raise ValueError(
                f"Model `{self.name}` must be compiled before it can get deeper, so that its "
                "optimizer goes along. Call `model.compile(...)` first."
            )
        tensor = check_after(self, after)
        sync_state(self)
        check_finite(self)
        check_slots(self.optimizer)
        started = time.perf_counter()
        with explained(f"Deepening model `{self.name}` after '{after}'"):
            with strategy_scope(self):
                if branch is not None:
                    block = residual_block(self, after, tensor, branch)
                else:
                    block, after = identity_block(self, after, partial(self._moments, data))
            agree_on_weights(self, block)
            before, parameters = self.widths, count_weights(self.trainable_variables)
            chosen = time.perf_counter()
            with deepened(self, after, block) as (undo, description):
                undo.callback(self._set_growths, self._growth_history, self._undone_growths)
                undo.callback(setattr, self, "_window", self._window)
                self._set_window(None)  # its kernels are not all of them any more
                event = GrowthEvent(
                    epoch,
                    "deepen",
                    0.0,
                    before,
                    self.widths,
                    parameters,
                    count_weights(self.trainable_variables),
                    seconds_choosing=chosen - started,
                    seconds_widening=time.perf_counter() - chosen,
                    block=description,
                )
                self._set_growths((*self._growth_history, event.bound_to(self)), ())
        event = self._growth_history[-1]
        if self._fit_context is not None:
            self._fit_context.tell_of_growth(event)
        return event

    def _moments(self, data: Any, tensor: keras.KerasTensor, axis: int):
        """Returns mean and variance, along an axis, of what comes through a symbolic tensor."""
        batches = self._batches("Passing through a BatchNormalization", data)
        rng = np.random.default_rng(len(self._growth_history))
        return moments(self, tensor, axis, [x for x, *_ in batches.batches(8, rng)])

    def _data_for(self, method: GrowthMethod, data: Any) -> ScoringData | None:
        """Returns the data that a method scores neurons on: what it was given, or `fit`'s."""
        return self._batches(f"Growth method '{method.name}'", data) if method.needs_data else None

    def _batches(self, what: str, data: Any) -> ScoringData:
        """Returns data that was given, or `fit`'s; refuses to do without."""
        if data is not None:
            return as_scoring_data(data).check_against(self)
        if self._fit_context is None or self._fit_context.data is None:
            raise ValueError(
                f"{what} needs training data. Grow within `fit` by a `GrowthCallback`, or pass "
                "`data=(x, y)` (or a data set)."
            )
        return self._fit_context.data

    def _record(self, graph, widenings, method, rate, epoch, times) -> None:
        before = {name: group.width for name, group in graph.growable.items()}
        after = {**before, **{w.group: w.width for w in widenings}}
        event = GrowthEvent(
            epoch,
            method.name,
            rate,
            before,
            after,
            count_parameters(graph, before),
            count_parameters(graph, after),
            unhelpful=sum(w.unhelpful for w in widenings),
            seconds_choosing=times[1] - times[0],
            seconds_widening=time.perf_counter() - times[1],
            sources={w.group: w.sources.tolist() for w in widenings},
            outgoing_scale={
                w.group: w.outgoing_scale.tolist()
                for w in widenings
                if np.any(w.outgoing_scale != 1)
            },
        )
        self._set_growths((*self._growth_history, event.bound_to(self)), ())

    def _set_growths(self, history: tuple, undone: tuple) -> None:
        self._growth_history, self._undone_growths = history, undone

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
        self._set_window(window)

    @property
    def penalty_window(self) -> PenaltyWindow | None:
        """The penalty that was armed last, with the epochs that it has left."""
        return self._window

    def _set_window(self, window: PenaltyWindow | None) -> None:
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
        penalty = keras.ops.cast(share_of_replica(self._window.loss()), loss.dtype)
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
        own = type(self).compute_loss is not GrowableModel.compute_loss
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

    def load_weights(self, filepath: str | Path, skip_mismatch: bool = False, **kwargs) -> None:
        """Loads weights as `keras.Model.load_weights` does, or changes nothing.

        Args:
            filepath: Path of a file that `save_weights` or `save` wrote.
            skip_mismatch: Whether to skip layers of other widths, with a warning.

        Raises:
            ValueError: if the file is of a model of other widths, naming them.
        """
        if skip_mismatch:
            super().load_weights(filepath, skip_mismatch=True, **kwargs)
            return
        with all_or_nothing(self, filepath):
            super().load_weights(filepath, **kwargs)

    def set_weights(self, weights: Sequence) -> None:
        """Sets the weights as `keras.Model.set_weights` does, or changes nothing.

        Weights of a width that the model has had before take it back there: widths, optimizer slots
        and growth history become those of then, and the penalty's window is closed. Weights of the
        width that it was taken back from take it there again, until it grows another way.

        Args:
            weights: Arrays as `get_weights()` returns them.

        Raises:
            ValueError: if they are of shapes that the model has not had.

        Example:

        >>> import keras, keras_grow
        >>> inputs = keras.Input((8,))
        >>> x = keras_grow.layers.GrowableDense(4, activation="relu", name="hidden")(inputs)
        >>> model = keras_grow.GrowableModel(inputs, keras.layers.Dense(3)(x))
        >>> model.compile("sgd", "mse")
        >>> narrow = model.get_weights()
        >>> event = model.grow(0.5, method="net2wider")
        >>> model.set_weights(narrow)
        >>> model.widths, model.growth_history
        ({'hidden': 4}, [])
        """
        sync_state(self)
        events, growths = self._growth_history + self._undone_growths, len(self._growth_history)
        graph = find_groups(self) if events else None
        number = growths_before(graph, weights, events, growths) if events else None
        if number is None or number == growths:
            check_shapes(self, weights)
            super().set_weights(weights)
            return
        with (
            explained(f"Taking model `{self.name}` to other widths"),
            at_growths(self, graph, events, growths, number) as undo,
        ):
            undo.callback(self._set_growths, self._growth_history, self._undone_growths)
            undo.callback(setattr, self, "_window", self._window)
            super().set_weights(weights)
            # Blocks that are taken out are gone, with what came after them.
            undone = tuple(takewhile(lambda event: event.block is None, events[number:]))
            self._set_growths(events[:number], undone)
            self._set_window(None)

    def widen_weights(
        self, weights: Sequence, since: GrowthEvent | None = None
    ) -> list[np.ndarray]:
        """Takes weights of an earlier width of this model to the present one.

        For weights that a callback keeps: an average, a teacher, those at the start. They are
        widened as the optimizer's own average of weights: copied channels are copied and scaled as
        they were in the model, without the noise or the step that a method adds to copies; fresh
        channels get their present weights.

        Args:
            weights: Arrays as `get_weights()` returned them at the earlier width.
            since: The growth that came next, one of `growth_history`. Defaults to the one that the
                shapes tell.

        Returns:
            Arrays of the shapes of `get_weights()`. The model is not changed.

        Raises:
            ValueError: if they are of shapes that the model has not had.

        Example:

        >>> import keras, keras_grow
        >>> inputs = keras.Input((8,))
        >>> x = keras_grow.layers.GrowableDense(4, activation="relu", name="hidden")(inputs)
        >>> model = keras_grow.GrowableModel(inputs, keras.layers.Dense(3)(x))
        >>> model.compile("sgd", "mse")
        >>> start = model.get_weights()
        >>> event = model.grow(0.5, method="net2wider")
        >>> [value.shape for value in model.widen_weights(start)]
        [(8, 6), (6,), (6, 3), (3,)]
        """
        sync_state(self)
        graph = find_groups(self)
        history = self._growth_history
        if since is not None and since not in history:
            raise ValueError(
                "`since` must be a growth of this model, one of `growth_history`. Received: "
                f"since={since!r}"
            )
        number = growths_before(graph, weights, history, len(history))
        if number is None and len(weights) == len(self.weights):
            check_shapes(self, weights)
        if number is None or (since is not None and history.index(since) != number):
            raise ValueError(
                "`weights` must be all weights of the model, as `get_weights()` returned them"
                + ("" if since is None else f" just before the growth '{since}'")
                + f". Received: {len(weights)} arrays of shapes {[np.shape(w) for w in weights]}"
            )
        return widen_weights(graph, weights, history[number:])

    def save(self, filepath: str | Path, *args, **kwargs) -> None:
        """Saves the whole model, as `keras.Model.save` does, in the `.keras` format."""
        check_save_path(filepath)
        super().save(filepath, *args, **kwargs)

    def get_growth_state(self) -> dict:
        """Returns what has come of growing beside the weights, as JSON can hold it."""
        return {
            "history": [event.to_dict() for event in self._growth_history],
            "window": None if self._window is None else self._window.get_config(),
            "allow_inexact": self._allow_inexact,
            # Keras saves no seed generator: without this, a Dropout would start anew.
            "seeds": [state.numpy().tolist() for state in keras_private.seed_states(self)],
        }

    def set_growth_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `get_growth_state` returned, in a model of the same widths."""
        self._allow_inexact = state.get("allow_inexact", False)
        history = (GrowthEvent.from_dict(event) for event in state["history"])
        self._set_growths(tuple(event.bound_to(self) for event in history), ())
        window = state["window"]
        if window:
            kernels = penalised_kernels(find_groups(self))
            with strategy_scope(self):
                window = PenaltyWindow.from_config(window, kernels)
        self._set_window(window or None)
        # Files of older versions have no seeds.
        for seed, value in zip(
            keras_private.seed_states(self), state.get("seeds", ()), strict=False
        ):
            seed.assign(value)

    def get_config(self) -> dict:
        return {**super().get_config(), "growth": self.get_growth_state()}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        growth = config.pop("growth", {"history": [], "window": None})
        model = super().from_config(config, custom_objects=custom_objects)
        model.set_growth_state(growth)
        return model


def check_growable_model(model: Any, callback: str, otherwise: str = "") -> None:
    """Refuses a model of another kind.

    Args:
        model: The model that `fit` trains.
        callback: Name of the callback that it is for.
        otherwise: What there is for other models.

    Raises:
        TypeError: if it is no `GrowableModel`.
    """
    if not isinstance(model, GrowableModel):
        raise TypeError(
            f"`{callback}` needs a `keras_grow.GrowableModel`. Convert the model with "
            f"`keras_grow.GrowableModel.from_keras(model)` and compile the result{otherwise}. "
            f"Received: a {type(model).__name__} (`{model.name}`)"
        )
