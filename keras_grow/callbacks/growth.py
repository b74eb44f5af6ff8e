"""GrowthCallback: grows a model while `fit` runs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

import keras

from keras_grow import methods
from keras_grow.backend import collect_garbage
from keras_grow.callbacks import growth_schedules
from keras_grow.callbacks.growth_schedules import Schedule
from keras_grow.channels.budget import share_of
from keras_grow.channels.flops import forward_flops
from keras_grow.channels.graph import count_weights
from keras_grow.growing.deepening import try_block
from keras_grow.growing.events import GrowthEvent
from keras_grow.methods import GrowthMethod
from keras_grow.model import check_growable_model
from keras_grow.penalty.similarity_penalty import PENALTIES, SimilarityPenalty
from keras_grow.utils import progress
from keras_grow.utils.checks import check_limits, check_rate


class GrowthCallback(keras.callbacks.Callback):
    """Grows a `GrowableModel` while it trains, and penalises similar neurons after each growth.

    The model grows before the first step of an epoch, never after the last one: nothing would
    train it. Each epoch's logs get `params` (trainable parameters), `similarity` (the mean
    |cosine| between neurons at the end of the epoch) and `weight_drift` (Eq. 4, averaged over the
    steps in which the penalty was armed). Put the callback before those that record the logs.

    Args:
        rate: Fraction of the growable neurons to add at each growth, such as 0.35, or of what `of`
            says.
        every: Epochs between growths, or a `keras_grow.Schedule`. Defaults to 50.
        method: Name of a growth method, or an instance. Defaults to "random".
        penalty: A `SimilarityPenalty`, `None` for no penalty, "paper" for Sakai and Hotta's Eq. 5,
            or "default", on the angles between the neurons of a layer, which parts copies where
            there is room (see `SimilarityPenalty`). Both last 15 epochs, or until the next growth.
        max_params: The most trainable parameters that the model may have.
        max_widths: The most channels of any group, or group name -> the most channels.
        of: What the rate is a fraction of: "neurons", "parameters" or "flops". See
            `GrowableModel.grow`.
        max_flops: The most floating-point operations that a forward pass may take, per example.
        multiple_of: What the width of a group that grows is to be a multiple of, such as 8; or
            group name -> that.
        depth: What else each growth does: layer name -> branch, for a block that follows the layer,
            or `None`, for a block like that of the layer. See `GrowableModel.deepen`. A block for
            which `max_params` or `max_flops` leaves no room stays out.
        verbose: 1 prints a line for each growth, and in a terminal or a notebook a progress bar
            while a long choice of neurons lasts; 0 prints nothing.

    Raises:
        ValueError: if an argument is wrong.
        TypeError: if an argument, or the model that it is used with, is of the wrong type.

    Example:

    >>> import keras, keras_grow, numpy as np
    >>> inputs = keras.Input((8,))
    >>> x = keras_grow.layers.GrowableDense(4, activation="relu", name="hidden")(inputs)
    >>> model = keras_grow.GrowableModel(inputs, keras.layers.Dense(3)(x))
    >>> model.compile("sgd", "mse")
    >>> callback = keras_grow.GrowthCallback(0.5, every=1, method="net2wider", verbose=0)
    >>> history = model.fit(np.ones((8, 8)), np.ones((8, 3)), epochs=2, callbacks=[callback],
    ...                     verbose=0)
    >>> model.widths
    {'hidden': 6}

    Reference:
        Sakai and Hotta, Growing Deep Neural Network Considering with Similarity between Neurons.
    """

    def __init__(
        self,
        rate: float,
        every: int | Schedule = 50,
        method: str | GrowthMethod = "random",
        penalty: SimilarityPenalty | str | None = "default",
        max_params: int | None = None,
        max_widths: int | Mapping[str, int] | None = None,
        verbose: int = 1,
        of: str = "neurons",
        max_flops: int | None = None,
        multiple_of: int | Mapping[str, int] | None = None,
        depth: Mapping[str, Callable | None] | None = None,
    ):
        super().__init__()
        self.rate = check_rate(rate)
        self.schedule = growth_schedules.get(every)
        self.method = methods.get(method)
        self.penalty = _check_penalty(penalty)
        self.limits = {
            "max_params": max_params,
            "max_flops": max_flops,
            "max_widths": max_widths,
            "multiple_of": multiple_of,
        }
        check_limits({"of": of, **self.limits})
        self.of = of
        self.depth = check_depth(depth)
        self.verbose = verbose
        self._stopped = False
        self._batches = 0
        self._first_epoch = True

    def set_model(self, model: keras.Model) -> None:
        """Takes the model that `fit` trains; refuses one that can't grow."""
        check_growable_model(model, "GrowthCallback")
        if not model.widths:
            raise ValueError(f"Model `{model.name}` has nothing to grow.\n{model.growth_report()}")
        for name, branch in self.depth.items():
            block = try_block(model, name, branch)
            if self.of == "flops" or self.limits["max_flops"] is not None:
                forward_flops(block)  # refuses a block whose cost isn't known
        super().set_model(model)

    @property
    def needs_data(self) -> bool:
        """Whether a growth reads training data: to score neurons, or for statistics of a block."""
        return self.method.needs_data or None in self.depth.values()

    def on_train_begin(self, logs=None) -> None:
        """A ceiling reached in another run doesn't count in this one."""
        self._stopped = False
        self._first_epoch = True
        self._check_backup()
        epochs = self.params.get("epochs")
        if epochs is not None and not self.schedule.may_grow(epochs):
            warnings.warn(
                f"`GrowthCallback` grows nothing in this `fit`: it ends after epochs={epochs}, "
                "before the first growth (epochs are counted anew by each `fit`, and none grows "
                "after its last). Train for more epochs, grow sooner (`every=`), or go on with "
                "`fit(initial_epoch=..., epochs=...)`.",
                stacklevel=2,
            )

    def _check_backup(self) -> None:
        """Warns of a callback of Keras that can't take a grown run up again."""
        context = self.model.fit_context
        callbacks = () if context is None else context.arguments["callbacks"]
        if any(isinstance(c, keras.callbacks.BackupAndRestore) for c in callbacks):
            warnings.warn(
                "`keras.callbacks.BackupAndRestore` can't resume a run once it has grown: it loads "
                "the weights into a model of the first widths. Use "
                "`keras_grow.GrowthBackup(folder)` in its place, as the last callback.",
                stacklevel=2,
            )

    def on_epoch_begin(self, epoch, logs=None) -> None:
        """Grows, where the schedule says so."""
        self._batches = 0
        history = self.model.growth_history
        # A model that was saved in the epoch of its growth goes on in that epoch.
        done = self._first_epoch and bool(history) and history[-1].epoch == epoch
        self._first_epoch = False
        if not self._stopped and not done and self.schedule.due(epoch):
            self._grow(epoch)

    def _grow(self, epoch: int) -> None:
        with progress.hidden(not self.verbose):
            event = self.model.grow(self.rate, self.method, epoch=epoch, of=self.of, **self.limits)
        if event is None:
            self._stopped = True
            self._say(f"epoch {epoch}: growth stops at {self._ceiling()}")
            return
        self._say(str(event) + self._shortfall(event))
        ceilings = {name: self.limits[name] for name in ("max_params", "max_flops")}
        for after, branch in self.depth.items():
            event = self.model.deepen(after, branch, epoch=epoch, **ceilings)
            self._say(str(event or f"epoch {epoch}: no room for a block after `{after}`"))
        collect_garbage()
        self.schedule.grown(epoch)
        if self.penalty is not None:
            self.model.arm(self.penalty)

    def _ceiling(self) -> str:
        reached = ", ".join(f"{name}={value}" for name, value in self.limits.items() if value)
        size = f"{self.model.neurons:,} neurons"
        if reached:
            return f"{size} ({reached})"
        share = "them" if self.of == "neurons" else f"the {self.of}"
        return f"{size}: {self.rate} of {share} is less than one"

    def _shortfall(self, event: GrowthEvent) -> str:
        if self.of != "neurons":
            return ""
        wanted = share_of(self.rate, event.neurons_before)
        added = event.neurons_after - event.neurons_before
        return "" if added >= wanted else f" (a ceiling allows {added} of {wanted} neurons)"

    def on_train_batch_end(self, batch, logs=None) -> None:
        """Counts the batches of the epoch."""
        self._batches += 1

    def on_epoch_end(self, epoch, logs=None) -> None:
        """Adds to the epoch's logs."""
        if not self._batches:
            raise ValueError(
                "The training data yielded no batch. Check that the data set is not empty, and "
                "that it can be iterated more than once (or repeats)."
            )
        logs = {} if logs is None else logs
        for name in ("penalty", "weight_drift"):
            logs.setdefault(name, 0.0)  # of epochs before the first growth
        logs["params"] = count_weights(self.model.trainable_variables)
        logs["similarity"] = self.model.similarity
        self.schedule.observe(epoch + 1, logs)

    def get_state(self) -> dict:
        """Returns what `set_state` needs to go on in another process."""
        return {
            "stopped": self._stopped,
            "seed": self.method.seed,
            "schedule": [type(self.schedule).__name__, self.schedule.get_state()],
        }

    def set_state(self, state: dict) -> None:
        """Goes on from what `get_state` returned; nothing is changed where it can't.

        Raises:
            ValueError: if it belongs to a schedule of another kind.
        """
        kind, schedule = state["schedule"]
        if kind != type(self.schedule).__name__:
            raise ValueError(
                f"The run that was backed up grew by a schedule of the kind `{kind}`. Go on with "
                f"that kind. Received: `{type(self.schedule).__name__}`"
            )
        self.schedule.set_state(schedule)
        self._stopped, self.method.seed = state["stopped"], state["seed"]

    def _say(self, line: str) -> None:
        if self.verbose:
            print(line)


def check_depth(depth: Mapping[str, Callable | None] | None) -> dict[str, Callable | None]:
    """Returns what `depth` says, or says what is wrong with it."""
    if depth is None:
        return {}
    if not isinstance(depth, Mapping):
        raise TypeError(
            "`depth` must be a dictionary: layer name -> the function that makes a branch, or None "
            f"for a block like that of the layer. Received: depth={depth!r}"
        )
    for name, branch in depth.items():
        if branch is not None and not callable(branch):
            raise TypeError(
                "`depth` must give each layer a function, or None. Received: "
                f"{branch!r} for '{name}'"
            )
    return dict(depth)


def _check_penalty(penalty: SimilarityPenalty | str | None) -> SimilarityPenalty | None:
    if isinstance(penalty, str) and penalty in PENALTIES:
        return PENALTIES[penalty]
    if penalty is not None and not isinstance(penalty, SimilarityPenalty):
        raise TypeError(
            "`penalty` must be a `keras_grow.SimilarityPenalty`, None, or one of "
            f"{list(PENALTIES)}. Received: penalty={penalty!r}"
        )
    return penalty
