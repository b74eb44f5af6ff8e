"""Optimizer slots through a widening.

A slot goes along in the way that keeps the next update consistent: it becomes what it would be had
the network always had its new shape. With outgoing scale s, the gradient with respect to the
weights *into* a copied channel is s times that of the original; with respect to the weights *out
of* it, it is the same. So a slot in units of the gradient takes s on the producing side and nothing
on the consuming side, one in units of its square takes s squared, and a slot that holds weights (an
average) is widened like the weights themselves. Slots of fresh channels start where the optimizer
starts its slots: at zero, or at its initial accumulator value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_grow.core import keras_private
from keras_grow.core.widening import PARAMETER, AxisChannels, Exponents, Widening, widen_array

GRADIENT = Exponents(producing=1, consuming=0)
SQUARED_GRADIENT = Exponents(producing=2, consuming=0)
# Already divided by the size of the gradient: the same for every copy.
UPDATE = Exponents(producing=0, consuming=0)

_RULES: dict[type, dict[str, Exponents]] = {
    keras.optimizers.SGD: {"momentums": GRADIENT},
    keras.optimizers.Adam: {
        "_momentums": GRADIENT,
        "_velocities": SQUARED_GRADIENT,
        "_velocity_hats": SQUARED_GRADIENT,
    },
    keras.optimizers.Nadam: {"_momentums": GRADIENT, "_velocities": SQUARED_GRADIENT},
    keras.optimizers.Lamb: {"_momentums": GRADIENT, "_velocities": SQUARED_GRADIENT},
    keras.optimizers.Adamax: {"_m": GRADIENT, "_u": GRADIENT},
    keras.optimizers.RMSprop: {
        "_velocities": SQUARED_GRADIENT,
        "_momentums": UPDATE,
        "_average_gradients": GRADIENT,
    },
    keras.optimizers.Adagrad: {"_accumulators": SQUARED_GRADIENT},
    keras.optimizers.Adadelta: {
        "_accumulated_grads": SQUARED_GRADIENT,
        "_accumulated_delta_vars": UPDATE,
    },
    keras.optimizers.Adafactor: {"_v": SQUARED_GRADIENT},
    # `linear` is the weights times the root of the accumulator.
    keras.optimizers.Ftrl: {
        "_accumulators": SQUARED_GRADIENT,
        "_linears": Exponents(producing=1, consuming=1),
    },
    keras.optimizers.Lion: {"_momentums": GRADIENT},
}
for _name, _slots in {
    "Muon": {"momentums": GRADIENT, "adam_velocities": SQUARED_GRADIENT},
    # Its `momentum` is the sequence z of weights that the gradient steps are taken on.
    "ScheduleFreeAdamW": {"_momentums": PARAMETER, "_velocities": SQUARED_GRADIENT},
}.items():
    if hasattr(keras.optimizers, _name):  # not in every Keras 3
        _RULES[getattr(keras.optimizers, _name)] = _slots

_EVERY_OPTIMIZER = {
    "_model_variables_moving_average": PARAMETER,
    "_accumulated_gradients": GRADIENT,
}


@dataclass(frozen=True)
class WidenedVariable:
    """A model variable that a growth resizes, before and after.

    Attributes:
        variable: The variable.
        axes: The channels along its axes.
        before: Its present value.
        after: Its widened value.
        copied: Its widened value without what the widenings add.
    """

    variable: keras.Variable
    axes: Sequence[AxisChannels]
    before: np.ndarray
    after: np.ndarray
    copied: np.ndarray


def widen_slots(
    optimizer: Any, widened: Sequence[WidenedVariable], widenings: Mapping[str, Widening]
) -> list[tuple[keras.Variable, np.ndarray]]:
    """Returns every optimizer variable that a growth resizes, with its new value.

    Nothing is assigned.

    Args:
        optimizer: A Keras optimizer, wrapped (loss scaling, one optimizer per layer) or not.
        widened: The model variables that are resized.
        widenings: Group name -> widening.

    Raises:
        ValueError: if the optimizer holds an array that is no slot of a trained variable.
    """
    by_variable = {id(item.variable): item for item in widened}
    result = []
    for part in keras_private.optimizers_of(optimizer):
        _check_slots_are_known(part)
        slots = keras_private.slots_of(part)
        for position, variable in enumerate(keras_private.trained_variables(part)):
            if id(variable) in by_variable:
                own = {name: values[position] for name, values in slots.items()}
                own = {name: slot for name, slot in own.items() if slot is not None}
                result += _widen_own_slots(part, own, by_variable[id(variable)], widenings)
    return result


def _widen_own_slots(optimizer, slots, item, widenings):
    """Widens the slots of one variable."""
    if {"_r", "_c"} <= set(slots) and item.before.ndim >= 2:
        factors = _widen_factors(slots.pop("_r"), slots.pop("_c"), item, widenings)
    else:  # Adafactor's placeholders for vectors
        slots = {name: slot for name, slot in slots.items() if name not in ("_r", "_c")}
        factors = []
    return factors + [
        (slot, _widen_slot(optimizer, name, slot, item, widenings)) for name, slot in slots.items()
    ]


def _widen_slot(optimizer, name, slot, item, widenings):
    """Returns the new value of one slot that has its variable's shape."""
    value = slot.numpy()
    exponents = _exponents(optimizer, name)
    if exponents is PARAMETER:
        # A fresh channel's average is its first value: zero would pull it there.
        return (_widen(value, item, widenings, PARAMETER) + item.after - item.copied).astype(
            value.dtype
        )
    fresh = getattr(optimizer, "initial_accumulator_value", 0.0) if "accumulators" in name else 0.0
    if name == "_accumulated_gradients":
        fresh = 0.0
    result = _widen(value, item, widenings, exponents, fresh)
    if name == "_linears":
        result = result - (item.after - item.copied) * _ftrl_curvature(
            optimizer, slot, item, widenings
        )
    return result.astype(value.dtype)


