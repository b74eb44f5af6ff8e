"""All that a training run needs to go on in another process, taken from it and put back.

The model and its optimizer (widths, weights, slots, seeds of layers, growth history, penalty
window), the callbacks that keep a state and those of Keras, the batches kept for scoring, and the
random generators of Keras, NumPy and Python.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_grow.backend import strategy_scope
from keras_grow.callbacks.backup import keras_callbacks
from keras_grow.channels.graph import ChannelGraph, find_groups
from keras_grow.core import keras_private
from keras_grow.core.widening import Widening
from keras_grow.growing.deepening import block_of, deepen
from keras_grow.growing.events import GrowthEvent
from keras_grow.growing.resizing import widen
from keras_grow.growing.rewidening import shapes_at
from keras_grow.growing.transaction import Transaction, transaction
from keras_grow.methods.scoring_data import PassingData
from keras_grow.model import GrowableModel

Content = dict[str, Any]
Arrays = dict[str, list[np.ndarray]]


def capture(
    model: GrowableModel, callbacks: Sequence, of_keras: Sequence
) -> tuple[Content, Arrays]:
    """Returns the state of a run: what JSON can hold, and arrays by name.

    Args:
        model: The model.
        callbacks: The callbacks that have `get_state` and `set_state`.
        of_keras: Keras's own callbacks that remember anything.
    """
    memories, best_weights = keras_callbacks.capture(of_keras)
    kept, structure = _kept_batches(model)
    seed = keras_private.global_seed_state()
    content = {
        "layers": _kinds(model.layers),
        "optimizers": _kinds(keras_private.optimizers_of(model.optimizer)),
        "widths": model.widths,
        "growth": model.get_growth_state(),
        "callbacks": [[type(c).__name__, c.get_state()] for c in callbacks],
        "callbacks of keras": memories,
        "kept": structure,
    }
    arrays = {
        "model": _values(model.variables),
        "optimizer": _values(_optimizer_variables(model)),
        "metrics": _values(model.metrics_variables),
        "global seed": _values([] if seed is None else [seed]),
        "callbacks of keras": best_weights,
        "kept": kept,
    }
    return content, arrays


def restore(
    model: GrowableModel,
    callbacks: Sequence,
    of_keras: Sequence,
    content: Content,
    arrays: Arrays,
) -> None:
    """Puts a run's state back: the model gets the widths, weights and slots that it had.

    The metrics and the kept batches are for `restore_metrics` and `restore_kept`: when their time
    comes is the caller's to know.

    Raises:
        ValueError: if the state is that of another network, optimizer or list of callbacks. The
            model is unchanged then.
    """
    if not model.optimizer.built:
        with strategy_scope(model):
            model.optimizer.build(model.trainable_variables)
    history = [GrowthEvent.from_dict(event) for event in content["growth"]["history"]]
    wanted = list(content["widths"].values())
    with transaction() as steps:
        followed = _put_blocks_in(model, history, steps)
        graph = find_groups(model)
        _check(model, graph, wanted, content, arrays)
        # Files of version 0.1 don't have it.
        keras_callbacks.check(of_keras, content.get("callbacks of keras", []))
        _restore_callbacks(callbacks, content["callbacks"])
        restore_callbacks_of_keras(of_keras, content, arrays)
        widen(steps, model, graph, _to_widths(graph, wanted))
        assign_all(model.variables, arrays["model"])
        assign_all(_optimizer_variables(model), arrays["optimizer"])
        # Keras numbers the names that it makes up.
        names = followed | dict(zip(content["widths"], graph.growable, strict=True))
        renamed = [event.with_names(names).to_dict() for event in history]
        model.set_growth_state({**content["growth"], "history": renamed})
    if arrays["global seed"]:
        assign_all([keras_private.global_seed_state(make=True)], arrays["global seed"])


def _put_blocks_in(
    model: GrowableModel, history: Sequence[GrowthEvent], steps: Transaction
) -> dict[str, str]:
    """Puts the blocks of a run into its model, each at the widths of then.

    Returns:
        The name that a layer had which a block follows, or ends with -> its present name.
    """
    names: dict[str, str] = {}
    for event in (event for event in history if event.block is not None):
        operations = model.operations
        _check_same("layers", event.block["position"] < len(operations), True)
        names[event.block["after"]] = operations[event.block["position"]].name
        graph = find_groups(model)
        wanted = list(event.widths_before.values())
        _check_same("groups that can grow", len(wanted), len(graph.growable))
        widen(steps, model, graph, _to_widths(graph, wanted))
        with strategy_scope(model):
            block = block_of(event.block)
        put_in = deepen(steps, model, names[event.block["after"]], block)
        names[event.block["output"]] = put_in["output"]
    return names


def restore_callbacks_of_keras(of_keras: Sequence, content: Content, arrays: Arrays) -> None:
    """Has Keras's own callbacks go on from what they remembered."""
    name = "callbacks of keras"
    keras_callbacks.restore(of_keras, content.get(name, []), arrays.get(name, []))


