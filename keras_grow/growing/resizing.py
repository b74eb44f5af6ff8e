"""Applies widenings to a live model: everything is computed first, then swapped in.

If anything fails on the way, the model and its optimizer are put back as they were.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import keras
import numpy as np

from keras_grow.backend import make_unusable, strategy_scope
from keras_grow.channels.graph import ChannelGraph, LayerSize
from keras_grow.core import keras_private
from keras_grow.core.index_maps import group_positions, growth_of, length_at
from keras_grow.core.widening import Widening, by_group, widen_array
from keras_grow.growing.sharing import follow, models_sharing
from keras_grow.growing.slots import WidenedVariable, widen_slots


@contextmanager
def widened(
    model: keras.Model, graph: ChannelGraph, widenings: Sequence[Widening]
) -> Iterator[ExitStack]:
    """Widens channel groups of a model, with all that depends on their width, or changes nothing.

    Variables, optimizer and layers stay the same objects. Whatever is raised in the body, an
    interrupt included, undoes it all.

    Args:
        model: The model.
        graph: Its channel groups, as `find_groups(model)` returns them.
        widenings: At most one widening per group.

    Yields:
        The stack of what is called to undo it: the body adds how to undo what it does itself.

    Raises:
        ValueError: if a widening does not fit its group, or a layer can't be called at its new
            width, or another model could not that holds some of the layers. Nothing is changed
            then.
    """
    chosen = by_group(widenings)
    variables = _widen_variables(graph, chosen)
    others = models_sharing(model, [item.variable for item in variables])
    with ExitStack() as undo:
        undo.callback(follow, model, others)
        before = _swap_in(undo, [model, *others], graph, chosen, variables)
        keras_private.check_calls(model, _operations_around(graph, set(chosen)))
        follow(model, others)
        yield undo
        undo.pop_all()
    for held in before:
        make_unusable(held.value)


def widen_model(model: keras.Model, graph: ChannelGraph, widenings: Sequence[Widening]) -> None:
    """Widens a copy of a model, for a method to try: see `widened`.

    It isn't tried whether the layers can be called, and nobody else holds them.
    """
    chosen = by_group(widenings)
    variables = _widen_variables(graph, chosen)
    with ExitStack() as undo:
        _swap_in(undo, [model], graph, chosen, variables)
        undo.pop_all()


def _operations_around(graph: ChannelGraph, groups: Collection[str]) -> list:
    """Returns the operations that produce, carry or sum over channels of some groups."""
    names = {name for group in groups for name in graph.groups[group].layers}
    readers = [item.layer for group in groups for item, _ in graph.touching(group, "input")]
    return [graph.operations[name] for name in names] + readers


def _check(graph: ChannelGraph, chosen: dict[str, Widening]) -> None:
    """Refuses widenings of unknown or frozen groups, and sources that don't exist."""
    for name, widening in chosen.items():
        if name not in graph.growable:
            reason = f" It can't: {graph.groups[name].frozen}." if name in graph.groups else ""
            raise ValueError(
                f"Group '{name}' can't be widened.{reason} Groups that can grow: "
                f"{list(graph.growable)}"
            )
        width = graph.groups[name].width
        if widening.sources.max() >= width or widening.sources.min() < -1:
            raise ValueError(
                f"`sources` of group '{name}' must lie between -1 and {width - 1}. Received: "
                f"{widening.sources.min()} to {widening.sources.max()}"
            )
        _check_added(graph, widening, widening.incoming, "incoming", "output", "through")
        _check_added(graph, widening, widening.outgoing, "outgoing", "input")


