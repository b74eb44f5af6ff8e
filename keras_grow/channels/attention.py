"""What attention layers do to channels: they hold groups of their own, and sum over streams.

A head, a key dimension and a value dimension are neurons like others. Those of the key are produced
by the projection of the query and summed over by that of the key: the scores are products of the
two. Attention divides its scores by the square root of the key dimension, so the projection of the
query grows by the square root of the growth of that dimension.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import keras

from keras_grow.channels import flow
from keras_grow.channels.walk import Channels, Walk
from keras_grow.core import keras_private
from keras_grow.core.keras_private import Call

# Axes of the kernels of queries, keys and values, (channels, heads, dimension), and of the biases.
_CHANNELS, _HEADS, _DIMENSION = -3, -2, -1
_SQUARE_ROOT = 0.5


def attend(walk: Walk, call: Call, inputs: flow.Inputs) -> Channels | None:
    """Attention: heads, key and value dimensions of its own; new channels out."""
    layer = call.operation
    streams = _streams(walk, call)
    width = _kernel_of(layer, "key").shape[_HEADS]
    heads = walk.produce(layer, width, axis=0, part="heads", whole=True)
    per_head = _kernel_of(layer, "query").shape[_HEADS] // heads.width
    segments = (s._replace(repeat=per_head) for s in heads.segments)
    query_heads = Channels(heads.axis, tuple(segments))
    key, value = _dimensions(walk, layer)
    outputs = _outputs(walk, call, streams["query"])
    parts = {
        "query": (query_heads, (_DIMENSION, key, "output", 0.0, _SQUARE_ROOT)),
        "key": (heads, (_DIMENSION, key, "input")),
        "value": (heads, (_DIMENSION, value, "output")),
        "gate": (query_heads, (_DIMENSION, value, "output")),
    }
    for part, (of_heads, dimension) in parts.items():
        if part in keras_private.projections_of(layer):
            along = [(_HEADS, of_heads, "output"), dimension]
            stream = streams["query" if part == "gate" else part]
            _note_projection(walk, layer, part, along, [(_CHANNELS, stream, "input")])
    _note_output(walk, layer, query_heads, value, outputs)
    _note_sizes(walk, layer, heads, query_heads, key, value, outputs)
    if len(call.outputs) > 1:
        reason = f"`{layer.name}` returns its attention scores"
        walk.freeze([heads, outputs], reason)
        return None
    return outputs


def _streams(walk: Walk, call: Call) -> dict[str, Channels | None]:
    """Returns the channels that queries, keys and values are made of; freezes all other inputs."""
    layer, named = call.operation, call.named
    tensors = {
        "query": named["query"],
        "value": named["value"],
        "key": named["value"] if named.get("key") is None else named["key"],
    }
    used = {id(tensor) for tensor in tensors.values()}
    others = [walk.maps.get(id(t)) for t in call.inputs if id(t) not in used]
    walk.freeze(others, f"`{layer.name}` takes them for a mask")
    streams = {}
    for part, tensor in tensors.items():
        channels = walk.maps.get(id(tensor))
        if channels is not None and channels.axis != len(tensor.shape) - 1:
            reason = f"`{layer.name}` takes its channels from another axis than theirs"
            channels = walk.refuse(layer, [channels], reason)
        streams[part] = channels
    return streams


def _dimensions(walk: Walk, layer: Any) -> tuple[Channels, Channels]:
    """Returns the key and the value dimension: one group where they are equal.

    JAX's fused attention takes no others, and what is usual stays so.
    """
    of_key, of_value = (_kernel_of(layer, part).shape[_DIMENSION] for part in ("key", "value"))
    if of_key == of_value:
        both = walk.produce(layer, of_key, axis=0, part="dimension")
        return both, both
    key = walk.produce(layer, of_key, axis=0, part="key")
    return key, walk.produce(layer, of_value, axis=0, part="value")


def _outputs(walk: Walk, call: Call, query: Channels | None) -> Channels | None:
    """Returns the channels that the layer puts out: new ones, or as many as the query has."""
    layer, shape = call.operation, call.outputs[0].shape
    if len(_kernel_of(layer, "output").shape) != 3:
        return None  # an output of several axes, all of fixed size
    outputs = walk.produce(layer, shape[-1], len(shape) - 1)
    if isinstance(layer, keras.layers.GroupQueryAttention):
        reason = f"`{layer.name}` puts out as many channels as its query has"
        return walk.tie([outputs, query and replace(query, normalised=False)], reason)
    return outputs


def _note_projection(walk: Walk, layer: Any, part: str, along: list, into: list) -> None:
    """Notes the kernel and the bias of one projection, and the shape that it puts out."""
    name, dense = keras_private.projections_of(layer)[part]
    walk.add_variable(layer, f"{name}.kernel", [*along, *into], is_kernel=True)
    walk.add_variable(layer, f"{name}.bias", along, is_kernel=False)
    for axis, channels, *_ in along:
        if channels is not None:
            walk.sizes.append((dense, "partial_output_shape", axis, channels))


def _note_output(walk: Walk, layer: Any, heads: Channels, value: Channels, outputs) -> None:
    """Notes the output's kernel, of shape (heads, dimension, *channels)."""
    name, dense = keras_private.projections_of(layer)["output"]
    rank = len(_kernel_of(layer, "output").shape)
    along = [] if outputs is None else [(-1, outputs, "output")]
    into = [(-rank, heads, "input"), (1 - rank, value, "input")]
    walk.add_variable(layer, f"{name}.kernel", [*along, *into], is_kernel=True)
    walk.add_variable(layer, f"{name}.bias", along, is_kernel=False)
    if outputs is not None:
        walk.sizes.append((dense, "partial_output_shape", -1, outputs))


def _note_sizes(walk, layer, heads, query_heads, key, value, outputs) -> None:
    """Notes the layer's own records of its sizes."""
    names = keras_private.ATTENTION[type(layer)]
    held = [(names.heads, heads), (names.query_heads, query_heads)]
    for attributes, channels in [*held, (names.key, key), (names.value, value)]:
        walk.sizes += [(layer, name, None, channels) for name in attributes]
    walk.sizes.append((layer, names.scale, None, key, -_SQUARE_ROOT))
    if outputs is not None:
        index = None if isinstance(getattr(layer, names.outputs), int) else -1
        walk.sizes.append((layer, names.outputs, index, outputs))


def _kernel_of(layer: Any, part: str) -> Any:
    return keras_private.projections_of(layer)[part][1].kernel


def products(layer: Any, shapes: Mapping[str, tuple]) -> int:
    """Counts the projections at each position, and the two products of positions with each other.

    Every query counts with every key, also where a mask keeps them apart.
    """
    queries, keys = (math.prod(shapes[name][1:-1]) for name in ("query", "value"))
    count = 0
    for part in keras_private.projections_of(layer):
        positions = keys if part in ("key", "value") else queries
        count += positions * math.prod(_kernel_of(layer, part).shape)
    _, heads, dimension = _kernel_of(layer, "query").shape
    value = _kernel_of(layer, "value").shape[_DIMENSION]
    return count + heads * (dimension + value) * _pairs(layer, shapes["query"], shapes["value"])


def _pairs(layer: Any, query: tuple, value: tuple) -> int:
    """Counts the pairs of positions that attend to each other: those along the attention axes."""
    axes = getattr(layer, "attention_axes", None) or range(1, len(query) - 1)
    free = math.prod(size for axis, size in enumerate(query[:-1]) if axis and axis not in axes)
    return free * math.prod(query[axis] * value[axis] for axis in axes)
