"""JAX's exceptions: which of them mean what."""

from __future__ import annotations

import jax

# What operations raise for values that don't fit is Python's own: TypeError, ValueError.
MISFIT = ()


def is_out_of_memory(error: BaseException) -> bool:
    """Tells whether an exception says that memory ran out."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)


def with_message(error: BaseException, message: str) -> BaseException:
    """Returns an exception that says that memory ran out, with another message."""
    if isinstance(error, jax.errors.JaxRuntimeError):
        return jax.errors.JaxRuntimeError(f"RESOURCE_EXHAUSTED: {message}")
    return MemoryError(message)