def _check_added(graph, widening: Widening, added: Mapping, side: str, *roles: str) -> None:
    """Refuses what is added to a variable that isn't there, or is of another shape."""
    group = widening.group
    touched = {item.path: (item, axis) for item, axis in graph.touching(group, *roles)}
    for path, values in added.items():
        if path not in touched:
            raise ValueError(
                f"`{side}` of group '{group}' must name variables on that side of it: "
                f"{list(touched)}. Received: '{path}'"
            )
        item, axis = touched[path]
        shape = list(item.variable.shape)
        shape[axis.axis] = len(group_positions(axis.segments, {group: widening}, group))
        if tuple(np.shape(values)) != tuple(shape):
            raise ValueError(
                f"`{side}` of group '{group}' for variable '{path}' must have shape "
                f"{tuple(shape)}. Received: shape={tuple(np.shape(values))}"
            )


def _widen_variables(graph: ChannelGraph, chosen: dict[str, Widening]) -> list[WidenedVariable]:
    """Computes the new value of every model variable that a widened group runs through."""
    _check(graph, chosen)
    result = []
    for item in graph.variables:
        if any(s.group in chosen for axis in item.axes for s in axis.segments):
            before = item.variable.numpy()
            after = widen_array(before, item.axes, chosen, path=item.path)
            if not np.all(np.isfinite(after)) and np.all(np.isfinite(before)):
                raise ValueError(
                    f"The new values of variable '{item.path}' must be finite. Received NaN or "
                    f"infinite values from the widening of {list(chosen)}; the model is unchanged."
                )
            result.append(WidenedVariable(item.variable, item.axes, before, after))
    return result


def _resized(size: LayerSize, chosen: Mapping[str, Widening]) -> float | tuple:
    """Returns the new value of a layer's size attribute (`filters`, `noise_shape`)."""
    present = getattr(size.layer, size.attribute)
    if size.growth is not None:
        return present * growth_of(size.segments, chosen) ** size.growth
    width = length_at(size.segments, {group: w.width for group, w in chosen.items()})
    if size.index is None:
        return width
    shape = [width] if present is None else list(present)  # None: as wide as what comes in
    shape[size.index] = width
    return tuple(shape)


def _optimizers(models: Sequence[keras.Model]) -> list:
    """Returns the optimizers of models, each once; before `compile` there is none."""
    found = {id(o): o for o in (getattr(model, "optimizer", None) for model in models) if o}
    return list(found.values())


def _swap_in(
    undo: ExitStack,
    models: Sequence[keras.Model],
    graph: ChannelGraph,
    chosen: Mapping[str, Widening],
    variables: Sequence[WidenedVariable],
) -> list[keras_private.Held]:
    """Replaces values of variables and of slots, and sizes; returns the values from before.

    How to undo a step is noted before the step is taken: an interrupt can come between any two.

    Args:
        undo: Where it is noted.
        models: The model, then those whose optimizers train its variables too.
        graph: The model's channel groups.
        chosen: Group name -> widening.
        variables: The variables with their new values.
    """
    model, optimizers = models[0], _optimizers(models)
    slots = [slot for o in optimizers for slot in widen_slots(o, variables, chosen)]
    values = [(item.variable, item.after) for item in variables] + slots
    sizes = [size for size in graph.sizes if any(s.group in chosen for s in size.segments)]
    parts = [part for o in optimizers for part in keras_private.optimizers_of(o)]
    undo.callback(keras_private.forget_compiled_functions, model)
    undo.callback(keras_private.refresh_shapes, model)
    for part in parts:
        undo.callback(keras_private.put_back_keys, part, keras_private.keys_of(part))
    before: list[keras_private.Held] = []
    with strategy_scope(model):
        for variable, value in values:
            before.append(keras_private.hold(variable))
            undo.callback(keras_private.put_back, before[-1])
            keras_private.resize(variable, value)
    for size in sizes:
        present = getattr(size.layer, size.attribute)
        undo.callback(keras_private.set_argument, size.layer, size.attribute, present)
        keras_private.set_argument(size.layer, size.attribute, _resized(size, chosen))
    for part in parts:
        keras_private.rekey(part)
    keras_private.refresh_shapes(model)
    keras_private.forget_compiled_functions(model)
    return before
