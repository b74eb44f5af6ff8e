"""Optimizer slots through a widening: one row per slot of every Keras optimizer.

A slot goes along in the way that keeps the next update consistent: it becomes what it would be had
the network always had its new shape. With outgoing scale s, the gradient with respect to the
weights *into* a copied channel is s times that of the original; with respect to the weights *out
of* it, it is the same. So a slot in units of the gradient takes s on the producing side and nothing
on the consuming side, one in units of its square takes s squared, and a slot that holds weights (an
average) is widened like the weights themselves. Slots of fresh channels start where the optimizer
starts its slots: at zero, or at its initial accumulator value.

That is said of what a slot holds beside what is known beforehand: the value that it starts from, or
the weights that it is an average of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_grow.core import keras_private
from keras_grow.core.index_maps import AxisChannels
from keras_grow.core.widening import PARAMETER, Exponents, Widening, widen_array

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class WidenedVariable:
    """A model variable that a growth resizes, before and after.

    Attributes:
        variable: The variable.
        axes: The channels along its axes.
        before: Its present value.
        after: Its widened value.
    """

    variable: keras.Variable
    axes: Sequence[AxisChannels]
    before: np.ndarray
    after: np.ndarray


@dataclass(frozen=True)
class Slot:
    """How a slot goes through a widening: as a sum, of which one part is known beforehand.

    Attributes:
        exponents: The power of the outgoing scale that the slot takes, less what it lies around.
        around: What the slot lies around, given the optimizer, the weights and the slots of the
            variable: where it starts, or what follows from the weights. `None` for zero.
        factor: The axis of the variable that the slot is a mean over, for one of the two factors
            of a matrix.
        of: What counts of the scale: itself, its size or its sign.
    """

    exponents: Exponents
    around: Callable[[Any, np.ndarray, Arrays], Any] | None = None
    factor: int | None = None
    of: Callable[[np.ndarray], np.ndarray] = np.positive


def _weights(optimizer: Any, weights: np.ndarray, slots: Arrays) -> np.ndarray:
    """An average of weights lies around the weights; that of a fresh channel is its first value."""
    return weights


def _start(optimizer: Any, weights: np.ndarray, slots: Arrays) -> float:
    """Sums of squared gradients lie above the value that they start from."""
    return optimizer.initial_accumulator_value


def _linear(optimizer: Any, weights: np.ndarray, slots: Arrays) -> np.ndarray:
    """Ftrl computes a weight from its slots alone: this is the `linear` that yields the weight."""
    rate = float(keras.ops.convert_to_tensor(optimizer.learning_rate))
    l2 = optimizer.l2_regularization_strength + optimizer.beta / (2 * rate)
    root = slots["_accumulators"].astype("float64") ** -optimizer.learning_rate_power
    return -weights * (root / rate + 2 * l2)


GRADIENT = Slot(Exponents(producing=1, consuming=0, rescaling=-1))
SQUARED_GRADIENT = Slot(Exponents(producing=2, consuming=0, rescaling=-2))
# Already divided by the size of the gradient: the same for every copy, but for its direction.
UPDATE = Slot(Exponents(producing=1, consuming=0), of=np.sign)
_LARGEST_GRADIENT = Slot(GRADIENT.exponents, of=np.abs)
WEIGHTS = Slot(PARAMETER, around=_weights)
_ACCUMULATOR = Slot(SQUARED_GRADIENT.exponents, around=_start)

KINDS = {
    "weights": WEIGHTS,
    "gradient": GRADIENT,
    "squared_gradient": SQUARED_GRADIENT,
    "update": UPDATE,
}

# Optimizer -> its slots, those of its base classes left out.
SLOTS: dict[type, dict[str, Slot]] = {
    keras.optimizers.Optimizer: {
        "_model_variables_moving_average": WEIGHTS,
        "_accumulated_gradients": GRADIENT,
    },
    keras.optimizers.SGD: {"momentums": GRADIENT},
    keras.optimizers.Adam: {
        "_momentums": GRADIENT,
        "_velocities": SQUARED_GRADIENT,
        "_velocity_hats": SQUARED_GRADIENT,
    },
    keras.optimizers.Nadam: {"_momentums": GRADIENT, "_velocities": SQUARED_GRADIENT},
    keras.optimizers.Lamb: {"_momentums": GRADIENT, "_velocities": SQUARED_GRADIENT},
    keras.optimizers.Adamax: {"_m": GRADIENT, "_u": _LARGEST_GRADIENT},
    keras.optimizers.RMSprop: {
        "_velocities": SQUARED_GRADIENT,
        "_momentums": UPDATE,
        "_average_gradients": GRADIENT,
    },
    keras.optimizers.Adagrad: {"_accumulators": _ACCUMULATOR},
    keras.optimizers.Adadelta: {
        "_accumulated_grads": SQUARED_GRADIENT,
        "_accumulated_delta_vars": UPDATE,
    },
    keras.optimizers.Adafactor: {
        "_v": SQUARED_GRADIENT,
        "_r": Slot(SQUARED_GRADIENT.exponents, factor=-1),
        "_c": Slot(SQUARED_GRADIENT.exponents, factor=-2),
    },
    keras.optimizers.Ftrl: {
        "_accumulators": _ACCUMULATOR,
        "_linears": Slot(Exponents(producing=0, consuming=0), around=_linear),
    },
    keras.optimizers.Lion: {"_momentums": GRADIENT},
}
for _name, _slots in {  # not in every Keras 3
    "Muon": {"momentums": GRADIENT, "adam_velocities": SQUARED_GRADIENT},
    # Its `momentum` is the sequence z of weights that the gradient steps are taken on.
    "ScheduleFreeAdamW": {"_momentums": WEIGHTS, "_velocities": SQUARED_GRADIENT},
}.items():
    if hasattr(keras.optimizers, _name):
        SLOTS[getattr(keras.optimizers, _name)] = _slots


def register_slot(optimizer: type, name: str, like: str) -> None:
    """Says how a slot of an optimizer of one's own goes through a growth.

    An optimizer that derives from one of Keras's and adds no slot needs none of this.

    Args:
        optimizer: The class of the optimizer.
        name: The attribute that holds the slot: a list of one variable per trained variable, each
            of the shape of its variable.
        like: What the slot is in units of: "gradient" (a momentum), "squared_gradient" (the
            velocity of Adam), "weights" (an average of weights) or "update" (what has been divided
            by the size of the gradient).

    Raises:
        TypeError: if `optimizer` is no class of optimizers.
        ValueError: if `like` is none of these.

    Example:

    >>> import keras, keras_grow
    >>> class Heavy(keras.optimizers.SGD):
    ...     def build(self, variables):
    ...         super().build(variables)
    ...         self.means = self.add_optimizer_variables(variables, "mean")
    >>> keras_grow.register_slot(Heavy, "means", like="gradient")
    """
    if not (isinstance(optimizer, type) and issubclass(optimizer, keras.optimizers.Optimizer)):
        raise TypeError(
            "`optimizer` must be a class of Keras optimizers. Received: "
            f"optimizer={optimizer!r} of type {type(optimizer)}"
        )
    if like not in KINDS:
        raise ValueError(f"`like` must be one of {list(KINDS)}. Received: like={like!r}")
    SLOTS.setdefault(optimizer, {})[name] = KINDS[like]


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
        ValueError: if the optimizer holds an array that is no slot of a trained variable, or a
            slot that isn't known.
    """
    check_slots(optimizer)
    by_variable = {id(item.variable): item for item in widened}
    result = []
    for part in keras_private.optimizers_of(optimizer):
        slots, rows = keras_private.slots_of(part), _rows_of(part)
        for position, variable in enumerate(keras_private.trained_variables(part)):
            if id(variable) in by_variable:
                own = {name: slots[name][position] for name in rows if name in slots}
                own = {name: slot for name, slot in own.items() if slot is not None and slot.ndim}
                item = by_variable[id(variable)]
                after = _widen_own_slots(part, rows, own, item, widenings)
                result += [(slot, after[name]) for name, slot in own.items()]
    return result


