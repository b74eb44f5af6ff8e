"""The seam on TensorFlow."""

from keras_grow.backend.tensorflow.batch_norm import fast_batch_norm
from keras_grow.backend.tensorflow.distribution import (
    broadcast,
    share_of_replica,
    spans_processes,
    strategy_scope,
)
from keras_grow.backend.tensorflow.errors import MISFIT, is_out_of_memory, with_message
from keras_grow.backend.tensorflow.gradients import compiled, compiled_gradient, vjp
from keras_grow.backend.tensorflow.machine import accelerators, backend_version
from keras_grow.backend.tensorflow.tracing import (
    collect_garbage,
    forget_traces,
    make_unusable,
    released_gradients,
)
from keras_grow.backend.tensorflow.train_step import TrainSteps, as_train_function, sync_state

# Whether libraries that compute with TensorFlow can compute with the models.
RUNS_TENSORFLOW_LIBRARIES = True

__all__ = [
    "MISFIT",
    "RUNS_TENSORFLOW_LIBRARIES",
    "TrainSteps",
    "accelerators",
    "as_train_function",
    "backend_version",
    "broadcast",
    "collect_garbage",
    "compiled",
    "compiled_gradient",
    "fast_batch_norm",
    "forget_traces",
    "is_out_of_memory",
    "make_unusable",
    "released_gradients",
    "share_of_replica",
    "spans_processes",
    "strategy_scope",
    "sync_state",
    "vjp",
    "with_message",
]
