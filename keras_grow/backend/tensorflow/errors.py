"""TensorFlow's exceptions: which of them mean what."""

from __future__ import annotations

import tensorflow as tf

# What the kernels raise for values that don't fit: shapes, labels out of range, strings.
MISFIT = (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError)


def is_out_of_memory(error: BaseException) -> bool:
    """Tells whether an exception says that memory ran out."""
    return isinstance(error, (MemoryError, tf.errors.ResourceExhaustedError))


def with_message(error: BaseException, message: str) -> BaseException:
    """Returns an exception that says that memory ran out, with another message."""
    if isinstance(error, tf.errors.ResourceExhaustedError):
        return tf.errors.ResourceExhaustedError(error.node_def, error.op, message)
    return MemoryError(message)