def _widen(value, item, widenings, exponents, fresh=0.0):
    return widen_array(value, item.axes, widenings, exponents, fresh=fresh)


def _exponents(optimizer, name) -> Exponents:
    """Looks a slot up by the optimizer's class; an unknown one is carried along unscaled."""
    for kind in type(optimizer).__mro__:
        if name in _RULES.get(kind, {}):
            return _RULES[kind][name]
    return _EVERY_OPTIMIZER.get(name, UPDATE)


def _widen_factors(rows, columns, item, widenings):
    """Widens Adafactor's factors: the matrix that they stand for is widened, and factored again."""
    r, c = (np.asarray(x.numpy(), "float64") for x in (rows, columns))
    mean = np.mean(r, axis=-1, keepdims=True)
    ratio = np.divide(r, mean, out=np.zeros_like(r), where=mean > 0)
    matrix = _widen(ratio[..., None] * c[..., None, :], item, widenings, SQUARED_GRADIENT)
    dtype = item.before.dtype
    return [
        (rows, matrix.mean(axis=-1).astype(dtype)),
        (columns, matrix.mean(axis=-2).astype(dtype)),
    ]


def _ftrl_curvature(optimizer, slot, item, widenings):
    """Ftrl computes a weight from its slots alone: what is added to it must show in `linear`."""
    position = next(
        i for i, other in enumerate(keras_private.slots_of(optimizer)["_linears"]) if other is slot
    )
    accumulator = keras_private.slots_of(optimizer)["_accumulators"][position]
    accumulator = _widen(
        accumulator.numpy(),
        item,
        widenings,
        SQUARED_GRADIENT,
        optimizer.initial_accumulator_value,
    )
    rate = float(keras.ops.convert_to_tensor(optimizer.learning_rate))
    l2 = optimizer.l2_regularization_strength + optimizer.beta / (2 * rate)
    return accumulator**-optimizer.learning_rate_power / rate + 2 * l2


def _check_slots_are_known(optimizer) -> None:
    """Refuses an optimizer that holds arrays which run parallel to no trained variable."""
    known = {id(slot) for slots in keras_private.slots_of(optimizer).values() for slot in slots}
    unknown = [v for v in keras_private.own_variables(optimizer) if v.ndim and id(v) not in known]
    if unknown:
        raise ValueError(
            f"Optimizer `{optimizer.name}` ({type(optimizer).__name__}) holds variables that are "
            "not slots of a trained variable, so a growth can't resize them. Keep its slots in "
            "lists with one variable per trained variable, as Keras's optimizers do. Received: "
            f"{[v.path for v in unknown]}"
        )
