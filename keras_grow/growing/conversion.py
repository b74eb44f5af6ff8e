"""From plain Keras layers to growable ones, and back."""

from __future__ import annotations

import keras

from keras_grow.channels.layer_table import twins
from keras_grow.core import keras_private
from keras_grow.core.model_copy import copy_model

# What a Functional subclass may define and still be nothing but its layers.
_BUILDS = frozenset({"__init__", "build", "build_from_config", "from_config", "get_config"})


def with_growable_layers(model: keras.Model, kind: type = keras.Model) -> keras.Model:
    """Returns a copy of a Functional or Sequential model, of growable layers, state kept.

    Args:
        model: The model.
        kind: The class that the copy's layers are for.

    Raises:
        TypeError: if it is neither, or not a model at all, or of a class with methods that would
            be lost; or if a layer can't be copied.
        ValueError: if it is not built.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"Expected a `keras.Model`. Received: {model!r} of type {type(model)}")
    if isinstance(model, keras.Sequential) and not model.built:
        raise ValueError(
            f"Model `{model.name}` is not built, so its channels aren't known. Give it an "
            "`keras.Input` as its first layer, or call `model.build(input_shape)`."
        )
    if not (isinstance(model, keras.Sequential) or keras_private.is_functional(model)):
        raise TypeError(
            "Only Functional and Sequential models can grow: the calls of a subclassed model "
            "can't be read. Call its layers on an input in the order of its `call`:\n"
            "    inputs = keras.Input(shape)\n"
            "    model = keras.Model(inputs, head(body(inputs)))\n"
            "and make layers of what it does beside them (`keras_grow.register_layer` says what "
            f"those do to channels). Received: {type(model).__name__} `{model.name}`"
        )
    _check_class(model, kind)
    if isinstance(model, keras.Sequential):
        model = keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    return copy_model(model, twins())


def with_plain_layers(model: keras.Model) -> keras.Model:
    """Returns a copy of a model, of plain Keras layers, state kept.

    Raises:
        TypeError: if a layer can't be copied, or the model does more than call its layers.
    """
    called = {"call", "__call__"}.intersection(_methods_beyond(model, keras.Model))
    if called:
        raise TypeError(
            f"Model `{model.name}` is of a class with a `{called.pop()}` of its own, which plain "
            "Keras layers can't stand for. Put what it does into a layer. Received: a "
            f"{type(model).__name__}"
        )
    return copy_model(model, {growable: plain for plain, growable in twins().items()})


def _check_class(model: keras.Model, kind: type) -> None:
    """Refuses a model whose class does something that `kind` does not."""
    lost = _methods_beyond(model, kind)
    if lost:
        names, own = ", ".join(f"`{name}`" for name in lost), type(model).__name__
        raise TypeError(
            f"Model `{model.name}` is of the class {own}, whose {names} the growable copy would "
            "not have. Derive the class from `keras_grow.GrowableModel`, and build it of growable "
            f"layers:\n    class {own}(keras_grow.GrowableModel): ...  # with {names}\n"
            f"    model = {own}(inputs, outputs)\n"
            f"or convert a plain `keras.Model(inputs, outputs)` by `{own}.from_keras`. "
            f"Received: a {own}"
        )


def _methods_beyond(model: keras.Model, kind: type) -> list[str]:
    """Lists the public methods of `keras.Model` that a model's class has changed, not `kind`."""
    own = [
        each
        for each in type(model).__mro__
        if not (issubclass(kind, each) or each.__module__.startswith("keras."))
    ]
    names = dict.fromkeys(name for each in own for name in vars(each))
    public = [name for name in names if name == "__call__" or not name.startswith("_")]
    return [name for name in public if hasattr(keras.Model, name) and name not in _BUILDS]
