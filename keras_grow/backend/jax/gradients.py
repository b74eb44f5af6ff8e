"""Gradients, by JAX's transformations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import keras


def compiled_gradient(loss: Callable) -> Callable:
    """Returns a compiled function: `(values, *batch)` -> gradients of a loss.

    Args:
        loss: Takes a list of tensors and the parts of a batch, and returns a scalar.
    """
    gradient = jax.jit(jax.grad(loss))
    return lambda values, *batch: gradient(values, *_tensors(batch))


def vjp(function: Callable, primals: Sequence) -> tuple[Any, Callable]:
    """Runs a function, and returns how gradients come back through it.

    Args:
        function: Takes the tensors, and returns a structure of tensors.
        primals: The tensors.

    Returns:
        The outputs, and a function from the gradients with respect to them (a structure alike) to
        the list of those with respect to the primals. It can be called once.
    """
    outputs, pullback = jax.vjp(function, *_tensors(list(primals)))
    return outputs, lambda upstream: list(pullback(upstream))


def _tensors(structure: Any) -> Any:
    """Returns arrays, those of other frameworks included, as JAX's."""

    def convert(leaf):
        return None if leaf is None else keras.ops.convert_to_tensor(leaf)

    return keras.tree.map_structure(convert, structure)
