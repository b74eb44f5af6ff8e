"""Gradients, by JAX's transformations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import keras


def compiled(function: Callable) -> Callable:
    """Returns a function of structures of tensors, compiled when it is first called.

    Args:
        function: A pure function: what it computes follows from its arguments.
    """
    run = jax.jit(function)
    return lambda *arguments: run(*_tensors(arguments))


def compiled_gradient(loss: Callable) -> Callable:
    """Returns a compiled function: `(values, *others)` -> gradients of a loss.

    Args:
        loss: Takes a structure of tensors, to differentiate by, and others; returns a scalar.
    """
    return compiled(jax.grad(loss))


def vjp(function: Callable, primals: Sequence, has_aux: bool = False) -> tuple:
    """Runs a function, and returns how gradients come back through it.

    Args:
        function: Takes the tensors, and returns a structure of tensors.
        primals: The tensors.
        has_aux: Whether the function returns a pair, of which only the first is differentiated.

    Returns:
        The outputs, and a function from the gradients with respect to them (a structure alike) to
        the list of those with respect to the primals, which can be called once. With `has_aux`
        also the second of the pair.
    """
    outputs, pullback, *aux = jax.vjp(function, *_tensors(list(primals)), has_aux=has_aux)
    return outputs, lambda upstream: list(pullback(upstream)), *aux


def _tensors(structure: Any) -> Any:
    """Returns arrays, those of other frameworks included, as JAX's."""

    def convert(leaf):
        return None if leaf is None else keras.ops.convert_to_tensor(leaf)

    return keras.tree.map_structure(convert, structure)