def restore_metrics(model: GrowableModel, arrays: Arrays, batch: Any) -> None:
    """Puts the metrics of an epoch back, in its middle; `batch` is any batch of the data."""
    keras_private.build_metrics(model, batch)
    assign_all(model.metrics_variables, arrays["metrics"])


def restore_kept(model: GrowableModel, content: Content, arrays: Arrays) -> None:
    """Puts the batches back that were kept for scoring, where this `fit` keeps any."""
    data = model.fit_context.data
    if content["kept"] is None or not isinstance(data, PassingData):
        return
    batches = keras.saving.deserialize_keras_object(content["kept"])
    data.keep(keras.tree.map_structure(lambda i: None if i is None else arrays["kept"][i], batches))


def random_state() -> dict[str, Any]:
    """Returns the state of Python's and NumPy's global random generators, as JSON can hold it."""
    return {
        "python": random.getstate(),
        "numpy": keras.tree.map_structure(_as_lists, np.random.get_state(legacy=False)),
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Goes on from what `random_state` returned."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    np.random.set_state(state["numpy"])


def assign_all(variables: Sequence[keras.Variable], values: Sequence[np.ndarray]) -> None:
    """Assigns a value to each variable."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _kept_batches(model: GrowableModel) -> tuple[list[np.ndarray], Any]:
    """Returns the arrays of the kept batches, and their structure, with numbers in their place."""
    data = model.fit_context.data
    if not isinstance(data, PassingData):
        return [], None
    kept = data.kept
    leaves = keras.tree.flatten(kept)
    numbers = [None if leaf is None else number for number, leaf in enumerate(leaves)]
    structure = keras.tree.pack_sequence_as(kept, numbers)
    arrays = [np.zeros(0) if leaf is None else np.asarray(leaf) for leaf in leaves]
    return arrays, keras.saving.serialize_keras_object(structure)


def _to_widths(graph: ChannelGraph, widths: Sequence[int]) -> list[Widening]:
    """Returns widenings (or narrowings) to the given widths, for values to be assigned to."""
    return [
        Widening(name, np.minimum(np.arange(width), group.width - 1))
        for (name, group), width in zip(graph.growable.items(), widths, strict=True)
        if width != group.width
    ]


def _check(
    model: GrowableModel,
    graph: ChannelGraph,
    widths: Sequence[int],
    content: Content,
    arrays: Arrays,
) -> None:
    """Compares the network and the optimizer with those of a state."""
    optimizers = list(keras_private.optimizers_of(model.optimizer))
    _check_same("layers", content["layers"], _kinds(model.layers))
    _check_same("groups that can grow", len(widths), len(graph.growable))
    shapes = shapes_at(graph, model.variables, dict(zip(graph.growable, widths, strict=True)))
    expected = [(shape, v.dtype) for shape, v in zip(shapes, model.variables, strict=True)]
    _check_same("weights", [(a.shape, str(a.dtype)) for a in arrays["model"]], expected)
    _check_same("optimizers", content["optimizers"], _kinds(optimizers))
    # Slots are as long as the weights that they belong to.
    slots = [(v.dtype, len(v.shape)) for v in _optimizer_variables(model)]
    _check_same("slots", [(str(a.dtype), a.ndim) for a in arrays["optimizer"]], slots)


def _check_same(what: str, saved: Any, present: Any) -> None:
    """Names the first difference between a state and the present run."""
    if saved == present:
        return
    if isinstance(saved, list):
        pairs = [(a, b) for a, b in zip(saved, present, strict=False) if a != b]
        unequal = len(saved) != len(present)
        saved, present = (len(saved), len(present)) if unequal else pairs[0]
    raise ValueError(f"its {what} differ: {saved} in the backup, {present} in this run")


def _restore_callbacks(callbacks: Sequence, states: Sequence) -> None:
    kinds = [kind for kind, _ in states]
    _check_same("callbacks that keep a state", kinds, _kinds(callbacks))
    for callback, (_, state) in zip(callbacks, states, strict=True):
        callback.set_state(state)


def _optimizer_variables(model: GrowableModel) -> list[keras.Variable]:
    parts = keras_private.optimizers_of(model.optimizer)
    return [variable for part in parts for variable in keras_private.own_variables(part)]


def _values(variables: Sequence[keras.Variable]) -> list[np.ndarray]:
    return [variable.numpy() for variable in variables]


def _kinds(things: Any) -> list[str]:
    return [type(thing).__name__ for thing in things]


def _as_lists(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value
