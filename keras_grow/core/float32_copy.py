"""A copy of a model that computes in float32, for what half precision would hide."""

from __future__ import annotations

import random

import keras

from keras_grow.core import keras_private
from keras_grow.core.model_copy import copy_model

_HALF = ("float16", "bfloat16")


def copy_in_float32(model: keras.Model) -> keras.Model:
    """Returns a copy of a model, its state kept, that computes in float32 where the model does
    not compute in float64: scores are differences too small for half precision.

    Python's random numbers, from which new layers draw their seeds, go on as if there were none.
    """
    before = random.getstate()
    try:
        return copy_model(model, dtype_of=_float32_for_half)
    finally:
        random.setstate(before)


def in_float32(model: keras.Model) -> keras.Model:
    """Returns the model, or a copy in float32 where it computes in half precision."""
    half = any(layer.compute_dtype in _HALF for layer in keras_private.layers_within(model))
    return copy_in_float32(model) if half else model


def _float32_for_half(layer: keras.Layer) -> str | None:
    is_input = isinstance(layer, keras.layers.InputLayer)  # which computes nothing
    dtype = layer.dtype if is_input else layer.compute_dtype
    return "float32" if dtype in _HALF else None
