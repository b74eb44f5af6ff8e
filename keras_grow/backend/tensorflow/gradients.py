"""Gradients, by TensorFlow's tapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from keras_grow.backend.tensorflow.tracing import released_gradients


def compiled_gradient(loss: Callable) -> Callable:
    """Returns a compiled function: `(values, *batch)` -> gradients of a loss.

    Args:
        loss: Takes a list of tensors and the parts of a batch, and returns a scalar.
    """

    @tf.function(reduce_retracing=True, autograph=False)
    def gradient(values, *batch):
        with released_gradients(), tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            value = loss(values, *batch)
            return tape.gradient(value, values, unconnected_gradients="zero")

    return gradient


def gradients_within(function: Callable[[], tuple]) -> tuple:
    """Runs a function of a model, and returns what it taps with the gradients there.

    Args:
        function: Returns a loss, and a structure of tensors on the way from a variable to it.

    Returns:
        The structure, and the gradients of the loss with respect to its tensors.
    """
    with tf.GradientTape() as tape:
        loss, tensors = function()
    return tensors, tape.gradient(loss, tensors, unconnected_gradients="zero")


def vjp(function: Callable, primals: Sequence) -> tuple[Any, Callable]:
    """Runs a function, and returns how gradients come back through it.

    Args:
        function: Takes the tensors, and returns a structure of tensors.
        primals: The tensors.

    Returns:
        The outputs, and a function from the gradients with respect to them (a structure alike) to
        the list of those with respect to the primals. It can be called once.
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        primals = [tf.convert_to_tensor(primal) for primal in primals]
        tape.watch(primals)
        outputs = function(*primals)

    def pullback(upstream):
        return tape.gradient(outputs, primals, upstream, unconnected_gradients="zero")

    return outputs, pullback