def rebuild(optimizer: Any, variables: Sequence[keras.Variable]) -> None:
    """Builds an optimizer for other variables of its model; the slots of those that it had stay.

    Slots of the others start where the optimizer starts them, an average of weights at the weights.

    Args:
        optimizer: A Keras optimizer that is built, wrapped or not.
        variables: The variables, in the order in which they are to be trained.
    """
    had = {id(v) for part in keras_private.optimizers_of(optimizer) for v in _trained(part)}
    keras_private.rebuild(optimizer, variables)
    for part in keras_private.optimizers_of(optimizer):
        slots, rows = keras_private.slots_of(part), _rows_of(part)
        for position, variable in enumerate(_trained(part)):
            own = {name: slots[name][position] for name in rows if name in slots}
            if id(variable) not in had:
                _start_slots(part, rows, variable, own)


def _start_slots(
    optimizer: Any,
    rows: Mapping[str, Slot],
    variable: keras.Variable,
    slots: Mapping[str, keras.Variable],
) -> None:
    """Has the slots of a variable that is new start from its value, where they lie around that."""
    values: dict[str, np.ndarray] = {}
    for name, slot in slots.items():
        around = rows[name].around
        if slot is None or not slot.ndim:
            continue
        if around is not None:
            start = around(optimizer, variable.numpy(), values)
            slot.assign(np.broadcast_to(start, slot.shape))
        values[name] = slot.numpy()


