"""Applies widenings to a live model: everything is computed first, then swapped in."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import keras
import numpy as np

from keras_grow.backend import strategy_scope
from keras_grow.channels.graph import ChannelGraph, LayerSize
from keras_grow.core import keras_private
from keras_grow.core.index_maps import group_positions, growth_of, length_at
from keras_grow.core.widening import Widening, by_group, widen_array
from keras_grow.growing.sharing import follow, models_sharing
from keras_grow.growing.slots import WidenedVariable, widen_slots
from keras_grow.growing.transaction import Transaction


def widen(
    steps: Transaction, model: keras.Model, graph: ChannelGraph, widenings: Sequence[Widening]
) -> None:
    """Widens channel groups of a model, with all that depends on their width.

    Variables, optimizer and layers stay the same objects.

    Args:
        steps: The transaction that this is a step of.
        model: The model.
        graph: Its channel groups, as `find_groups(model)` returns them.
        widenings: At most one widening per group.

    Raises:
        ValueError: if a widening does not fit its group, or a layer can't be called at its new
            width, or another model could not that holds some of the layers.
    """
    chosen = by_group(widenings)
    variables = _widen_variables(graph, chosen)
    others = models_sharing(model, [item.variable for item in variables])
    steps.undo.callback(follow, model, others)
    _swap_in(steps, [model, *others], graph, chosen, variables)
    keras_private.check_calls(model, _operations_around(graph, set(chosen)))
    follow(model, others)


def widen_model(model: keras.Model, graph: ChannelGraph, widenings: Sequence[Widening]) -> None:
    """Widens a copy of a model, for a method to try: see `widen`.

    It isn't tried whether the layers can be called, and nobody else holds them.
    """
    chosen = by_group(widenings)
    variables = _widen_variables(graph, chosen)
    steps = Transaction()
    with steps.undo:
        _swap_in(steps, [model], graph, chosen, variables)
        steps.undo.pop_all()


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
    steps: Transaction,
    models: Sequence[keras.Model],
    graph: ChannelGraph,
    chosen: Mapping[str, Widening],
    variables: Sequence[WidenedVariable],
) -> None:
    """Replaces values of variables and of slots, and sizes.

    Args:
        steps: The transaction.
        models: The model, then those whose optimizers train its variables too.
        graph: The model's channel groups.
        chosen: Group name -> widening.
        variables: The variables with their new values.
    """
    model, optimizers, undo = models[0], _optimizers(models), steps.undo
    slots = [slot for o in optimizers for slot in widen_slots(o, variables, chosen)]
    values = [(item.variable, item.after) for item in variables] + slots
    sizes = [size for size in graph.sizes if any(s.group in chosen for s in size.segments)]
    parts = [part for o in optimizers for part in keras_private.optimizers_of(o)]
    undo.callback(keras_private.forget_compiled_functions, model)
    undo.callback(keras_private.refresh_shapes, model)
    for part in parts:
        undo.callback(keras_private.put_back_keys, part, keras_private.keys_of(part))
    with strategy_scope(model):
        for variable, value in values:
            steps.hold(variable)
            keras_private.resize(variable, value)
    for size in sizes:
        present = getattr(size.layer, size.attribute)
        undo.callback(keras_private.set_argument, size.layer, size.attribute, present)
        keras_private.set_argument(size.layer, size.attribute, _resized(size, chosen))
    for part in parts:
        keras_private.rekey(part)
    keras_private.refresh_shapes(model)
    keras_private.forget_compiled_functions(model)
