"""All that a model holds, to compare before with after."""

import keras
import numpy as np


def arrays_of(variables):
    """The values of variables or tensors, as arrays."""
    return [keras.ops.convert_to_numpy(value) for value in variables]


def weights_and_slots(model):
    """The values that a model trains with: its variables and its optimizer's."""
    return arrays_of(model.variables + model.optimizer.variables)


def state_of(model):
    """All that a growth changes and that a growth which fails must leave alone."""
    return {
        "arrays": weights_and_slots(model) + arrays_of(model.metrics_variables),
        "config": model.get_config(),  # the growths and the penalty's window included
        "metrics": model.get_metrics_result(),
        "shapes": [layer.output.shape for layer in model.layers],
        "built for": [layer.get_build_config() for layer in model.layers],
        "found by the optimizer": [
            model.optimizer._get_variable_index(v) for v in model.trainable_variables
        ],
    }


def assert_same_arrays(first, second):
    """Compares lists of arrays bit for bit."""
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def assert_same_state(before, after):
    """Compares what `state_of` returned bit for bit."""
    before, after = dict(before), dict(after)
    assert_same_arrays(before.pop("arrays"), after.pop("arrays"))
    assert before == after
