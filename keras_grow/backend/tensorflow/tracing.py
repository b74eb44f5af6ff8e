"""What TensorFlow keeps of each traced function, for ever: released, so that growths leave nothing.

A growth makes the train function anew. The old one must go, with its graph and the old variables
that the graph holds. TensorFlow by itself would keep it, and would take the new tracings for a
mistake in somebody's loop.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tensorflow as tf

# Not among TensorFlow's public names (TensorFlow 2.19 to 2.21): the cache of kernels
# (tensorflow/python/eager/context.py), the counts of recent tracings
# (tensorflow/python/eager/polymorphic_function/polymorphic_function.py) and the table of all
# gradient functions (tensorflow/python/framework/ops.py).
from tensorflow.python.eager import context
from tensorflow.python.eager.polymorphic_function import polymorphic_function
from tensorflow.python.framework import ops


@contextmanager
def released_gradients() -> Iterator[None]:
    """Has what is traced in its scope leave no gradient functions behind.

    `tf.custom_gradient`, through which the optimizer sums gradients over replicas and which is
    behind activations such as silu, enters a function into a global table for each of its calls
    in a graph. The entry holds the graph. It is of no use once the gradients have been taken, so
    whatever is traced in the scope must not be differentiated after it.

    Example:

    >>> from tensorflow.python.framework import ops
    >>> entries = len(ops.gradient_registry.list())
    >>> @tf.function
    ... def slope(x):
    ...     with released_gradients(), tf.GradientTape() as tape:
    ...         tape.watch(x)
    ...         y = tf.nn.silu(x)
    ...         return tape.gradient(y, x)
    >>> float(slope(tf.constant(0.0)))
    0.5
    >>> len(ops.gradient_registry.list()) - entries
    0
    """
    if tf.executing_eagerly():
        yield
        return
    graph = tf.compat.v1.get_default_graph()
    before = len(graph.get_operations())
    try:
        yield
    finally:
        for operation in graph.get_operations()[before:]:
            if operation.type == "IdentityN":  # what carries a gradient function
                _release(operation)


def _release(operation: tf.Operation) -> None:
    """Removes the gradient function of one operation, if it has one of its own."""
    try:
        name = operation.get_attr("_gradient_op_type").decode()
    except ValueError:  # it has none
        return
    if name.startswith("CustomGradient-"):
        ops.gradient_registry._registry.pop(name, None)


def collect_garbage() -> None:
    """Frees what a growth leaves: old functions in reference cycles, with the old variables.

    TensorFlow also keeps a kernel for each eager operation on a variable of another shape, about
    half a megabyte a growth. Emptying that cache, as `keras.utils.clear_session` does, has random
    operations that keep a state (`tf.random.uniform(..., seed=1)`, called eagerly) start anew.
    """
    gc.collect()
    context.context().clear_kernel_cache()


def forget_traces() -> None:
    """Has TensorFlow count recent tracings anew: it warns of the fifth within ten calls.

    Those before a growth were no mistake.
    """
    manager = polymorphic_function._frequent_tracing_detector_manager
    with manager._lock:
        manager._detectors.clear()


def make_unusable(value: Any) -> None:
    """Has every later use of a variable's former value fail.

    A function that somebody else has traced holds the `tf.Variable` that a growth has replaced: it
    would go on with it, and train what is no part of the model any more. With a value of another
    shape, which no operation on it takes, it fails.

    Args:
        value: A `tf.Variable`, or one for each device.
    """
    for part in getattr(value, "values", (value,)):
        empty = tf.zeros((0,) * (part.shape.rank + 1), part.dtype)
        tf.raw_ops.AssignVariableOp(resource=part.handle, value=empty)
