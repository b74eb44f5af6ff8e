"""Checks of arguments that several public names take, with Keras's wording."""

from __future__ import annotations

import math
import numbers
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


def check_ceilings(max_params: Any, max_widths: Any) -> None:
    """Checks the ceilings of a growth: `None`, a positive integer, or one per group."""
    if max_params is not None:
        check_positive_int("max_params", max_params)
    if isinstance(max_widths, dict):
        for group, width in max_widths.items():
            check_positive_int(f"max_widths[{group!r}]", width)
    elif max_widths is not None:
        check_positive_int("max_widths", max_widths)
