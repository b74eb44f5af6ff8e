"""The growth methods: which neurons to add, and with which weights."""

from __future__ import annotations

from keras_grow.methods.base import GrowthMethod
from keras_grow.methods.firefly.method import Firefly
from keras_grow.methods.gradmax.method import GradMax
from keras_grow.methods.net2wider import Net2Wider
from keras_grow.methods.random_growth import Random
from keras_grow.methods.splitting.method import Splitting

_METHODS = {method.name: method for method in (Random, Net2Wider, Splitting, Firefly, GradMax)}
NAMES = tuple(_METHODS)

__all__ = ["NAMES", "Firefly", "GradMax", "GrowthMethod", "Net2Wider", "Random", "Splitting", "get"]


def get(method: str | GrowthMethod) -> GrowthMethod:
    """Returns a growth method by name, or the given one.

    Args:
        method: A name ("random", "net2wider", "splitting", "firefly", "gradmax"), or a
            `GrowthMethod`.

    Raises:
        ValueError: if no method has that name.
        TypeError: if it is neither, or a method without a name.

    Example:

    >>> import keras_grow
    >>> keras_grow.methods.get("random").name
    'random'
    """
    if isinstance(method, GrowthMethod):
        if not isinstance(getattr(method, "name", None), str):
            raise TypeError(
                "A growth method must have a `name`, a string, as an attribute of its class. "
                f"Received: a {type(method).__name__}"
            )
        return method
    if not isinstance(method, str):
        raise TypeError(
            f"`method` must be the name of a growth method or a `GrowthMethod` instance. "
            f"Received: method={method!r}"
        )
    if method not in _METHODS:
        raise ValueError(
            f"Unknown growth method. Known methods: {list(NAMES)}. Received: method={method!r}"
        )
    return _METHODS[method]()
