"""Checks of arguments that several public names take, with Keras's wording."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np


def _checked(
    name: str,
    value: Any,
    kind: type,
    valid: Callable[[Any], bool],
    wanted: str,
    wanted_kind: str | None = None,
    kind_error: type[Exception] = TypeError,
) -> Any:
    """Returns a number of a kind that is valid, or says what was wanted."""
    if isinstance(value, bool) or not isinstance(value, kind):
        raise kind_error(
            f"`{name}` must be {wanted_kind or wanted}. Received: {name}={value!r} of type "
            f"{type(value)}"
        )
    if not valid(value):
        raise ValueError(f"`{name}` must be {wanted}. Received: {name}={value!r}")
    return value


def check_rate(rate: Any) -> float:
    """Returns a growth rate, or says what is wrong with it."""
    wanted = "a positive number: the fraction of the neurons to add at each growth, such as 0.35"
    return float(_checked("rate", rate, numbers.Real, _is_positive, wanted, "a number"))


def check_number(name: str, value: Any, positive: bool = False) -> float:
    """Returns a finite number of at least 0 (or a positive one), or says what is wrong with it."""
    if positive:
        return float(_checked(name, value, numbers.Real, _is_positive, "a positive number"))
    wanted = "a finite number of at least 0"
    return float(_checked(name, value, numbers.Real, lambda n: math.isfinite(n) and n >= 0, wanted))


def check_positive_int(name: str, value: Any) -> int:
    """Returns a positive integer, or says what is wrong with it."""
    return int(_checked(name, value, numbers.Integral, lambda n: n >= 1, "a positive integer"))


def check_choice(name: str, value: Any, choices: Collection[str]) -> None:
    """Refuses a value that is none of the choices."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"`{name}` must be one of {list(choices)}. Received: {name}={value!r}")


def check_bool(name: str, value: Any) -> None:
    """Refuses what is neither true nor false."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"`{name}` must be True or False. Received: {name}={value!r}")


def check_seed(seed: Any) -> int:
    """Returns a seed, or says what is wrong with it."""
    return _check_natural("seed", seed)


def check_epoch(epoch: Any) -> int | None:
    """Returns a number of completed epochs or `None`, or says what is wrong with it."""
    return None if epoch is None else _check_natural("epoch", epoch)


def _check_natural(name: str, value: Any) -> int:
    return int(
        _checked(
            name,
            value,
            numbers.Integral,
            lambda n: n >= 0,
            "an integer of at least 0",
            kind_error=ValueError,
        )
    )


def _is_positive(number: Any) -> bool:
    return math.isfinite(number) and number > 0


def check_callbacks(callbacks: Any) -> None:
    """Refuses the class of a callback where a callback is meant."""
    for callback in callbacks if isinstance(callbacks, (list, tuple)) else [callbacks]:
        if isinstance(callback, type):
            raise TypeError(
                f"`callbacks` must hold callbacks, not their classes: write "
                f"`{callback.__name__}(...)`. Received: {callback}"
            )


def check_limits(limits: Mapping[str, Any]) -> None:
    """Checks the limits of a growth: `None`, a positive integer, or one per group.

    Args:
        limits: Name of the argument -> its value. What `of` says is one of three names.
    """
    for name, value in limits.items():
        if name == "of":
            check_choice(name, value, ("neurons", "parameters", "flops"))
        elif isinstance(value, Mapping) and name in ("max_widths", "multiple_of"):
            for group, number in value.items():
                check_positive_int(f"{name}[{group!r}]", number)
        elif value is not None:
            check_positive_int(name, value)
