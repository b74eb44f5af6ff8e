"""Weights and models taken from one width of their history to another.

Every growth keeps which channel each of its channels copies and by what its outgoing weights were
scaled. So weights of an earlier width, such as an average that a callback keeps, can be taken to
the present one; and a model can be taken back: the inverse of a widening takes each first channel
from where it lies now, and undoes its scale.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import keras
import numpy as np

from keras_grow.channels.graph import ChannelGraph, find_groups
from keras_grow.core.index_maps import AxisChannels, length_at
from keras_grow.core.widening import Exponents, Widening, widen_array
from keras_grow.growing.deepening import take_out
from keras_grow.growing.events import GrowthEvent
from keras_grow.growing.resizing import widen
from keras_grow.growing.transaction import Transaction

Shapes = list[tuple[int, ...]]


def shapes_at(
    graph: ChannelGraph, variables: Sequence[keras.Variable], widths: Mapping[str, int]
) -> Shapes:
    """Returns the shapes that variables of a model have at other widths.

    Args:
        graph: The channel groups of the model.
        variables: The variables.
        widths: Group name -> width. Groups that are not named stay as they are.
    """
    shapes = {id(variable): list(variable.shape) for variable in variables}
    for item in graph.variables:
        for axis in item.axes:
            if id(item.variable) in shapes:
                shapes[id(item.variable)][axis.axis] = length_at(axis.segments, widths)
    return [tuple(shapes[id(variable)]) for variable in variables]


def growths_before(
    graph: ChannelGraph, weights: Sequence, events: Sequence[GrowthEvent], growths: int
) -> int | None:
    """Returns after how many growths a model had the widths of some weights.

    Args:
        graph: The channel groups of the model at its present widths.
        weights: Weights, in the order of `model.get_weights()`.
        events: The growths of the model, and those that it has been taken back from.
        growths: How many of them it has now.

    Returns:
        A number of growths, the nearest to the present; `None` where there is none.
    """
    shapes = [tuple(np.shape(value)) for value in weights]
    blocks = [number for number, event in enumerate(events) if event.block is not None]
    for number in sorted(range(len(events) + 1), key=lambda number: abs(number - growths)):
        if any(growths <= block < number for block in blocks):
            continue  # a block that was taken out is gone
        variables = _weights_at(graph.model, events[number:growths])
        if shapes == shapes_at(graph, variables, _widths_at(events, growths, number)):
            return number
    return None


def _weights_at(model: keras.Model, since: Sequence[GrowthEvent]) -> list[keras.Variable]:
    """Returns the weights that a model had before some growths, in the order of then."""
    variables = model.weights
    for event in reversed(since):
        if event.block is not None:
            variables = [variables[place] for place in event.block["weights"]]
    return variables


def _widths_at(events: Sequence[GrowthEvent], growths: int, number: int) -> dict[str, int]:
    """Returns the widths after some number of growths, of groups that are wider or narrower now."""
    widths: dict[str, int] = {}
    for event in events[growths:number]:
        widths |= event.widths_after
    for event in events[number:growths]:
        widths = event.renamed({**event.widths_before, **widths})
    return widths


def widen_weights(
    graph: ChannelGraph, weights: Sequence, events: Sequence[GrowthEvent]
) -> list[np.ndarray]:
    """Takes weights from before some growths to the present widths of a model.

    They are widened as an average of weights is: each channel copies and scales what the growths
    had it copy and scale, and fresh channels, and blocks, get their present weights.

    Args:
        graph: The channel groups of the model.
        weights: Weights of the shapes before the growths, in the order of `model.get_weights()`.
        events: The growths since then.

    Raises:
        ValueError: if a growth does not say what its channels copy.
    """
    unknown = [event for event in events if not event.keeps_widenings]
    if unknown:
        raise ValueError(
            "Weights can't be taken through a growth that a file of an older keras_grow holds: it "
            f"doesn't say which channels were copied. Received: the growth '{unknown[0]}'"
        )
    chosen = combined(events)
    widths = _widths_at(events, len(events), 0)
    axes = {id(item.variable): _axes_at(item.axes, widths) for item in graph.variables}
    widened = {
        id(variable): _widen(np.asarray(value), variable, axes.get(id(variable), ()), chosen)
        for value, variable in zip(weights, _weights_at(graph.model, events), strict=True)
    }
    return [
        widened[id(variable)] if id(variable) in widened else variable.numpy()
        for variable in graph.model.weights
    ]


def _widen(
    value: np.ndarray,
    variable: keras.Variable,
    axes: Sequence[AxisChannels],
    chosen: Mapping[str, Widening],
) -> np.ndarray:
    """Widens one array, with the variable's present value where a channel is fresh."""
    known = widen_array(np.ones(value.shape), axes, chosen, Exponents(0, 0), fresh=0.0) > 0
    present = keras.ops.convert_to_numpy(variable).astype(value.dtype)
    return np.where(known, widen_array(value, axes, chosen, fresh=0.0), present)


