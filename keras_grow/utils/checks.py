"""Checks of arguments that several public names take, with Keras's wording."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from typing import Any


def check_rate(rate: Any) -> float:
    """Returns a growth rate, or says what is wrong with it."""
    if isinstance(rate, bool) or not isinstance(rate, numbers.Real):
        raise TypeError(f"`rate` must be a number. Received: rate={rate!r} of type {type(rate)}")
    if not math.isfinite(rate) or rate <= 0:
        raise ValueError(
            "`rate` must be a positive number: the fraction of the neurons to add at each growth, "
            f"such as 0.35. Received: rate={rate}"
        )
    return float(rate)


def check_number(name: str, value: Any, positive: bool = False) -> float:
    """Returns a finite number of at least 0 (or a positive one), or says what is wrong with it."""
    wanted = "a positive number" if positive else "a finite number of at least 0"
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(
            f"`{name}` must be {wanted}. Received: {name}={value!r} of type {type(value)}"
        )
    if not math.isfinite(value) or value < 0 or (positive and value == 0):
        raise ValueError(f"`{name}` must be {wanted}. Received: {name}={value!r}")
    return float(value)


def check_positive_int(name: str, value: Any) -> int:
    """Returns a positive integer, or says what is wrong with it."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(
            f"`{name}` must be a positive integer. Received: {name}={value!r} of type {type(value)}"
        )
    if value < 1:
        raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value}")
    return int(value)


def check_seed(seed: Any) -> int:
    """Returns a seed, or says what is wrong with it."""
    if isinstance(seed, bool) or not isinstance(seed, numbers.Integral) or seed < 0:
        raise ValueError(f"`seed` must be an integer of at least 0. Received: seed={seed!r}")
    return int(seed)


def check_epoch(epoch: Any) -> int | None:
    """Returns a number of completed epochs or `None`, or says what is wrong with it."""
    if epoch is None:
        return None
    if isinstance(epoch, bool) or not isinstance(epoch, numbers.Integral) or epoch < 0:
        raise ValueError(f"`epoch` must be an integer of at least 0. Received: epoch={epoch!r}")
    return int(epoch)


def check_callbacks(callbacks: Any) -> None:
    """Refuses the class of a callback where a callback is meant."""
    for callback in callbacks if isinstance(callbacks, (list, tuple)) else [callbacks]:
        if isinstance(callback, type):
            raise TypeError(
                f"`callbacks` must hold callbacks, not their classes: write "
                f"`{callback.__name__}(...)`. Received: {callback}"
            )


def check_ceilings(max_params: Any, max_widths: Any) -> None:
    """Checks the ceilings of a growth: `None`, a positive integer, or one per group."""
    if max_params is not None:
        check_positive_int("max_params", max_params)
    if isinstance(max_widths, Mapping):
        for group, width in max_widths.items():
            check_positive_int(f"max_widths[{group!r}]", width)
    elif max_widths is not None:
        check_positive_int("max_widths", max_widths)
