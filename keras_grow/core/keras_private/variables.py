"""The values of variables, seeds included (Keras 3.15)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np


@dataclass(frozen=True)
class Held:
    """What a variable held before it was resized, so that it can be put back."""

    variable: keras.Variable
    value: Any
    shape: tuple


def hold(variable: keras.Variable) -> Held:
    """Returns what a variable holds now, for `put_back`."""
    return Held(variable, variable._value, variable._shape)


def resize(variable: keras.Variable, value: np.ndarray) -> Held:
    """Replaces a variable's value by one of another shape; the variable object stays.

    Relies on `Variable._shape`, `_value` and `_initialize` (keras/src/backend/common/variables.py
    and keras/src/backend/tensorflow/core.py).

    Returns:
        What it held before, for `put_back`.
    """
    held = hold(variable)
    try:
        variable._shape = tuple(value.shape)
        variable._initialize(keras.ops.convert_to_tensor(value, dtype=variable._dtype))
    except BaseException:
        put_back(held)
        raise
    return held


def put_back(held: Held) -> None:
    """Undoes a `resize`: the variable is as it was, down to the backend's own object."""
    held.variable._shape = held.shape
    held.variable._value = held.value


def seed_states(model: keras.Model) -> list[keras.Variable]:
    """Returns the states of the seed generators of a model's layers (Dropout, RandomFlip).

    Relies on `Layer._flatten_layers` and `_seed_generators` (keras/src/layers/layer.py).
    """
    layers = model._flatten_layers()
    return [generator.state for layer in layers for generator in layer._seed_generators]


def global_seed_state(make: bool = False) -> keras.Variable | None:
    """Returns the state of Keras's global seed generator; `None` where nothing has used it yet.

    Relies on keras/src/random/seed_generator.py.

    Args:
        make: Whether to make one where there is none.
    """
    from keras.src.backend.common.global_state import get_global_attribute
    from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR, global_seed_generator

    generator = global_seed_generator() if make else get_global_attribute(GLOBAL_SEED_GENERATOR)
    return None if generator is None else generator.state
