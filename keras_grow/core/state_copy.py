"""What a layer holds beyond its arguments goes along into its copy, or the copy is refused.

Variables, seeds included, are assigned one by one. Vocabularies, and what is derived from weights,
go the way that saving goes (`save_own_variables`, `save_assets`). Whatever else the layer holds
must agree with what the new layer holds: data is copied, and for any other difference the copy is
refused.
"""

from __future__ import annotations

import copy
import dis
import functools
import tempfile
import threading
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_grow.core import keras_private

_BACKENDS = ("tensorflow", "jax", "jaxlib", "ml_dtypes")
_LOCKS = (type(threading.Lock()), type(threading.RLock()), threading.local)
_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: made by a `class` statement
_MISSING = object()


class StateCopy:
    """Takes what layers hold along into their copies. Each layer is looked at once."""

    def __init__(self):
        self._seen: dict[int, Any] = {}

    def transfer(self, layer: keras.Layer, twin: keras.Layer) -> None:
        """Makes a new layer, and all layers in it, hold what the old ones hold.

        Args:
            layer: The layer.
            twin: One that was made from the same arguments, and called.

        Raises:
            TypeError: if the layer holds what can't be copied.
        """
        layers, twins = keras_private.layers_within(layer), keras_private.layers_within(twin)
        if len(layers) != len(twins):
            raise _refusal(layer, f"{len(layers) - 1} layers, and {len(twins) - 1} when made anew")
        variables = layer.variables
        if len(variables) != len(twin.variables):
            counts = f"{len(variables)} variables, and {len(twin.variables)} when made anew"
            raise _refusal(layer, counts)
        for variable in variables:  # assigned last, when nothing else can change them
            self._is_new(variable)
        for own, new in zip(layers, twins, strict=True):
            if own is new or not (isinstance(new, type(own)) or isinstance(own, type(new))):
                raise _refusal(layer, f"the layer `{own.name}`, which it does not make itself")
            if self._is_new(own) and not isinstance(own, keras.layers.InputLayer):
                self._take_along(own, new)
        for own, new in _paired(variables, twin.variables):
            _assign(layer, own, new)

    def _is_new(self, value: Any) -> bool:
        known = id(value) in self._seen
        self._seen[id(value)] = value  # kept alive, so that no other gets its id
        return not known

    def _take_along(self, layer: keras.Layer, twin: keras.Layer) -> None:
        if twin.trainable != layer.trainable:
            twin.trainable = layer.trainable
        ours = keras_private.attributes_of_layers()
        for name, own in list(vars(layer).items()):
            if name not in ours and not name.startswith("_self_"):  # TensorFlow's bookkeeping
                self._agree(layer, twin, name, own)
        _load_as_saved(layer, twin)

    def _agree(self, layer: keras.Layer, holder: Any, name: str, own: Any) -> None:
        new = vars(holder).get(name, _MISSING)
        agreed = self._agreed(layer, name, own, new)
        if agreed is not new:
            try:
                setattr(holder, name, agreed)
            except AttributeError as error:  # of a frozen object
                raise _refusal(layer, f"other data in `{name}` than it is made with") from error

    def _agreed(self, layer: keras.Layer, name: str, own: Any, new: Any) -> Any:
        """Returns what the copy is to hold where the layer holds `own` and the copy `new`."""
        if isinstance(own, (keras.KerasTensor, type, types.ModuleType)):
            return own
        if own is new:
            _check_unshared(layer, name, own)
            return own.copy() if isinstance(own, np.ndarray) else own  # it could be written to
        if isinstance(own, keras.Layer):
            if not isinstance(new, keras.Layer):
                raise _refusal(layer, f"the layer `{own.name}` in `{name}`")
            if id(own) not in self._seen:
                self.transfer(own, new)
            return new
        if isinstance(own, keras.Variable):
            if not isinstance(new, keras.Variable):
                raise _refusal(layer, f"a variable in `{name}`")
            if self._is_new(own):
                _assign(layer, own, new)
            return new
        if keras.ops.is_tensor(own) or isinstance(own, np.ndarray):
            return _agreed_array(own, new)
        if isinstance(own, (list, tuple, dict)):
            return self._agreed_items(layer, name, own, new)
        if isinstance(own, (set, frozenset)):
            alike = isinstance(new, (set, frozenset)) and set(own) == set(new)
            return new if alike else copied_data(layer, name, own)
        if isinstance(own, (types.FunctionType, types.MethodType)):
            return self._agreed_function(layer, name, own, new)
        if type(own) is not type(new):
            return copied_data(layer, name, own)
        return self._agreed_object(layer, name, own, new)

    def _agreed_items(self, layer: keras.Layer, name: str, own: Any, new: Any) -> Any:
        """Compares containers item by item."""
        keyed = isinstance(own, dict)
        if type(own) is not type(new) or (own.keys() != new.keys() if keyed else False):
            return copied_data(layer, name, own)
        if len(own) != len(new):
            return copied_data(layer, name, own)
        keys = list(own) if keyed else range(len(own))
        agreed = [self._agreed(layer, name, own[key], new[key]) for key in keys]
        if all(value is new[key] for key, value in zip(keys, agreed, strict=True)):
            return new
        if keyed:
            return dict(zip(keys, agreed, strict=True))
        return type(own)(*agreed) if hasattr(own, "_fields") else _plain_kind(own)(agreed)

    def _agreed_function(self, layer: keras.Layer, name: str, own: Any, new: Any) -> Any:
        """A function that was made in the layer's own code has been made anew, on the copy."""
        own_function, new_function = (getattr(f, "__func__", f) for f in (own, new))
        same = getattr(new_function, "__code__", None) is own_function.__code__
        if not same:
            return copied_data(layer, name, own)
        if isinstance(own, types.FunctionType) and self._is_new(own):
            cells = zip(own.__closure__ or (), new.__closure__ or (), strict=True)
            for ours, theirs in cells:
                value = ours.cell_contents
                agreed = self._agreed(layer, name, value, theirs.cell_contents)
                if agreed is not theirs.cell_contents and agreed is not value:
                    raise _refusal(layer, f"a function in `{name}` with data of its own")
                theirs.cell_contents = agreed
        return new

    def _agreed_object(self, layer: keras.Layer, name: str, own: Any, new: Any) -> Any:
        """Compares what is no container and no array, and of the same type."""
        if isinstance(own, (keras.Metric, keras.random.SeedGenerator)):
            pairs = _variables_of(own), _variables_of(new)
            if len(pairs[0]) != len(pairs[1]):
                raise _refusal(layer, f"variables in `{name}` that it was not made with")
            for ours, theirs in zip(*pairs, strict=True):
                _assign(layer, ours, theirs)
            return new
        if _is_of(own, "keras"):
            return new if _is_configured_alike(own, new) else copied_data(layer, name, own)
        if _is_of(own, *_BACKENDS):
            return _agreed_backend_object(layer, name, own, new)
        if isinstance(own, _LOCKS) or _is_equal(own, new):
            return new
        if not _is_all_in_attributes(own):
            return copied_data(layer, name, own)
        if self._is_new(own):
            for each, value in list(vars(own).items()):
                self._agree(layer, new, each, value)
        return new


