"""What a pair of neurons costs: functions of their cosine similarity, each with its derivative.

Both are taken elementwise of a matrix of cosines, with the diagonal at zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from keras import ops

# Softens what is infinite where two neurons are parallel: the pull of two copies grows as they
# part, up to an angle of about sqrt(SOFTNESS) (2 degrees), and falls from there on.
SOFTNESS = 1e-3


class Measure(NamedTuple):
    """What a pair costs.

    Args:
        value: Cosines -> cost of each pair, zero for a cosine of zero.
        slope: Cosines -> its derivative.
        parts_copies: Whether the slope doesn't vanish as two neurons become parallel, so that
            something must say in which direction equal ones part.
    """

    value: Callable[[Any], Any]
    slope: Callable[[Any], Any]
    parts_copies: bool = True


def _sine_square(cosines: Any) -> Any:
    return 1 + SOFTNESS - ops.square(cosines)


def _energy(cosines: Any) -> Any:
    return math.log(1 + SOFTNESS) - ops.log(_sine_square(cosines))


def _energy_slope(cosines: Any) -> Any:
    return 2 * cosines / _sine_square(cosines)


def _angle(cosines: Any) -> Any:
    return (2 / math.pi) * ops.arcsin(ops.abs(cosines) / math.sqrt(1 + SOFTNESS))


def _angle_slope(cosines: Any) -> Any:
    return (2 / math.pi) * ops.sign(cosines) * ops.rsqrt(_sine_square(cosines))


MEASURES = {
    "cosine": Measure(ops.abs, ops.sign, parts_copies=False),
    "energy": Measure(_energy, _energy_slope),
    "angle": Measure(_angle, _angle_slope),
}