_trained = keras_private.trained_variables


def check_slots(optimizer: Any) -> None:
    """Refuses an optimizer that can't go through a growth.

    Args:
        optimizer: A Keras optimizer, wrapped or not.

    Raises:
        ValueError: if it holds an array that is no slot of a trained variable, or a slot that isn't
            known.
    """
    for part in keras_private.optimizers_of(optimizer):
        _check_slots_are_known(part, keras_private.slots_of(part), _rows_of(part))


def _rows_of(optimizer: Any) -> dict[str, Slot]:
    """Returns the rows of an optimizer, with those of its base classes."""
    rows: dict[str, Slot] = {}
    for kind in reversed(type(optimizer).__mro__):
        rows |= SLOTS.get(kind, {})
    return rows


def _widen_own_slots(
    optimizer: Any,
    rows: Mapping[str, Slot],
    slots: Mapping[str, keras.Variable],
    item: WidenedVariable,
    widenings: Mapping[str, Widening],
) -> dict[str, np.ndarray]:
    """Returns the new values of the slots of one variable, in the order of the rows."""
    before = {name: slot.numpy() for name, slot in slots.items()}
    after: dict[str, np.ndarray] = {}
    for name, value in before.items():
        row = rows[name]
        part = value if row.factor is None else _matrix(before["_r"], before["_c"])
        if row.around is not None:
            part = part.astype("float64") - row.around(optimizer, item.before, before)
        scaled = {
            group: Widening(group, w.sources, row.of(w.outgoing_scale))
            for group, w in widenings.items()
        }
        part = widen_array(part, item.axes, scaled, row.exponents, fresh=0.0)
        if row.around is not None:
            part = part + row.around(optimizer, item.after, after)
        if row.factor is not None:
            part = part.mean(axis=row.factor)
        after[name] = part.astype(value.dtype)
    return after


def _matrix(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Returns the matrix that Adafactor's factors stand for."""
    r, c = rows.astype("float64"), columns.astype("float64")
    mean = np.mean(r, axis=-1, keepdims=True)
    ratio = np.divide(r, mean, out=np.zeros_like(r), where=mean > 0)
    return ratio[..., None] * c[..., None, :]


def _check_slots_are_known(
    optimizer: Any, slots: Mapping[str, Sequence], rows: Mapping[str, Slot]
) -> None:
    """Refuses an optimizer with arrays of which it isn't known how they go through a growth."""
    kind = type(optimizer).__name__
    known = {id(slot) for values in slots.values() for slot in values}
    strange = [v for v in keras_private.own_variables(optimizer) if v.ndim and id(v) not in known]
    if strange:
        raise ValueError(
            f"Optimizer `{optimizer.name}` ({kind}) holds variables that are not slots of a "
            "trained variable, so a growth can't resize them. Keep its slots in lists with one "
            "variable per trained variable, as Keras's optimizers do. Received: "
            f"{[v.path for v in strange]}"
        )
    for name, values in slots.items():
        if name not in rows and any(slot is not None and slot.ndim for slot in values):
            raise ValueError(
                f"Optimizer `{optimizer.name}` ({kind}) has a slot '{name}' of which it isn't "
                "known how it goes through a growth. Say what it is in units of: "
                f"`keras_grow.register_slot({kind}, '{name}', like='gradient')`, or another of "
                f"{list(KINDS)}."
            )
        _check_shapes(optimizer, name, values, rows)


def _check_shapes(optimizer: Any, name: str, values: Sequence, rows: Mapping[str, Slot]) -> None:
    """Refuses a slot of another shape than its variable."""
    if name in rows and rows[name].factor is not None:
        return
    variables = keras_private.trained_variables(optimizer)
    for slot, variable in zip(values, variables, strict=True):
        if slot is not None and slot.ndim and slot.shape != variable.shape:
            raise ValueError(
                f"Slot '{name}' of optimizer `{optimizer.name}` ({type(optimizer).__name__}) must "
                f"have the shape of its variable `{variable.path}`, {tuple(variable.shape)}, to go "
                f"through a growth. Received: shape={tuple(slot.shape)}"
            )