def _load_as_saved(layer: keras.Layer, twin: keras.Layer) -> None:
    """Loads into a layer what another would save."""
    if type(layer).load_own_variables is not keras.Layer.load_own_variables:
        store: dict[str, Any] = {}
        layer.save_own_variables(store)
        twin.load_own_variables({name: _as_array(value) for name, value in store.items()})
    if hasattr(layer, "save_assets"):
        with tempfile.TemporaryDirectory() as folder:
            layer.save_assets(folder)
            twin.load_assets(folder)


def _as_array(value: Any) -> np.ndarray:
    return value if isinstance(value, np.ndarray) else keras.ops.convert_to_numpy(value)


def _paired(own: Sequence, new: Sequence) -> Iterator[tuple]:
    """Pairs variables by path, where paths tell: a layer that was quantized made them in another
    order."""
    new_of = {variable.path: variable for variable in new}
    if {variable.path for variable in own} == new_of.keys() and len(new_of) == len(own):
        return ((variable, new_of[variable.path]) for variable in own)
    return zip(own, new, strict=True)


def _assign(layer: keras.Layer, own: keras.Variable, new: keras.Variable) -> None:
    if tuple(own.shape) != tuple(new.shape):
        shapes = f"`{own.path}` of shape {tuple(own.shape)}, and {tuple(new.shape)} when made anew"
        raise _refusal(layer, shapes)
    new.assign(keras.ops.convert_to_numpy(own))
    if new.trainable != own.trainable:
        new.trainable = own.trainable


def _agreed_array(own: Any, new: Any) -> Any:
    ours = keras.ops.convert_to_numpy(own)
    if type(own) is type(new) and tuple(own.shape) == tuple(new.shape):
        theirs = keras.ops.convert_to_numpy(new)
        if ours.dtype == theirs.dtype and np.array_equal(ours, theirs):
            return new
        if ours.dtype != theirs.dtype and np.allclose(
            ours.astype("float64"), theirs.astype("float64"), rtol=1e-2
        ):
            return new  # the copy computes in another precision
    return own.copy() if isinstance(own, np.ndarray) else own


