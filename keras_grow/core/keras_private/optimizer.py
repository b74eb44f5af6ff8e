"""The slots of optimizers, and the index by which they find their variables (Keras 3.15)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras


def optimizers_of(optimizer: Any) -> Iterator[Any]:
    """Yields an optimizer and those that it wraps (loss scaling, one optimizer per layer)."""
    if optimizer is None:
        return
    yield optimizer
    inner = [getattr(optimizer, "inner_optimizer", None), *getattr(optimizer, "optimizers", ())]
    for wrapped in inner:
        yield from optimizers_of(wrapped)


def trained_variables(optimizer: Any) -> list[keras.Variable]:
    """Returns the variables that an optimizer was built for, in the order of its slots."""
    return list(optimizer._trainable_variables)


def slots_of(optimizer: Any) -> dict[str, list]:
    """Returns an optimizer's slots: attribute name -> one variable (or None) per trained variable.

    Relies on every Keras optimizer keeping its slots in lists that run parallel to the trained
    variables (keras/src/optimizers/*.py).
    """
    trained = optimizer._trainable_variables
    return {
        name: list(value)
        for name, value in vars(optimizer).items()
        if name != "_variables" and isinstance(value, list) and len(value) == len(trained) > 0
        if all(item is None or isinstance(item, keras.Variable) for item in value)
        if not any(item is variable for item, variable in zip(value, trained, strict=True))
    }


def own_variables(optimizer: Any) -> list[keras.Variable]:
    """Returns an optimizer's variables without those of the optimizers that it wraps."""
    return list(optimizer._variables)


def rekey(optimizer: Any) -> None:
    """Lets an optimizer find its variables again after they have been resized.

    An optimizer's index is keyed by the backend variable, which a resize replaces. Without this
    the optimizer would refuse the variable, or silently skip it. Relies on `_var_key`,
    `_trainable_variables_indices`, `_exclude_from_weight_decay*`
    (keras/src/optimizers/base_optimizer.py) and `_var_to_optimizer_idx` (multi_optimizer.py).
    """
    variables, index = optimizer._trainable_variables, optimizer._trainable_variables_indices
    renamed = {key: optimizer._var_key(variables[i]) for key, i in index.items()}
    # New dictionaries: TensorFlow can't export an object whose tracked ones have lost entries.
    for name in ("_trainable_variables_indices", "_var_to_optimizer_idx"):
        if hasattr(optimizer, name):
            entries = getattr(optimizer, name)
            setattr(optimizer, name, {renamed[key]: value for key, value in entries.items()})
    excluded = getattr(optimizer, "_exclude_from_weight_decay", None)
    if excluded:
        optimizer._exclude_from_weight_decay = {renamed.get(key, key) for key in excluded}
    if hasattr(optimizer, "_exclude_from_weight_decay_cache"):
        optimizer._exclude_from_weight_decay_cache = {}


_KEYED = (
    "_trainable_variables_indices",
    "_var_to_optimizer_idx",
    "_exclude_from_weight_decay",
    "_exclude_from_weight_decay_cache",
)


def keys_of(optimizer: Any) -> dict[str, Any]:
    """Returns all of an optimizer that `rekey` replaces, for `put_back_keys`."""
    return {name: getattr(optimizer, name) for name in _KEYED if hasattr(optimizer, name)}


def put_back_keys(optimizer: Any, keys: dict[str, Any]) -> None:
    """Undoes a `rekey`, one that was interrupted included."""
    for name, value in keys.items():
        setattr(optimizer, name, value)
