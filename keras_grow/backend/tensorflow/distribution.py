"""Training on more than one device: what only TensorFlow's distribution strategies need."""

from __future__ import annotations

import contextlib
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_grow.backend.tensorflow.tracing import released_gradients


def share_of_replica(loss: tf.Tensor) -> tf.Tensor:
    """Returns the part of a term of the loss that one replica adds.

    Replicas sum their gradients. Keras divides what `compile` was given by their number; a term
    that is the same on each of them, such as a penalty on the weights, must be divided too.

    Args:
        loss: The term, a scalar. Called in a train step, on each replica.

    Example:

    >>> float(share_of_replica(tf.constant(3.0)))  # one device
    3.0
    """
    return loss / tf.cast(tf.distribute.get_strategy().num_replicas_in_sync, loss.dtype)


def replicas_span_processes(strategy: tf.distribute.Strategy) -> bool:
    """Returns whether other processes (workers) train the same model under a strategy."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return False
    return strategy.num_replicas_in_sync > len(strategy.extended.worker_devices)


def batch_of_first_replica(strategy: tf.distribute.Strategy, batch: Any) -> Any:
    """Returns what one replica of this process gets of a distributed batch."""
    return keras.tree.map_structure(lambda v: strategy.experimental_local_results(v)[0], batch)


def reducible(results: Any) -> Any:
    """Returns the results of a step such that Keras can take their mean over workers.

    Keras 3.15 has TensorFlow reduce them along axis 0, which a scalar doesn't have (reported in
    https://github.com/keras-team/keras/issues/20585).

    Args:
        results: Structure of scalars. Called in a step, on each replica.
    """
    if not replicas_span_processes(tf.distribute.get_strategy()):
        return results
    return keras.tree.map_structure(lambda value: tf.reshape(value, (1,)), results)


def strategy_scope(model: keras.Model):
    """Returns the scope under which the model's variables live (a `tf.distribute` scope).

    Relies on `TensorFlowTrainer.distribute_strategy` (keras/src/backend/tensorflow/trainer.py).
    """
    strategy = getattr(model, "_distribute_strategy", None)
    return contextlib.nullcontext() if strategy is None else strategy.scope()


def spans_processes(model: keras.Model) -> bool:
    """Returns whether other processes (workers) train the same model."""
    return replicas_span_processes(model.distribute_strategy)


def broadcast(model: keras.Model, content: bytes) -> bytes:
    """Returns the first worker's content on every worker. All of them must call it.

    Args:
        model: The model that all workers train.
        content: This worker's content.
    """
    strategy = model.distribute_strategy
    (length,) = _of_first_replica(strategy, np.array([len(content)]))
    mine = np.frombuffer(content, "uint8")[:length]
    padded = np.pad(mine, (0, length - len(mine))).astype("int32")  # what collectives can sum
    return _of_first_replica(strategy, padded).astype("uint8").tobytes()


def _of_first_replica(strategy: tf.distribute.Strategy, values: np.ndarray) -> np.ndarray:
    """Returns the first replica's integers on every worker, as a sum over zeros elsewhere."""

    def summed():
        context = tf.distribute.get_replica_context()
        first = tf.cast(tf.equal(context.replica_id_in_sync_group, 0), "int32")
        mine = first * tf.constant(values, "int32")
        with released_gradients():
            return context.all_reduce(tf.distribute.ReduceOp.SUM, mine)

    results = tf.function(lambda: strategy.run(summed), autograph=False)()
    return strategy.experimental_local_results(results)[0].numpy()
