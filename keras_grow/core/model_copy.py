"""Copies of models: the same calls of new layers, which hold what the old ones hold.

A layer is made anew from the very objects that it was made from, where Keras's own way writes
functions and classes down as names and looks the names up. What the layer holds beyond its
arguments then goes along (`core/state_copy.py`), or the copy is refused.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras

from keras_grow.core import keras_private
from keras_grow.core.state_copy import StateCopy, copied_data

_MISSING = object()


def copy_model(
    model: keras.Model,
    kinds: Mapping[type, type] | None = None,
    dtype_of: Callable[[keras.Layer], Any] = lambda layer: None,
) -> keras.Model:
    """Returns a copy of a Functional model, which shares no variable with it.

    Args:
        model: The model.
        kinds: Layer type -> the type that it has in the copy, in models within the model too.
        dtype_of: The dtype policy that a layer has in the copy; `None` for its own.

    Raises:
        TypeError: if a layer can't be made anew, or holds what can't be copied, naming it.
    """
    copier = _Copier(model, kinds or {}, dtype_of)
    copy = copier.functional(model)
    state = StateCopy()
    for layer, twin in copier.pairs():
        state.transfer(layer, twin)
    return copy


class _Copier:
    """Makes the layers of a model anew, each once."""

    def __init__(self, model: keras.Model, kinds: Mapping[type, type], dtype_of: Callable):
        self._layers = model.layers
        within = keras_private.layers_within(model)
        self._kind_of = {id(layer): kinds.get(type(layer)) for layer in within}
        self._dtype_of = dtype_of
        self._copies: dict[int, keras.Layer] = {}

    def pairs(self) -> list[tuple[keras.Layer, keras.Layer]]:
        """Returns the layers of the model itself, with their copies."""
        copies = self._copies
        return [(layer, copies[id(layer)]) for layer in self._layers if id(layer) in copies]

    def functional(self, model: keras.Model) -> keras.Model:
        """Copies a Functional model, as one of Keras's own class that is not compiled."""
        # Keras compiles the clone of a compiled model from names, and calls the inputs otherwise.
        plain = keras.Model(model.input, model.output, name=model.name)
        layer_of = {id(layer.output): layer for layer in keras_private.input_layers(plain)}
        inputs = keras.tree.map_structure(
            lambda tensor: self._input_like(layer_of[id(tensor)]), model.input
        )
        return keras.models.clone_model(plain, input_tensors=inputs, clone_function=self.copied)

    def _input_like(self, layer: keras.layers.InputLayer) -> keras.KerasTensor:
        return keras.Input(
            batch_shape=layer.batch_shape,
            dtype=self._dtype_of(layer) or layer.dtype,
            sparse=layer.sparse,
            ragged=layer.ragged,
            name=layer.name,
            optional=layer.optional,
        )

    def copied(self, operation: Any) -> Any:
        """Copies an operation, without what it holds if it is a layer."""
        if not isinstance(operation, keras.Layer):
            return keras_private.copy_operation(operation)
        if id(operation) not in self._copies:
            kind = self._kind_of.get(id(operation)) or type(operation)
            self._copies[id(operation)] = self._made_anew(operation, kind)
        return self._copies[id(operation)]

    def _made_anew(self, layer: keras.Layer, kind: type) -> keras.Layer:
        if keras_private.is_functional(layer) and _is_built_like_functional(kind):
            copy = self.functional(layer)
            return copy if type(copy) is kind else kind(copy.input, copy.output, name=layer.name)
        if type(layer) is keras.Sequential:
            first = map(self._input_like, keras_private.input_layers(layer))
            return keras.Sequential([*first, *map(self.copied, layer.layers)], name=layer.name)
        errors = []
        for make in self._ways(layer, kind):
            try:
                twin = make()
            except Exception as error:  # of the layer's own code
                errors.append(error)
                continue
            if type(twin) is kind:
                return _named_alike(twin, layer, self._dtype_of(layer))
        raise TypeError(
            f"Layer `{layer.name}` ({type(layer).__name__}) can't be copied: it can't be made "
            "anew from its arguments. Give its class a `get_config` that returns the arguments of "
            "its `__init__`, or keep each argument as an attribute of the same name. Received: "
            f"{errors[0] if errors else 'a layer of another type'}"
        ) from (errors[0] if errors else None)

    def _ways(self, layer: keras.Layer, kind: type) -> Iterator[Callable[[], Any]]:
        """Yields the ways to make a layer: by the objects in it, by its config, by attributes."""
        config = _config(layer)
        dtype = self._dtype_of(layer)
        if dtype is not None:
            config = {**config, "dtype": dtype}
        objects = {name: self._object(layer, name, value) for name, value in config.items()}
        replaced = any(objects[name] is not value for name, value in config.items())
        by_objects, by_config = lambda: kind(**objects), lambda: kind.from_config(dict(config))
        if config:
            yield from (by_objects, by_config) if replaced else (by_config, by_objects)
        yield lambda: kind(**self._arguments(layer, kind, objects))
        if not (kind.__module__.startswith("keras.") or keras_private.is_functional(layer)):
            yield lambda: self._by_attributes(layer, kind)

    def _object(self, layer: keras.Layer, name: str, value: Any) -> Any:
        """Returns the object that stands in a layer's config as a name or a config."""
        if isinstance(value, keras.Layer):  # of a config that writes nothing down
            return self.copied(value)
        own = _attribute(layer, name)
        if isinstance(value, Mapping) and isinstance(own, keras.Layer):
            return self.copied(own)
        if isinstance(value, (list, tuple)) and isinstance(own, (list, tuple)):
            layers = [each for each in own if isinstance(each, keras.Layer)]
            return [self.copied(each) for each in own] if layers and layers == own else value
        if not isinstance(value, (Mapping, str)) or isinstance(own, keras.Layer):
            return value
        is_object = hasattr(own, "get_config") or (callable(own) and not inspect.ismethod(own))
        return own if is_object else value

    def _arguments(self, layer: keras.Layer, kind: type, objects: Mapping) -> dict[str, Any]:
        """Returns the arguments that a class names, from a layer's config or its attributes."""
        arguments = {}
        for name in inspect.signature(kind.__init__).parameters:
            value = objects.get(name, _MISSING)
            if value is _MISSING:
                value = _attribute(layer, name, _MISSING)
                if value is _MISSING:
                    continue
                value = self._copied_value(layer, name, value)
            arguments[name] = value
        return arguments

    def _by_attributes(self, layer: keras.Layer, kind: type) -> keras.Layer:
        """Makes a layer of a class that doesn't keep its arguments. Its `build` is to come."""
        twin = kind.__new__(kind)
        base = keras.Model if issubclass(kind, keras.Model) else keras.Layer
        base.__init__(twin, name=layer.name)
        ours = keras_private.attributes_of_layers()
        for name, value in list(vars(layer).items()):
            if name not in ours and not isinstance(value, keras.Variable):
                setattr(twin, name, self._copied_value(layer, name, value))
        return twin

    def _copied_value(self, layer: keras.Layer, name: str, value: Any) -> Any:
        if isinstance(value, keras.Layer):
            return self.copied(value)
        if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
            kind = tuple if isinstance(value, tuple) else list
            return kind(self._copied_value(layer, name, each) for each in value)
        if isinstance(value, dict):
            return {key: self._copied_value(layer, name, each) for key, each in value.items()}
        if isinstance(value, keras.random.SeedGenerator):
            return keras.random.SeedGenerator(name=value.name)
        return copied_data(layer, name, value)