def _agreed_backend_object(layer: keras.Layer, name: str, own: Any, new: Any) -> Any:
    """TensorFlow's own variables and tables hold state that Keras knows nothing of."""
    kind = type(own)  # some answer to every name
    if hasattr(kind, "assign") and hasattr(kind, "numpy"):
        new.assign(own.numpy())
    elif hasattr(kind, "export") and not hasattr(layer, "save_assets"):
        ours, theirs = ([t.numpy().tolist() for t in table.export()] for table in (own, new))
        if dict(zip(*ours, strict=True)) != dict(zip(*theirs, strict=True)):
            raise _refusal(layer, f"a table in `{name}` that it was not made with")
    return new


def _variables_of(value: Any) -> Sequence[keras.Variable]:
    return [value.state] if isinstance(value, keras.random.SeedGenerator) else value.variables


def _is_of(value: Any, *packages: str) -> bool:
    return type(value).__module__.split(".")[0] in packages


def _is_configured_alike(own: Any, new: Any) -> bool:
    """Compares objects of Keras: without a config, the same arguments make the same object."""
    if isinstance(own, keras.DTypePolicy) or not hasattr(type(own), "get_config"):
        return True
    return _is_equal(own.get_config(), new.get_config())


def _is_equal(own: Any, new: Any) -> bool:
    try:
        return bool(own == new)
    except Exception:  # of the object's own code
        return False


def copied_data(layer: keras.Layer, name: str, own: Any) -> Any:
    """Copies what a layer holds, where it holds no layer and no variable.

    Args:
        layer: The layer.
        name: The attribute that holds it.
        own: What is held. Functions are not copied.

    Raises:
        TypeError: if a layer or a variable is in it, or it can't be copied.
    """
    _check_unshared(layer, name, own)
    if isinstance(own, (types.FunctionType, types.MethodType, types.BuiltinFunctionType)):
        return own
    try:
        return copy.deepcopy(_untracked(own))
    except Exception as error:  # of the object's own code
        raise _refusal(layer, f"a {type(own).__name__} in `{name}`") from error


def _check_unshared(layer: keras.Layer, name: str, own: Any) -> None:
    if any(isinstance(part, (keras.Layer, keras.Variable)) for part in _parts(own, set())):
        raise _refusal(layer, f"layers or variables in `{name}` that it does not make itself")


def _is_all_in_attributes(value: Any) -> bool:
    """Tells whether an object of a Python class holds nothing but its attributes."""
    kinds = [kind for kind in type(value).__mro__ if kind is not object]
    in_python = all(kind.__flags__ & _HEAP_TYPE for kind in kinds)
    slots = any(getattr(kind, "__slots__", ()) for kind in kinds)
    return in_python and not slots and hasattr(value, "__dict__")


def _untracked(value: Any) -> Any:
    """Returns containers without Keras's tracking, which knows the layer that they belong to."""
    if _is_of(value, "keras") and isinstance(value, (list, set)):
        return type(value).__base__(map(_untracked, value))
    if _is_of(value, "keras") and isinstance(value, dict):
        return {name: _untracked(item) for name, item in value.items()}
    return value


def _parts(value: Any, seen: set[int]) -> Iterator[Any]:
    """Yields an object and everything in it."""
    if id(value) in seen or isinstance(value, (type, types.ModuleType)):
        return
    seen.add(id(value))
    yield value
    if isinstance(value, (keras.Layer, keras.Variable, str, bytes, np.ndarray)):
        return
    parts: list = []
    if isinstance(value, Mapping):
        parts = list(value.values())
    elif isinstance(value, (list, tuple, set, frozenset)):
        parts = list(value)
    elif isinstance(value, types.MethodType):
        parts = [value.__self__]
    elif isinstance(value, functools.partial):
        parts = [value.func, value.args, value.keywords]
    elif isinstance(value, types.FunctionType):
        parts = _outside_of(value)
    elif not _is_of(value, "keras", *_BACKENDS):
        parts = list(getattr(value, "__dict__", {}).values())
    for part in parts:
        yield from _parts(part, seen)


def _outside_of(function: types.FunctionType) -> list:
    """Returns what a function reads from around it."""
    if (function.__module__ or "").split(".")[0] in ("keras", *_BACKENDS):
        return []
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    read = {i.argval for i in dis.get_instructions(function) if i.opname == "LOAD_GLOBAL"}
    around = function.__globals__
    return [
        *cells,
        *(function.__defaults__ or ()),
        *(around[name] for name in read & around.keys()),
    ]


def _plain_kind(own: Any) -> type:
    return tuple if isinstance(own, tuple) else list


def _refusal(layer: keras.Layer, what: str) -> TypeError:
    return TypeError(
        f"Layer `{layer.name}` ({type(layer).__name__}) can't be copied: it holds {what}. Make it "
        "in the layer's `__init__` or `build`, from the arguments that `get_config` returns; or "
        "leave it out of the model that is converted."
    )
