"""GrowableModel: a Keras model whose layers can be widened, and which gets deeper."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import keras
import numpy as np

from keras_grow import methods
from keras_grow.backend import sync_state
from keras_grow.channels.budget import count_parameters, plan_budget
from keras_grow.channels.flops import forward_flops
from keras_grow.channels.graph import ChannelGraph, count_weights, find_groups
from keras_grow.channels.report import GrowthReport, report, why_nothing_grows
from keras_grow.growing import conversion
from keras_grow.growing.agreement import agree_on_weights, agreed
from keras_grow.growing.blocks import moments
from keras_grow.growing.deepening import check_after, deepen, make_block, try_block
from keras_grow.growing.events import GrowthEvent
from keras_grow.growing.failures import check_finite, explained
from keras_grow.growing.resizing import widen
from keras_grow.growing.slots import check_slots
from keras_grow.growing.transaction import transaction
from keras_grow.methods import GrowthMethod
from keras_grow.methods.base import check_choice
from keras_grow.methods.scoring_data import ScoringData, as_scoring_data
from keras_grow.methods.silent import choose_all
from keras_grow.model.history import GrownModel
from keras_grow.penalty.window import model_similarity
from keras_grow.utils.checks import check_epoch, check_limits, check_rate


@keras.saving.register_keras_serializable(package="keras_grow")
class GrowableModel(GrownModel):
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
        graph = self._graph_to_grow()
        sync_state(self)
        budget = plan_budget(graph, rate, **limits)
        check_finite(self)
        check_slots(self.optimizer)
        started = time.perf_counter()
        rng = np.random.default_rng([method.seed, len(self.growth_history)])
        data = self._data_for(method, data)
        what = f"Growing model `{self.name}` by '{method.name}'"
        with transaction() as steps, explained(what):
            widenings = choose_all(method, graph, budget, rng, data) if budget.neurons else []
            widenings = agreed(self, widenings)
            chosen = time.perf_counter()
            if not widenings:
                return None
            check_choice(method, budget, widenings)
            self.put_back_with(steps.undo)
            widen(steps, self, graph, widenings)
            self._record(graph, widenings, method, rate, epoch, (started, chosen))
        event = self.growth_history[-1]
        if self.fit_context is not None:
            self.fit_context.tell_of_growth(event)
        return event

    def deepen(
        self,
        after: str,
        branch: Callable[[keras.KerasTensor], keras.KerasTensor] | None = None,
        data: Any = None,
        epoch: int | None = None,
        max_params: int | None = None,
        max_flops: int | None = None,
    ) -> GrowthEvent | None:
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
            max_params: The most trainable parameters that the model may have afterwards.
            max_flops: The most floating-point operations that a forward pass may take afterwards,
                per example.

        Returns:
            What happened, or `None` where a ceiling leaves no room for the block.
            `event.block["output"]` names the layer that the block ends with.

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
        check_limits({"max_params": max_params, "max_flops": max_flops})
        if not self.compiled:
            raise ValueError(
                f"Model `{self.name}` must be compiled before it can get deeper, so that its "
                "optimizer goes along. Call `model.compile(...)` first."
            )
        check_after(self, after)
        sync_state(self)
        check_finite(self)
        check_slots(self.optimizer)
        started = time.perf_counter()
        with transaction() as steps, explained(f"Deepening model `{self.name}` after '{after}'"):
            if not self._has_room(after, branch, max_params, max_flops):
                return None
            block, after = make_block(self, after, branch, partial(self._moments, data))
            parameters = count_weights(self.trainable_variables)
            agree_on_weights(self, block)
            before = self.widths
            chosen = time.perf_counter()
            self.put_back_with(steps.undo)
            description = deepen(steps, self, after, block)
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
            self.note_growth(event)
        event = self.growth_history[-1]
        if self.fit_context is not None:
            self.fit_context.tell_of_growth(event)
        return event

    def _has_room(self, after: str, branch, max_params: int | None, max_flops: int | None) -> bool:
        """Tells whether ceilings allow a block, by one that is made for that."""
        if max_params is None and max_flops is None:
            return True
        block = try_block(self, after, branch)
        parts = [self.trainable_variables, block.trainable_variables]
        if max_params is not None and sum(map(count_weights, parts)) > max_params:
            return False
        return max_flops is None or sum(map(forward_flops, [self, block])) <= max_flops

    def _moments(self, data: Any, tensor: keras.KerasTensor, axis: int):
        """Returns mean and variance, along an axis, of what comes through a symbolic tensor."""
        batches = self._batches("Passing through a BatchNormalization", data)
        rng = np.random.default_rng(len(self.growth_history))
        return moments(self, tensor, axis, [x for x, *_ in batches.batches(8, rng)])

    def _graph_to_grow(self) -> ChannelGraph:
        """Returns the model's channel groups; refuses a model that can't grow as it is."""
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
        return graph

    def _data_for(self, method: GrowthMethod, data: Any) -> ScoringData | None:
        """Returns the data that a method scores neurons on: what it was given, or `fit`'s."""
        return self._batches(f"Growth method '{method.name}'", data) if method.needs_data else None

    def _batches(self, what: str, data: Any) -> ScoringData:
        """Returns data that was given, or `fit`'s; refuses to do without."""
        if data is not None:
            return as_scoring_data(data).check_against(self)
        if self.fit_context is None or self.fit_context.data is None:
            raise ValueError(
                f"{what} needs training data. Grow within `fit` by a `GrowthCallback`, or pass "
                "`data=(x, y)` (or a data set)."
            )
        return self.fit_context.data

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
        self.note_growth(event)


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