def _attribute(layer: keras.Layer, name: str, default: Any = None) -> Any:
    """Returns an attribute, or that with an underscore before its name."""
    held = vars(layer)
    return held.get(name, held.get(f"_{name}", default))


def _config(layer: keras.Layer) -> dict[str, Any]:
    """Returns a layer's config, with what it leaves out of the arguments that Keras recorded."""
    named = inspect.signature(type(layer).__init__).parameters
    recorded = keras_private.recorded_arguments(layer)
    arguments = {name: value for name, value in recorded.items() if name in named}
    with warnings.catch_warnings():
        # Nothing is written down here.
        warnings.filterwarnings("ignore", "The object being serialized includes a `lambda`")
        try:
            return {**arguments, **layer.get_config()}
        except Exception:  # of the layer's own code, or because it has no config
            return arguments


def _is_built_like_functional(kind: type) -> bool:
    """Tells whether a class of models takes inputs and outputs, and nothing else."""
    parameters = inspect.signature(kind.__init__).parameters.values()
    kinds = {parameter.kind for parameter in parameters}
    named = [p.name for p in parameters if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    variadic = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD} <= kinds
    return variadic or named[1:4] == ["inputs", "outputs", "name"]


def _named_alike(twin: keras.Layer, layer: keras.Layer, dtype: Any) -> keras.Layer:
    """Gives a new layer the names and the dtype that its class didn't take as arguments."""
    inner = zip(keras_private.layers_within(layer), keras_private.layers_within(twin), strict=False)
    for own, new in inner:
        if new.name != own.name:
            new.name = own.name
    policy = layer.dtype_policy if dtype is None else keras.dtype_policies.get(dtype)
    if twin.dtype_policy != policy:
        twin.dtype_policy = policy
    return twin
