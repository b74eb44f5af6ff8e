"""Puts a block into a live model, or takes it out: the same objects live on, or nothing changes.

A block is a small Functional model from a tensor to one of the same shape. Its calls become the
model's: they take the tensor in place of the block's input, and what the tensor went into takes
their output. No layer is called another time, so shared models, `layer.output` and saving know of
nothing but a longer graph.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_grow.backend import strategy_scope
from keras_grow.channels.graph import ChannelGraph, find_groups
from keras_grow.core import keras_private
from keras_grow.growing.blocks import (
    Branch,
    Moments,
    identity_block,
    name_apart,
    residual_block,
    standard_moments,
)
from keras_grow.growing.sharing import follow, models_calling, models_sharing
from keras_grow.growing.slots import rebuild
from keras_grow.growing.transaction import Transaction


def deepen(
    steps: Transaction, model: keras.Model, after: str, block: keras.Model
) -> dict[str, Any]:
    """Puts a block behind a layer of a model.

    Whatever reads the layer's output reads the block's then, in other models too that hold these
    calls. Optimizers get slots for the new variables and keep the others.

    Args:
        steps: The transaction that this is a step of.
        model: The model.
        after: Name of the layer.
        block: The block, which isn't to be used for anything else.

    Returns:
        What a growth event says of the block.

    Raises:
        ValueError: if nothing can follow the layer.
    """
    tensor = check_after(model, after)
    name_apart(block, model)
    graph, weights, position = find_groups(model), model.weights, _position(model, after)
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(block)))
    start, end = block.inputs[0], block.outputs[0]
    own = [(node, start, tensor) for node in keras_private.readers_of(block, start)]
    readers = keras_private.readers_of(model, tensor)
    _rewire(steps, model, readers, [*own, *((node, tensor, end) for node in readers)])
    return {
        "after": after,
        "position": position,
        "output": keras_private.maker_of(end).name,
        "config": config,
        "groups": _same_groups(graph, find_groups(model)),
        "weights": _places(weights, model.weights),
    }


def take_out(steps: Transaction, model: keras.Model, event: Mapping[str, Any]) -> None:
    """Takes a block out of a model again.

    Args:
        steps: The transaction that this is a step of.
        model: The model, as it was after the block was put in.
        event: What `deepen` said of the block.
    """
    before = keras_private.output_of(model, event["after"])
    end = keras_private.output_of(model, event["output"])
    readers = keras_private.readers_of(model, end)
    _rewire(steps, model, readers, [(node, end, before) for node in readers])


def check_after(model: keras.Model, after: str) -> keras.KerasTensor:
    """Returns the output of the layer that a block is to follow.

    Raises:
        TypeError: if the name is no string.
        ValueError: if there is no such layer, or nothing can follow it.
    """
    if not isinstance(after, str):
        raise TypeError(f"`after` must be the name of a layer. Received: after={after!r}")
    tensor = keras_private.output_of(model, after)
    if tensor is None:
        known = [operation.name for operation in model.operations]
        raise ValueError(
            "`after` must name a layer of the model itself (not of a model within it) that is "
            f"called once and puts out one tensor. Layers: {known}. Received: after='{after}'"
        )
    if not keras_private.readers_of(model, tensor):
        raise ValueError(
            f"Nothing in model `{model.name}` reads the output of `{after}`, so no block can "
            f"follow it. Received: after='{after}'"
        )
    return tensor


def make_block(
    model: keras.Model, after: str, branch: Branch | None, moments: Moments
) -> tuple[keras.Model, str]:
    """Makes a block that is the identity at first; the model knows nothing of it.

    Args:
        model: The model.
        after: Name of a layer.
        branch: What makes the branch of a residual block, or `None` for a block like that of the
            layer.
        moments: See `identity_block`.

    Returns:
        The block, and the name of the layer that it is to follow.

    Raises:
        TypeError: if an argument is of the wrong type.
        ValueError: if nothing can follow the layer, or the block would change the function.
    """
    tensor = check_after(model, after)
    with strategy_scope(model):
        if branch is None:
            return identity_block(model, after, moments)
        return residual_block(model, after, tensor, branch), after


def try_block(model: keras.Model, after: str, branch: Branch | None) -> keras.Model:
    """Makes a block to look at, without data. Nothing that is drawn later is another for it.

    Args:
        model: The model.
        after: Name of a layer.
        branch: As for `make_block`.

    Raises:
        TypeError: as `make_block` does.
        ValueError: as `make_block` does.
    """
    state = random.getstate()  # of which Keras draws the seeds of new layers
    try:
        return make_block(model, after, branch, standard_moments)[0]
    finally:
        random.setstate(state)


def block_of(event: Mapping[str, Any]) -> keras.Model:
    """Makes the block of an event anew, with weights of its own."""
    # A copy: Keras takes out of it what it has read.
    return keras.saving.deserialize_keras_object(copy.deepcopy(event["config"]))


def _position(model: keras.Model, name: str) -> int:
    """Returns where an operation is in a model: the same in every process, unlike names."""
    return [operation.name for operation in model.operations].index(name)


def _rewire(steps: Transaction, model: keras.Model, shared: Sequence, moves: Sequence) -> None:
    """Has calls read other tensors, and all models that hold them know of it.

    Args:
        steps: The transaction.
        model: The model.
        shared: The calls that other models may hold.
        moves: Calls, each with the tensor that it reads and the one that it is to read.
    """
    undo, (calling, holding) = steps.undo, models_calling(model, shared)
    for each in holding:
        undo.callback(keras_private.forget_compiled_functions, each)
        undo.callback(keras_private.know_layers, each)
    optimizers = {id(m.optimizer): m for m in holding if getattr(m, "optimizer", None)}
    optimizers = [m for m in optimizers.values() if m.optimizer.built]
    trained = [_trained_by(m.optimizer) for m in optimizers]
    before = [{*map(id, m.variables)} for m in optimizers]
    for each in optimizers:
        for part in keras_private.optimizers_of(each.optimizer):
            undo.callback(keras_private.hold_optimizer(part))
    _renew(steps, model, shared)
    for move in moves:
        keras_private.redirect(undo, *move)
    for each in calling:
        keras_private.remap(undo, each)
    for each, known, had in zip(optimizers, trained, before, strict=True):
        with strategy_scope(each):
            rebuild(each.optimizer, _to_train(each, known, had))
    for each in holding:
        keras_private.know_layers(each)
        keras_private.forget_compiled_functions(each)


def _renew(steps: Transaction, model: keras.Model, calls: Sequence) -> None:
    """Has a weight of each of some calls hold another tensor, equal to the one that it held.

    A function that somebody has traced knows nothing of a block: as after a growth, it fails at its
    next use. Where a call has no weights, those of the calls before it are taken, or behind it.
    """
    operations = [each for call in calls for each in keras_private.nearest_with_weights(call)]
    variables = {id(o.weights[0]): o.weights[0] for o in operations}.values()
    others = models_sharing(model, list(variables))
    steps.undo.callback(follow, model, others)
    models = [m for m in (model, *others) if getattr(m, "optimizer", None) and m.optimizer.built]
    parts = {id(p): p for m in models for p in keras_private.optimizers_of(m.optimizer)}.values()
    for part in parts:
        steps.undo.callback(keras_private.put_back_keys, part, keras_private.keys_of(part))
    with strategy_scope(model):
        for variable in variables:
            steps.hold(variable)
            keras_private.resize(variable, variable.numpy())
    for part in parts:
        keras_private.rekey(part)
    for other in others:
        keras_private.forget_compiled_functions(other)


def _trained_by(optimizer: Any) -> list[keras.Variable]:
    return keras_private.trained_variables(optimizer)


def _to_train(model: keras.Model, trained: Sequence, had: set[int]) -> list[keras.Variable]:
    """Returns what an optimizer trains now, in the order of the model's variables.

    Args:
        model: Its model.
        trained: What it trained before.
        had: `id` of each variable that the model had then.
    """
    known, present = {*map(id, trained)}, {*map(id, model.variables)}
    own = [v for v in model.variables if id(v) in known or (v.trainable and id(v) not in had)]
    return own + [v for v in trained if id(v) not in had | present]


def _places(before: Sequence[keras.Variable], after: Sequence[keras.Variable]) -> list[int]:
    """Returns where each weight from before is now."""
    place = {id(variable): number for number, variable in enumerate(after)}
    return [place[id(variable)] for variable in before]


def _same_groups(before: ChannelGraph, after: ChannelGraph) -> dict[str, str]:
    """Returns the name of each group now -> that of the group of the same channels before.

    A block parts the channels that come out of it from those that go in.
    """
    segments = {
        (id(item.variable), axis.axis): axis.segments
        for item in before.variables
        for axis in item.axes
    }
    names: dict[str, str] = {}
    for item in after.variables:
        for axis in item.axes:
            then = segments.get((id(item.variable), axis.axis), ())
            if len(then) == len(axis.segments):
                names |= {a.group: b.group for a, b in zip(axis.segments, then, strict=True)}
    return names
