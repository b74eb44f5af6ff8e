"""Learning-rate schedules that know of growth. One plain cosine is Keras's own `CosineDecay`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import keras
from keras import ops
from keras.optimizers.schedules import CosineDecay, LearningRateSchedule

from keras_grow.utils.checks import check_number, check_positive_int


@keras.saving.register_keras_serializable(package="keras_grow")
class CosineRestarts(LearningRateSchedule):
    """One cosine decay per stage: the rate starts again at each growth.

    A stage lasts from one growth to the next. In it the rate falls from `initial_learning_rate`
    towards zero, along half a cosine; from `total_steps` on it is zero.

    Args:
        initial_learning_rate: The rate at the start of each stage.
        growth_steps: Steps (values of `optimizer.iterations`) at which the network grows, in
            increasing order.
        total_steps: Number of training steps.

    Raises:
        TypeError: if an argument isn't a number, or isn't an integer where it counts steps.
        ValueError: if a number isn't positive, or `growth_steps` isn't increasing and below
            `total_steps`.

    Example: 250 epochs of 391 steps, growing every 50

    >>> import keras_grow
    >>> schedule = keras_grow.schedules.CosineRestarts(
    ...     0.1, growth_steps=[epoch * 391 for epoch in (50, 100, 150, 200)], total_steps=250 * 391)
    >>> [round(float(schedule(epoch * 391)), 4) for epoch in (0, 25, 50, 225, 250)]
    [0.1, 0.05, 0.1, 0.05, 0.0]

    Reference:
        Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, 2017.
    """

    def __init__(
        self,
        initial_learning_rate: float,
        growth_steps: Iterable[int],
        total_steps: int,
    ):
        super().__init__()
        self.initial_learning_rate = check_number(
            "initial_learning_rate", initial_learning_rate, positive=True
        )
        self.total_steps = check_positive_int("total_steps", total_steps)
        self.growth_steps = _check_growth_steps(growth_steps, self.total_steps)

    def __call__(self, step):
        step = ops.cast(step, "float32")
        bounds = ops.array([0, *self.growth_steps, self.total_steps], "float32")
        begun = ops.expand_dims(step, -1) >= bounds[1:-1]
        stage = ops.sum(ops.cast(begun, "int32"), axis=-1)
        start, end = ops.take(bounds, stage), ops.take(bounds, stage + 1)
        return _cosine(self.initial_learning_rate, (step - start) / (end - start))

    def get_config(self) -> dict:
        return {
            "initial_learning_rate": self.initial_learning_rate,
            "growth_steps": list(self.growth_steps),
            "total_steps": self.total_steps,
        }


@keras.saving.register_keras_serializable(package="keras_grow")
class HoldThenCosine(LearningRateSchedule):
    """A constant rate while the network grows, then one cosine decay to zero.

    So the neurons that come last are trained at the full rate too.

    Args:
        initial_learning_rate: The rate that is held.
        total_steps: Number of training steps; from there on the rate is zero.
        hold: Fraction of the steps for which the rate is held, at least 0 and below 1 (0 gives
            the plain cosine). Defaults to 0.7.

    Raises:
        TypeError: if an argument isn't a number, or `total_steps` isn't an integer.
        ValueError: if a number isn't positive, or `hold` is out of its range.

    Example:

    >>> import keras_grow
    >>> schedule = keras_grow.schedules.HoldThenCosine(0.1, total_steps=1000, hold=0.8)
    >>> [round(float(schedule(step)), 4) for step in (0, 400, 800, 900, 1000)]
    [0.1, 0.1, 0.1, 0.05, 0.0]
    """

    def __init__(
        self,
        initial_learning_rate: float,
        total_steps: int,
        hold: float = 0.7,
    ):
        super().__init__()
        self.initial_learning_rate = check_number(
            "initial_learning_rate", initial_learning_rate, positive=True
        )
        self.total_steps = check_positive_int("total_steps", total_steps)
        self.hold = check_number("hold", hold)
        if not 0 <= hold < 1:
            raise ValueError(f"`hold` must be at least 0 and below 1. Received: hold={hold}")

    def __call__(self, step):
        held = min(round(self.hold * self.total_steps), self.total_steps - 1)
        step = ops.cast(step, "float32") - held
        return _cosine(self.initial_learning_rate, step / (self.total_steps - held))

    def get_config(self) -> dict:
        return {
            "initial_learning_rate": self.initial_learning_rate,
            "total_steps": self.total_steps,
            "hold": self.hold,
        }


def get(
    name: str,
    initial_learning_rate: float,
    total_steps: int,
    growth_steps: Iterable[int] = (),
) -> LearningRateSchedule:
    """Returns the schedule of a name.

    Args:
        name: "cosine" (one over the whole run: `keras.optimizers.schedules.CosineDecay`),
            "restarts" (`CosineRestarts`) or "hold" (`HoldThenCosine`: the rate is held for 70 %
            of the steps, or until the last growth where that comes later).
        initial_learning_rate: The rate at the start.
        total_steps: Number of training steps.
        growth_steps: Steps at which the network grows, in increasing order.

    Raises:
        ValueError: if the name is unknown, or as the schedule's class does.

    Example:

    >>> import keras_grow
    >>> schedule = keras_grow.schedules.get("hold", 0.1, total_steps=100, growth_steps=[40, 80])
    >>> schedule.hold
    0.8
    """
    rate = check_number("initial_learning_rate", initial_learning_rate, positive=True)
    total = check_positive_int("total_steps", total_steps)
    growths = _check_growth_steps(growth_steps, total)
    if name == "cosine":
        return CosineDecay(rate, total)
    if name == "restarts":
        return CosineRestarts(rate, growths, total)
    if name == "hold":
        return HoldThenCosine(rate, total, max([0.7, *(step / total for step in growths)]))
    raise ValueError(f"`name` must be one of 'cosine', 'restarts', 'hold'. Received: name={name!r}")


def _cosine(rate: float, progress):
    """Decays from the rate to zero along half a cosine while progress goes from 0 to 1."""
    return rate * 0.5 * (1 + ops.cos(math.pi * ops.clip(progress, 0.0, 1.0)))


def _check_growth_steps(growth_steps: Any, total_steps: int) -> list[int]:
    if isinstance(growth_steps, str) or not isinstance(growth_steps, Iterable):
        raise TypeError(
            "`growth_steps` must be a sequence of positive integers. "
            f"Received: growth_steps={growth_steps!r}"
        )
    steps = [check_positive_int("growth_steps", step) for step in growth_steps]
    if not all(step < following for step, following in pairwise([*steps, total_steps])):
        raise ValueError(
            f"`growth_steps` must increase and stay below total_steps={total_steps}. "
            f"Received: growth_steps={steps}"
        )
    return steps
