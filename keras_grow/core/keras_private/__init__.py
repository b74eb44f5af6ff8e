"""Everything that touches what Keras keeps private, in one place.

Each function names the Keras file that it relies on (checked with Keras 3.15). A release that
changes one of them fails in `tests/core/test_keras_private.py`, not in the middle of a training
run.
"""

from keras_grow.core.keras_private.attention import (
    ATTENTION,
    AttentionNames,
    initializer_of,
    projections_of,
)
from keras_grow.core.keras_private.callbacks import memory_of, remember
from keras_grow.core.keras_private.data import TappedData, adapter_of, are_arrays, rows_of
from keras_grow.core.keras_private.graph import (
    Call,
    attributes_of_layers,
    calls_of,
    check_calls,
    copy_operation,
    is_functional,
    layers_within,
    recorded_arguments,
    refresh_shapes,
    run_calls,
    standard_inputs,
)
from keras_grow.core.keras_private.optimizer import (
    keys_of,
    optimizers_of,
    own_variables,
    put_back_keys,
    rekey,
    slots_of,
    trained_variables,
)
from keras_grow.core.keras_private.trainer import (
    build_metrics,
    forget_compiled_functions,
    iterators_of,
    set_first_epoch,
)
from keras_grow.core.keras_private.variables import (
    Held,
    global_seed_state,
    hold,
    put_back,
    resize,
    seed_states,
)

__all__ = [
    "ATTENTION",
    "AttentionNames",
    "Call",
    "Held",
    "TappedData",
    "adapter_of",
    "are_arrays",
    "attributes_of_layers",
    "build_metrics",
    "calls_of",
    "check_calls",
    "copy_operation",
    "forget_compiled_functions",
    "global_seed_state",
    "hold",
    "initializer_of",
    "is_functional",
    "iterators_of",
    "keys_of",
    "layers_within",
    "memory_of",
    "optimizers_of",
    "own_variables",
    "projections_of",
    "put_back",
    "put_back_keys",
    "recorded_arguments",
    "refresh_shapes",
    "rekey",
    "remember",
    "resize",
    "rows_of",
    "run_calls",
    "seed_states",
    "set_first_epoch",
    "slots_of",
    "standard_inputs",
    "trained_variables",
]