def _axes_at(axes: Sequence[AxisChannels], widths: Mapping[str, int]) -> list[AxisChannels]:
    """Returns the channels along axes at other widths."""
    return [
        replace(
            axis,
            segments=tuple(s._replace(width=widths.get(s.group, s.width)) for s in axis.segments),
        )
        for axis in axes
    ]


def combined(events: Iterable[GrowthEvent]) -> dict[str, Widening]:
    """Returns what growths have done one after the other, as one widening per group.

    What a channel copies that was fresh in between counts as fresh. Groups are named as they are
    after the growths.
    """
    result: dict[str, Widening] = {}
    for event in events:
        for widening in event.widenings:
            first = result.get(widening.group)
            result[widening.group] = widening if first is None else _after(first, widening)
        result = {n: replace(w, group=n) for n, w in event.renamed(result).items()}
    return result


def _after(first: Widening, second: Widening) -> Widening:
    """Returns two widenings of a group, one after the other, as one."""
    copies = second.sources >= 0
    scale = np.where(copies, first.outgoing_scale[second.sources], 1) * second.outgoing_scale
    sources = np.where(copies, first.sources[second.sources], -1)
    return Widening(first.group, sources, scale)


def undone(widening: Widening, width: int) -> Widening:
    """Returns the widening that takes a group back to the channels it had.

    Args:
        widening: What the group has been through.
        width: Its width before.

    Example:

    >>> import keras_grow
    >>> from keras_grow.growing.rewidening import undone
    >>> split = keras_grow.Widening("conv1", [0, 1, 1], [1, 0.25, 0.75])
    >>> back = undone(split, width=2)
    >>> back.sources.tolist(), back.outgoing_scale.tolist()
    ([0, 1], [1.0, 4.0])
    """
    places = [np.flatnonzero(widening.sources == channel) for channel in range(width)]
    sources = np.array([place[0] if len(place) else -1 for place in places])
    scale = np.where(sources < 0, 1.0, widening.outgoing_scale[sources])
    return Widening(widening.group, sources, 1 / np.where(scale == 0, 1.0, scale))


def go_to_growths(
    steps: Transaction,
    model: keras.Model,
    graph: ChannelGraph,
    events: Sequence[GrowthEvent],
    growths: int,
    number: int,
) -> None:
    """Takes a model to the widths that it had after some number of growths.

    Its weights are then to be set; the optimizer's slots are those of the channels that it keeps.

    Args:
        steps: The transaction that this is a step of; it undoes what weights are then set, too.
        model: The model.
        graph: Its channel groups.
        events: Its growths, and those that it has been taken back from.
        growths: How many of them it has now.
        number: How many of them it is to have.
    """
    for variable in model.weights:  # last of all, when they have their shapes again
        steps.undo.callback(variable.assign, variable.numpy())
    if number > growths:
        chosen = combined(events[growths:number])
        widen(steps, model, graph, list(chosen.values()))
    for part in reversed(_parts(events[number:growths])):
        if part[0].block is not None:
            take_out(steps, model, part[0].block)
        else:
            widths = _widths_at(part, len(part), 0)
            chosen = {name: undone(w, widths[name]) for name, w in combined(part).items()}
            widen(steps, model, graph, list(chosen.values()))
        graph = find_groups(model)


def _parts(events: Sequence[GrowthEvent]) -> list[list[GrowthEvent]]:
    """Returns growths in parts: widenings in a row, and each block by itself."""
    parts: list[list[GrowthEvent]] = []
    for event in events:
        if parts and event.block is None and parts[-1][0].block is None:
            parts[-1].append(event)
        else:
            parts.append([event])
    return parts
