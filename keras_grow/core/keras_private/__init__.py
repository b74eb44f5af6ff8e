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
from keras_grow.core.keras_private.calls import (
    calls_of,
    graph_called,
    graph_of,
    input_layers,
    is_functional,
    named_layers,
    walked_into,
)
from keras_grow.core.keras_private.data import TappedData, adapter_of, are_arrays, rows_of
from keras_grow.core.keras_private.graph import (
    attributes_of_layers,
    check_calls,
    copy_operation,
    layers_within,
    recorded_arguments,
    refresh_shapes,
    run_calls,
    set_argument,
    shapes_within,
    standard_inputs,
)
from keras_grow.core.keras_private.inner_calls import (
    Call,
    ConvLSTMCell,
    CustomScaleLayer,
    LayerScale,
    StochasticDepth,
    count_states,
    inner_calls,
    states_passed,
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
    "ConvLSTMCell",
    "CustomScaleLayer",
    "Held",
    "LayerScale",
    "StochasticDepth",
    "TappedData",
    "adapter_of",
    "are_arrays",
    "attributes_of_layers",
    "build_metrics",
    "calls_of",
    "check_calls",
    "copy_operation",
    "count_states",
    "forget_compiled_functions",
    "global_seed_state",
    "graph_called",
    "graph_of",
    "hold",
    "initializer_of",
    "inner_calls",
    "input_layers",
    "is_functional",
    "iterators_of",
    "keys_of",
    "layers_within",
    "memory_of",
    "named_layers",
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
    "set_argument",
    "set_first_epoch",
    "shapes_within",
    "slots_of",
    "standard_inputs",
    "states_passed",
    "trained_variables",
    "walked_into",
]
