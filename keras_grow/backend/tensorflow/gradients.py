"""Gradients, by TensorFlow's tapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

from keras_grow.backend.tensorflow.tracing import released_gradients


def compiled(function: Callable) -> Callable:
    """Returns a function of structures of tensors, compiled when it is first called.

    Args:
        function: A pure function: what it computes follows from its arguments.
    """

    @tf.function(reduce_retracing=True, autograph=False)
    def run(*arguments):
        with released_gradients():
            return function(*arguments)

    return run


def compiled_gradient(loss: Callable) -> Callable:
    """Returns a compiled function: `(values, *others)` -> gradients of a loss.

    Args:
        loss: Takes a structure of tensors, to differentiate by, and others; returns a scalar.
    """

    def gradient(values, *others):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            value = loss(values, *others)
        gradients = tape.gradient(value, values, unconnected_gradients="zero")
        return tf.nest.map_structure(tf.convert_to_tensor, gradients)  # none of them sparse

    return compiled(gradient)


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
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        primals = [tf.convert_to_tensor(primal) for primal in primals]
        tape.watch(primals)
        outputs, *aux = function(*primals) if has_aux else (function(*primals),)

    def pullback(upstream):
        return tape.gradient(outputs, primals, upstream, unconnected_gradients="zero")

    return outputs, pullback, *aux
