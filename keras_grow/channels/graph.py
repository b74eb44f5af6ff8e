"""Channel groups: which channels of a Functional model belong together.

One walk over the calls of the model, inputs first. Every symbolic tensor gets a map of the
channels along its channel axis; the table of layers (`layer_table.py`) says what a layer does to
it. What the table doesn't know freezes the groups that it touches, with a reason to read.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import keras

from keras_grow.channels.layer_table import acts_as
from keras_grow.channels.recurrent import forget_bias
from keras_grow.channels.visit import visit
from keras_grow.channels.walk import Walk, attribute_at
from keras_grow.core import keras_private
from keras_grow.core.index_maps import MEAN, AxisChannels, Segment


@dataclass(frozen=True)
class VariableChannels:
    """A variable of a layer, and the channels along its axes.

    Attributes:
        layer: The layer.
        layer_name: Its name in the model: "encoder/conv1" within a model within the model.
        name: Path of attributes at which the layer holds the variable: "kernel", "cell.kernel".
        path: Path of the variable in the model: Keras's own, if no other has the same.
        variable: The variable.
        axes: The channels along its axes.
        is_kernel: Whether it is a kernel: what inputs are multiplied with.
    """

    layer: keras.layers.Layer
    layer_name: str
    name: str
    path: str
    variable: keras.Variable
    axes: tuple[AxisChannels, ...]
    is_kernel: bool = False

    @property
    def initializer(self) -> Any:
        """What the layer draws the variable from, or `None`."""
        path, _, name = self.name.rpartition(".")
        holder = attribute_at(self.layer, path) if path else self.layer
        found = keras_private.initializer_of(holder, name)
        if found is None and self.variable.trainable:  # of a class that keeps none
            return keras.initializers.Constant(float(keras.ops.mean(self.variable)))
        forgets = name == "bias" and getattr(holder, "unit_forget_bias", False)
        return forget_bias(found) if forgets else found


@dataclass(frozen=True)
class LayerSize:
    """An attribute of a layer that holds how many channels it puts out, and which they are.

    Attributes:
        layer: The layer, or the operation.
        attribute: Name of the attribute.
        index: Where the number lies in it, counted from the end, if it is a shape.
        segments: The channels.
        growth: The power of the growth of their number by which the attribute is multiplied, where
            it isn't the number itself: -0.5 for an inverse square root.
    """

    layer: keras.layers.Layer
    attribute: str
    index: int | None
    segments: tuple[Segment, ...]
    growth: float | None = None


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that are added and removed together.

    Attributes:
        name: Name of the first layer that produces them, and of the part of it, if it has several.
        width: Number of channels.
        layers: Names of the layers that produce and carry them, in order.
        producers: Those of them that produce them.
        frozen: Why the group can't grow, or `None`.
        whole: Whether a channel is a part of a layer with dimensions of its own, as a head is: how
            many there are needs not be a round number.
        silent: Whether fresh channels must be silent at first, because a normalisation takes
            statistics over all of them.
    """

    name: str
    width: int
    layers: tuple[str, ...]
    producers: tuple[str, ...]
    frozen: str | None
    whole: bool = False
    silent: bool = False


@dataclass(frozen=True)
class ChannelGraph:
    """The channel groups of a model, and the variables that each of them runs through.

    Attributes:
        model: The model.
        groups: The groups by name, frozen ones included.
        variables: The variables that channels run through.
        sizes: The layers' own records of how many channels they put out.
        reasons: Layer name -> why nothing passes it, for layers in no group.
        operations: Name -> layer or operation, of all that the model calls.
        fixed_parameters: Number of trainable parameters in variables without channels.
        calls: The calls of the model, inputs first.
        tensors: `id` of each symbolic tensor that channels run through -> where they lie in it.
    """

    model: keras.Model
    groups: dict[str, ChannelGroup]
    variables: tuple[VariableChannels, ...]
    sizes: tuple[LayerSize, ...]
    reasons: dict[str, str]
    operations: dict[str, Any]
    fixed_parameters: int
    calls: tuple[keras_private.Call, ...]
    tensors: dict[int, AxisChannels]

    @property
    def growable(self) -> dict[str, ChannelGroup]:
        """The groups that can grow, by name."""
        return {name: group for name, group in self.groups.items() if group.frozen is None}

    def touching(self, group: str, *roles: str) -> list[tuple[VariableChannels, AxisChannels]]:
        """Returns the variables that a group runs through, with the axis, in the given roles."""
        return [
            (item, axis)
            for item in self.variables
            for axis in item.axes
            if axis.role in roles and any(s.group == group for s in axis.segments)
        ]

    def kernels(self, group: str, *roles: str) -> list[tuple[VariableChannels, AxisChannels]]:
        """Returns the kernels among what `touching` returns."""
        return [(item, axis) for item, axis in self.touching(group, *roles) if item.is_kernel]

    def normalisations(
        self, group: str
    ) -> dict[str, dict[str, tuple[VariableChannels, AxisChannels]]]:
        """Returns the batch normalisations that carry a group.

        Returns:
            Name of the layer -> name of its variable -> the variable, with the axis.
        """
        found: dict[str, dict[str, tuple[VariableChannels, AxisChannels]]] = {}
        for item, axis in self.touching(group, "through"):
            if acts_as(item.layer) == "normalisation":
                found.setdefault(item.layer_name, {})[item.name] = (item, axis)
        return found


