"""Other models that hold variables of a model that grows: a growth takes them along."""

from __future__ import annotations

import gc
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import compress, repeat

import keras

from keras_grow.core import keras_private


def models_sharing(model: keras.Model, variables: Collection[keras.Variable]) -> list[keras.Model]:
    """Returns the models, beside a model, that hold any of some variables.

    A feature extractor `keras.Model(model.input, model.get_layer("h2").output)` is one, and so is
    another network with a trunk in common, or a model within the model, which may have been
    compiled and trained by itself. No layer knows of them: they are found among all objects that
    live.

    Args:
        model: The model.
        variables: Some of its variables.
    """
    held = {id(variable) for variable in variables}

    def sharing(other: keras.Model) -> bool:
        return other is not model and any(id(v) in held for v in other.variables)

    if any(map(sharing, _living_models())):
        gc.collect()  # a model that nobody holds any more lives until then
    return list(filter(sharing, _living_models()))


def models_calling(model: keras.Model, calls: Collection) -> tuple[list, list]:
    """Returns the models that hold some calls of a model, and all models that hold one of those.

    Args:
        model: The model.
        calls: Nodes of its graph.

    Returns:
        The Functional models that the calls are part of, the model first; and these with those that
        they are layers of, at any depth.

    Raises:
        ValueError: if the calls are a Sequential model's too, which lists its layers itself.
    """
    gc.collect()  # a model that nobody holds any more lives until then
    living = list(_living_models())
    others = [m for m in living if m is not model and keras_private.is_functional(m)]
    calling = [model, *(m for m in others if keras_private.has_calls(m, calls))]
    known = {id(m) for m in calling}
    for other in living:
        if isinstance(other, keras.Sequential) and id(keras_private.graph_of(other)) in known:
            raise ValueError(
                f"Model `{model.name}` is made of the layers of the Sequential model "
                f"`{other.name}`, which can't get another block. Delete that model, or deepen "
                "`keras_grow.GrowableModel.from_keras(model)`, which has layers of its own."
            )
    holding = [m for m in living if known.intersection(map(id, keras_private.layers_within(m)))]
    return calling, holding


def _living_models() -> Iterator[keras.Model]:
    """Yields every Keras model that lives, out of some hundred thousand objects."""
    objects = gc.get_objects()
    # By their types: asking some objects for their class does things.
    types = list(map(type, objects))
    kinds = list(set(types))
    models = set(compress(kinds, map(issubclass, kinds, repeat(keras.Model))))
    return compress(objects, map(models.__contains__, types))


def follow(model: keras.Model, others: Sequence[keras.Model]) -> None:
    """Brings models up to date with layers of theirs that another model has widened.

    Args:
        model: The model that was widened, all models within it included.
        others: The models that share layers with it.

    Raises:
        ValueError: if one of them could not be called any more.
    """
    within = keras_private.layers_within(model)
    parts = {id(part) for layer in within for part in (layer, keras_private.graph_of(layer))}
    for other in others:
        if keras_private.is_functional(other) and id(other) not in parts:
            with _named(other):
                keras_private.refresh_shapes(other)
                keras_private.check_calls(other)
        keras_private.forget_compiled_functions(other)


@contextmanager
def _named(other: keras.Model) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(
            f"Model `{other.name}` shares layers with the model that grows, and could not be "
            "called after this growth. Delete it, or let it have layers of its own "
            f"(`keras.models.clone_model`). {error}"
        ) from error
