"""GrowthHyperModel: lambda, N and how to grow as hyperparameters that KerasTuner searches."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras

from keras_grow import methods
from keras_grow.callbacks import growth_schedules
from keras_grow.callbacks.growth import GrowthCallback, check_depth
from keras_grow.callbacks.growth_schedules import Schedule
from keras_grow.methods import GrowthMethod
from keras_grow.model import GrowableModel
from keras_grow.penalty.similarity_penalty import SimilarityPenalty
from keras_grow.tuning.tuners import (
    BayesianOptimization,
    GridSearch,
    GrowthTuner,
    Hyperband,
    RandomSearch,
    keras_tuner,
)
from keras_grow.utils.checks import check_limits, check_rate, check_seed

__all__ = [
    "BayesianOptimization",
    "GridSearch",
    "GrowthHyperModel",
    "GrowthTuner",
    "Hyperband",
    "RandomSearch",
]


class _Hyperparameter(NamedTuple):
    """How a hyperparameter is searched: the type of its values, by which factor, who checks one."""

    kind: type
    sampling: str
    check: Callable[[Any], Any]


_SPACE = {
    "weight_sum": _Hyperparameter(float, "log", lambda v: SimilarityPenalty(weight_sum=v)),
    "weight": _Hyperparameter(float, "log", lambda v: SimilarityPenalty(weight=v)),
    "penalty_epochs": _Hyperparameter(int, "linear", lambda v: SimilarityPenalty(epochs=v)),
    "measure": _Hyperparameter(str, "", lambda v: SimilarityPenalty(measure=v)),
    "per": _Hyperparameter(str, "", lambda v: SimilarityPenalty(per=v)),
    "relative": _Hyperparameter(bool, "", lambda v: SimilarityPenalty(relative=v)),
    "method": _Hyperparameter(str, "", methods.get),
    "rate": _Hyperparameter(float, "linear", check_rate),
    "every": _Hyperparameter(int, "linear", growth_schedules.get),
}


class GrowthHyperModel(keras_tuner.HyperModel):
    """A model and how it grows, with hyperparameters for KerasTuner.

    Each of `weight_sum`, `weight`, `penalty_epochs`, `measure`, `per`, `relative`, `method`, `rate`
    and `every` is a value, which is then fixed; of numbers, a tuple `(lowest, highest)`, searched
    between (the two weights on a logarithmic scale); or a list of values to choose from.
    Hyperparameters are called like the arguments. By default the search is for the weights and N of
    the paper's penalty (Eq. 5).

    Use it with the tuners of this module, `keras_grow.tuning.Hyperband` and so on: they take the
    arguments of KerasTuner's own, and give back models that have grown. Judge by held-out training
    data: pass `validation_data` to `tuner.search`, and keep the test split for the end.

    Args:
        build: A function that returns a compiled `GrowableModel`, and takes either nothing or the
            `keras_tuner.HyperParameters`, to add hyperparameters of its own.
        weight_sum: Lambda, weight of Eq. 4. A range can't begin at 0; a list may have it.
        weight: Weight of the similarity, Eq. 2. Where both are 0 there's no penalty.
        penalty_epochs: N, the epochs after each growth for which the penalty counts. The next
            growth ends it early, so more than `every` is the same as `every`.
        method: Name of a growth method, or several in a list. An instance can only be fixed.
        rate: Fraction of the neurons to add at each growth.
        every: Epochs between growths. A `keras_grow.Schedule` can only be fixed.
        max_params: The most trainable parameters that a model may have.
        max_widths: The most channels of any group, or group name -> the most channels.
        seed: Integer seed of the executions of each trial, the same for all trials. `None` draws
            anew each time.
        verbose: 1 prints a line for each growth.
        name: Name of the hypermodel.
        tunable: See `keras_tuner.HyperModel`.
        measure: What a pair of similar neurons costs: this, and the next two, as for
            `SimilarityPenalty`.
        per: What the similarity is a mean of.
        relative: Whether the weights shrink with a loss below 1.
        of: What the rate is a fraction of: this, and what follows, as for `GrowthCallback`.
        max_flops: The most floating-point operations that a forward pass may take, per example.
        multiple_of: What the width of a group that grows is to be a multiple of.
        depth: What else each growth does: layer name -> branch, or `None`.

    Raises:
        TypeError: if an argument, or what `build` returns, is of the wrong type.
        ValueError: if an argument is wrong, or the model isn't compiled.

    Example:

    >>> import keras, keras_grow, keras_tuner
    >>> from keras_grow.tuning.hypermodel import GrowthHyperModel
    >>> def build():
    ...     inputs = keras.Input((8,))
    ...     x = keras_grow.layers.GrowableDense(4, activation="relu", name="hidden")(inputs)
    ...     model = keras_grow.GrowableModel(inputs, keras.layers.Dense(3)(x))
    ...     model.compile("sgd", "mse")
    ...     return model
    >>> hypermodel = GrowthHyperModel(
    ...     build, weight_sum=(1e-4, 1.0), weight=1.0, penalty_epochs=(1, 10), method="net2wider"
    ... )
    >>> hp = keras_tuner.HyperParameters()
    >>> model = hypermodel.build(hp)
    >>> hp.values
    {'weight_sum': 0.0001, 'penalty_epochs': 1}
    >>> hypermodel.growth(hp).penalty.epochs
    1
    """

    def __init__(
        self,
        build: Callable[..., GrowableModel],
        weight_sum: float | tuple[float, float] | list[float] = (1e-4, 1.0),
        weight: float | tuple[float, float] | list[float] = (1e-2, 1.0),
        penalty_epochs: int | tuple[int, int] | list[int] = (1, 30),
        method: str | GrowthMethod | list[str] = "random",
        rate: float | tuple[float, float] | list[float] = 0.35,
        every: int | Schedule | tuple[int, int] | list[int] = 50,
        max_params: int | None = None,
        max_widths: int | dict[str, int] | None = None,
        seed: int | None = None,
        verbose: int = 0,
        name: str | None = None,
        tunable: bool = True,
        measure: str | list[str] = "cosine",
        per: str | list[str] = "pair",
        relative: bool | list[bool] = False,
        of: str = "neurons",
        max_flops: int | None = None,
        multiple_of: int | dict[str, int] | None = None,
        depth: Mapping[str, Callable | None] | None = None,
    ):
        super().__init__(name, tunable)
        self.make_model = _with_hyperparameters(build)
        self.space = {
            "weight_sum": weight_sum,
            "weight": weight,
            "penalty_epochs": penalty_epochs,
            "measure": measure,
            "per": per,
            "relative": relative,
            "method": method,
            "rate": rate,
            "every": every,
        }
        for argument, given in self.space.items():
            _check(argument, given, _SPACE[argument])
        self.limits = {
            "max_params": max_params,
            "max_widths": max_widths,
            "of": of,
            "max_flops": max_flops,
            "multiple_of": multiple_of,
        }
        check_limits(self.limits)
        self.depth = check_depth(depth)
        self.seed = None if seed is None else check_seed(seed)
        self.verbose = verbose

    def build(self, hp) -> GrowableModel:
        """Builds a model, as wide as it starts, and registers the hyperparameters of growth."""
        self.growth(hp)
        model = self.make_model(hp)
        if not isinstance(model, GrowableModel):
            raise keras_tuner.errors.FatalTypeError(
                "`build` must return a `keras_grow.GrowableModel`; "
                "`GrowableModel.from_keras(model)` makes one. "
                f"Received: {model!r} of type {type(model)}"
            )
        if not model.compiled:
            raise keras_tuner.errors.FatalValueError(
                f"`build` must return a compiled model: call `compile` on `{model.name}`."
            )
        return model

    @property
    def epochs_before_growth(self) -> int:
        """The most epochs that pass before the first growth; 0 where a schedule decides."""
        every = self.space["every"]
        if isinstance(every, Schedule):
            return 0
        return max(every) if isinstance(every, tuple | list) else every

    def growth(self, hp) -> GrowthCallback:
        """Returns the callback that grows a model as some hyperparameters say.

        To train with the best ones once more: `model = hypermodel.build(hp)`, then
        `model.fit(..., callbacks=[hypermodel.growth(hp)])`.
        """
        values = {
            name: _choose(hp, name, given, _SPACE[name]) for name, given in self.space.items()
        }
        penalty = SimilarityPenalty(
            weight=values["weight"],
            weight_sum=values["weight_sum"],
            epochs=values["penalty_epochs"],
            measure=values["measure"],
            per=values["per"],
            relative=values["relative"],
        )
        return GrowthCallback(
            values["rate"],
            # Both may remember what they have seen.
            copy.deepcopy(values["every"]),
            copy.deepcopy(values["method"]),
            penalty if penalty.weight or penalty.weight_sum else None,
            depth=self.depth,
            verbose=self.verbose,
            **self.limits,
        )

    def fit(self, hp, model: GrowableModel, *args, callbacks: Sequence = (), **kwargs):
        """Trains a model, growing it, and returns its `History`."""
        _check_tuner(callbacks)
        callbacks = [self.growth(hp), *callbacks]  # first: the others are to see what it logs
        return model.fit(*args, callbacks=callbacks, **kwargs)


def _choose(hp, name: str, given: Any, how: _Hyperparameter) -> Any:
    """Returns the value of one hyperparameter, and registers it if it is searched."""
    if isinstance(given, list):
        return hp.Choice(name, [how.kind(value) for value in given])
    if not isinstance(given, tuple):
        return given
    low, high = (how.kind(value) for value in given)
    declare = hp.Int if how.kind is int else hp.Float
    return declare(name, low, high, sampling=how.sampling)


def _check(name: str, given: Any, how: _Hyperparameter) -> None:
    """Checks a value, the ends of a range, or each value of a list."""
    if isinstance(given, tuple):
        _check_range(name, given, how)
    elif isinstance(given, list) and (not given or len(set(map(repr, given))) < len(given)):
        raise ValueError(f"`{name}` must list values, each once. Received: {name}={given}")
    for value in given if isinstance(given, tuple | list) else [given]:
        how.check(value)
        if isinstance(given, list) and how.kind is str and not isinstance(value, str):
            raise TypeError(f"`{name}` must list names. Received: {name}={given}")


def _check_range(name: str, given: tuple, how: _Hyperparameter) -> None:
    if not how.sampling:
        raise TypeError(f"`{name}` must be a value or a list of values. Received: {name}={given}")
    if len(given) != 2 or not given[0] < given[1]:
        raise ValueError(
            f"`{name}` must be a range (lowest, highest), a list of values, or one value. "
            f"Received: {name}={given}"
        )
    if how.sampling == "log" and given[0] <= 0:
        raise ValueError(
            f"`{name}` must be a range above 0: it is searched on a logarithmic scale. To try 0, "
            f"list the values, as [0, 0.01, 0.1]. Received: {name}={given}"
        )


def _with_hyperparameters(build: Any) -> Callable[[Any], GrowableModel]:
    """Returns `build` as a function of the hyperparameters, whether or not it takes them."""
    if not callable(build):
        raise TypeError(
            f"`build` must be a function that returns a model. Received: {build!r} of type "
            f"{type(build)}"
        )
    parameters = inspect.signature(build).parameters.values()
    if any(p.default is p.empty and p.kind is not p.VAR_KEYWORD for p in parameters):
        return build
    return lambda hp: build()


def _check_tuner(callbacks: Sequence[keras.callbacks.Callback]) -> None:
    """Refuses a tuner that could not give back what it has trained."""
    for callback in callbacks:
        tuner = getattr(callback, "tuner", None)
        if isinstance(tuner, keras_tuner.Tuner) and not isinstance(tuner, GrowthTuner):
            raise keras_tuner.errors.FatalTypeError(
                "A stock tuner rebuilds models at their first widths, and can't load one that has "
                "grown. Use the tuner of the same name in `keras_grow.tuning`, which takes the "
                "same arguments, or put `keras_grow.tuning.GrowthTuner` before the base class of "
                f"yours. Received: {type(tuner)}"
            )