def find_groups(model: keras.Model) -> ChannelGraph:
    """Finds the channel groups of a Functional model.

    Args:
        model: A Functional model (or a Sequential one with known input shape, through
            `GrowableModel.from_keras`). What its `allow_inexact` says counts.

    Returns:
        The groups, growable or frozen, and the variables that they run through.
    """
    walk, calls = Walk(visit), keras_private.calls_of(model)
    walk.calls(calls)
    for tensor in model.outputs:
        walk.freeze([walk.maps.get(id(tensor))], "it is an output of the model")
    return _finish(model, walk, calls)


def count_weights(variables: Iterable[keras.Variable]) -> int:
    """Counts the weights in variables.

    Example:

    >>> import keras
    >>> from keras_grow.channels.graph import count_weights
    >>> count_weights([keras.Variable([1.0, 2.0]), keras.Variable([[3.0]])])
    3
    """
    return sum(math.prod(v.shape) for v in variables)


def _finish(model: keras.Model, walk: Walk, calls: list) -> ChannelGraph:
    """Turns the state of a finished walk into values."""
    variables = _variables(model, walk)
    resizable = {id(item.variable) for item in variables}
    sizes = tuple(
        LayerSize(layer, attribute, index, walk.named(channels.segments), *growth)
        for layer, attribute, index, channels, *growth in walk.sizes
    )
    tensors = {
        key: AxisChannels(along.axis, walk.named(along.segments), "output")
        for key, along in walk.maps.items()
        if along is not None
    }
    return ChannelGraph(
        model,
        _groups(model, walk),
        variables,
        sizes,
        walk.reasons,
        walk.operations,
        count_weights(v for v in model.trainable_variables if id(v) not in resizable),
        tuple(calls),
        tensors,
    )


def _groups(model: keras.Model, walk: Walk) -> dict[str, ChannelGroup]:
    """Returns the groups of a finished walk by name, in the order of the model."""
    inexact = getattr(model, "allow_inexact", False)
    roots = {walk.root(number) for number in range(len(walk.spaces))}.difference(walk.parts)
    spaces = sorted((walk.spaces[number] for number in roots), key=lambda space: space.order)
    heard = {id(space) for space in _heard(walk)}
    groups = {}
    for space in spaces:
        name = space.name
        groups[name] = ChannelGroup(
            name,
            space.width,
            tuple(space.layers),
            tuple(space.producers),
            space.reason or _why_numb(space, heard) or (None if inexact else _why_inexact(space)),
            space.whole,
            space.fresh is not None,
        )
    return groups


def _variables(model: keras.Model, walk: Walk) -> tuple[VariableChannels, ...]:
    """Returns the variables that channels run through."""
    variables = []
    paths = Counter(v.path for v in {id(v): v for v in model.weights}.values())
    for layer, name, axes, is_kernel in walk.variables:
        channels = tuple(
            _along(walk, axis, along, *rest) for axis, along, *rest in axes if along is not None
        )
        if channels:
            variable = attribute_at(layer, name)
            layer_name = walk.name_of(layer)
            path = variable.path if paths[variable.path] == 1 else f"{layer_name}/{name}"
            variables.append(
                VariableChannels(layer, layer_name, name, path, variable, channels, is_kernel)
            )
    return tuple(variables)


def _heard(walk: Walk) -> Iterator[Any]:
    """Yields the spaces that can learn by the weights out of them, if they are zero at first."""
    for _, _, axes, _ in walk.variables:
        for _, channels, role, *_ in axes:
            if role == "input" and channels is not None and not channels.flat:
                spaces = walk.spaces_of(channels)
                if _are_silent(spaces, channels):
                    yield from spaces


def _why_numb(space: Any, heard: Collection[int]) -> str | None:
    """Says why fresh channels would never learn, if they wouldn't."""
    if space.fresh != "zero" or id(space) in heard:
        return None
    return (
        "a normalisation wants fresh channels to be zero, and so they would stay: whatever reads "
        "them lets no gradient through to what is zero, or reads other channels with them"
    )


def _why_inexact(space: Any) -> str | None:
    """Says why a normalisation over a group's channels would see fresh ones, if it would."""
    if space.fresh not in space.unsteady:
        return None
    return (
        "a normalisation would see fresh channels, and treat the others differently "
        f"({space.unsteady[space.fresh]}); `model.allow_inexact = True` lets it grow nonetheless"
    )


def _are_silent(spaces: Collection, channels: Any) -> bool:
    """Tells whether fresh channels of all spaces along an axis are zero there."""
    return bool(spaces) and all(
        space.fresh == "zero" or (space.fresh and channels.normalised) for space in spaces
    )


def _along(
    walk: Walk, axis: int, channels: Any, role: str, fresh: float = 0.0, growth: float = 0.0
) -> AxisChannels:
    """Returns the channels along one axis of a variable."""
    spaces = walk.spaces_of(channels)
    silent = _are_silent(spaces, channels)
    if role == "output" and any(space.fresh == "mean" for space in spaces):
        fresh = MEAN
    return AxisChannels(axis, walk.named(channels.segments), role, fresh, growth, silent)
