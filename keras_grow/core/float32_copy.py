"""A copy of a model that computes in float32, for what half precision would hide."""

from __future__ import annotations

import random

import keras


def copy_in_float32(model: keras.Model) -> keras.Model:
    """Returns a copy of a model, weights kept, that computes in float32 where the model does not
    compute in float64: scores are differences too small for half precision.

    Python's random numbers, from which new layers draw their seeds, go on as if there were none.
    """

    def clone(operation):
        config = operation.get_config()
        # An operation that is no layer has no dtype of its own.
        if getattr(operation, "compute_dtype", None) in ("float16", "bfloat16"):
            config["dtype"] = "float32"
        return type(operation).from_config(config)

    before = random.getstate()
    try:
        copy = keras.models.clone_model(model, clone_function=clone)
    finally:
        random.setstate(before)
    copy.set_weights(model.get_weights())
    return copy
