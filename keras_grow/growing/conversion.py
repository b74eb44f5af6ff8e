"""From plain Keras layers to growable ones, and back."""

from __future__ import annotations

import keras

from keras_grow.channels.layer_table import twins
from keras_grow.core.model_copy import copy_model


def with_growable_layers(model: keras.Model) -> keras.Model:
    """Returns a copy of a Functional or Sequential model, of growable layers, weights kept.

    Raises:
        TypeError: if it is neither, or not a model at all.
        ValueError: if it is not built.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"Expected a `keras.Model`. Received: {model!r} of type {type(model)}")
    if isinstance(model, keras.Sequential) and not model.built:
        raise ValueError(
            f"Model `{model.name}` is not built, so its channels aren't known. Give it an "
            "`keras.Input` as its first layer, or call `model.build(input_shape)`."
        )
    if not (isinstance(model, keras.Sequential) or hasattr(model, "operations")):
        raise TypeError(
            "Only Functional and Sequential models can grow: the calls of a subclassed model "
            f"can't be read. Received: {type(model).__name__} `{model.name}`"
        )
    if isinstance(model, keras.Sequential):
        model = keras.Model(model.inputs[0], model.outputs[0])
    return copy_model(model, twins())


def with_plain_layers(model: keras.Model) -> keras.Model:
    """Returns a copy of a model, of plain Keras layers, weights kept."""
    return copy_model(model, {growable: plain for plain, growable in twins().items()})
