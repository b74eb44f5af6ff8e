"""The slots of optimizers, and the index by which they find their variables (Keras 3.15)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
from keras.src.utils.tracking import no_automatic_dependency_tracking


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


def hold_optimizer(optimizer: Any) -> Callable[[], None]:
    """Returns what puts an optimizer back as it is now, without those that it wraps.

    Its lists become new ones: TensorFlow can't save those that it tracks once entries are replaced.
    """
    held = dict(vars(optimizer))
    lists = {
        name: list(value)
        for name, value in held.items()
        if isinstance(value, list) and not name.startswith("_self_")  # TensorFlow's own
    }

    @no_automatic_dependency_tracking
    def put_back() -> None:
        for name in vars(optimizer).keys() - held.keys():
            del vars(optimizer)[name]
        vars(optimizer).update(held)
        for name, items in lists.items():
            setattr(optimizer, name, items)
        _set_variables(optimizer, lists["_variables"])

    return put_back


def rebuild(optimizer: Any, variables: Sequence[keras.Variable]) -> None:
    """Builds an optimizer for other variables; what it knows of those it had stays.

    Slots of variables that it had, and its counters, stay the same objects. Relies on `build`
    making lists of slots anew, and on `MultiOptimizer._optimizer_map` and
    `_inner_optimizers` (keras/src/optimizers/*.py).
    """
    before = [(part, _record(part)) for part in optimizers_of(optimizer)]
    chosen = {}
    for part, record in before:
        part.built, part._trainable_variables_indices = False, {}
        if hasattr(part, "_var_to_optimizer_idx"):
            chosen[id(part)] = part._optimizer_map
            part._optimizer_map = _chooser(part, record.trained)
            if not hasattr(chosen[id(part)], "values"):  # of a function: in the order of use
                part._inner_optimizers = []
    optimizer.build(list(variables))
    for part, record in before:
        if id(part) in chosen:
            part._optimizer_map = chosen[id(part)]
        _take_over(part, record)


@dataclass(frozen=True)
class _Record:
    """What an optimizer holds before it is built anew."""

    trained: list
    slots: dict[str, list]
    counters: dict[str, keras.Variable]
    variables: list


def _record(optimizer: Any) -> _Record:
    counters = {n: v for n, v in vars(optimizer).items() if isinstance(v, keras.Variable)}
    trained = trained_variables(optimizer)
    return _Record(trained, slots_of(optimizer), counters, own_variables(optimizer))


def _chooser(optimizer: Any, trained: Sequence[keras.Variable]) -> Callable[[Any], Any]:
    """Returns a map from variables to optimizers, for those that it had the same as before."""
    ask, inner, index = optimizer._optimizer_map, optimizer.optimizers, optimizer
    known = {id(v): inner[index._var_to_optimizer_idx[index._var_key(v)]] for v in trained}
    return lambda variable: known.get(id(variable)) or ask(variable)


@no_automatic_dependency_tracking
def _take_over(optimizer: Any, record: _Record) -> None:
    """Has an optimizer that was built anew hold what it held before."""
    if not optimizer.built:  # one of several, and nothing is left that it trains
        slots = {id(slot) for each in record.slots.values() for slot in each}
        for name in ("_trainable_variables", *record.slots):
            setattr(optimizer, name, [])
        _set_variables(optimizer, [v for v in record.variables if id(v) not in slots])
    made = own_variables(optimizer)[len(record.variables) :]
    if not made:
        return
    positions = {id(variable): i for i, variable in enumerate(record.trained)}
    same: dict[int, keras.Variable] = {}
    for name, slots in slots_of(optimizer).items():
        for number, variable in enumerate(trained_variables(optimizer)):
            old = record.slots.get(name, ())
            if id(variable) in positions and old and slots[number] is not None:
                same[id(slots[number])] = old[positions[id(variable)]]
        setattr(optimizer, name, [same.get(id(slot), slot) for slot in slots])
    for name, counter in record.counters.items():
        if getattr(optimizer, name) is not counter:
            same[id(getattr(optimizer, name))] = counter
            setattr(optimizer, name, counter)
    later = {id(slot) for slots in record.slots.values() for slot in slots}
    later |= {*map(id, same.values())}
    first = [variable for variable in record.variables if id(variable) not in later]
    _set_variables(optimizer, first + [same.get(id(each), each) for each in made])


def _set_variables(optimizer: Any, variables: Sequence[keras.Variable]) -> None:
    """Relies on the tracker's store (keras/src/optimizers/base_optimizer.py)."""
    optimizer._variables = list(variables)
    is_variable, _ = optimizer._tracker.config["variables"]
    optimizer._tracker.config["variables"] = is_variable, optimizer._variables
    optimizer._tracker.stored_ids["variables"] = {*map(id, variables)}
