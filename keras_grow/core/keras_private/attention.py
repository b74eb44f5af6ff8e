"""Where attention layers hold their projections and their sizes (Keras 3.15).

Relies on the attributes that `MultiHeadAttention` and `GroupQueryAttention` make in `__init__` and
`build` (keras/src/layers/attention/multi_head_attention.py and grouped_query_attention.py), and on
the kernels of their `EinsumDense` layers being of shape `(channels, heads, dimension)`, that of the
output `(heads, dimension, channels)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras


@dataclass(frozen=True)
class AttentionNames:
    """The names of a kind of attention's attributes.

    Attributes:
        heads: Those that hold the number of heads of keys and values.
        query_heads: Those that hold the number of heads of queries, where they are several to each
            of the others.
        key: Those that hold the key dimension.
        value: Those that hold the value dimension.
        scale: That which holds 1 / sqrt(key dimension).
        outputs: That which holds the shape, or the number, of the channels that it puts out.
    """

    heads: tuple[str, ...]
    query_heads: tuple[str, ...]
    key: tuple[str, ...]
    value: tuple[str, ...]
    scale: str
    outputs: str


ATTENTION: dict[type, AttentionNames] = {
    keras.layers.MultiHeadAttention: AttentionNames(
        heads=("_num_heads",),
        query_heads=(),
        key=("_key_dim",),
        value=("_value_dim",),
        scale="_inverse_sqrt_key_dim",
        outputs="_output_shape",
    ),
    keras.layers.GroupQueryAttention: AttentionNames(
        heads=("num_key_value_heads",),
        query_heads=("num_query_heads",),
        key=("head_dim",),
        value=(),
        scale="_inverse_sqrt_head_dim",
        outputs="feature_dim",
    ),
}


def projections_of(layer: Any) -> Mapping[str, tuple[str, keras.layers.EinsumDense]]:
    """Returns the projections of an attention layer: what each is for -> its attribute, and it."""
    found = {
        part: (f"_{part}_dense", getattr(layer, f"_{part}_dense", None))
        for part in ("query", "key", "value", "gate", "output")
    }
    return {part: pair for part, pair in found.items() if pair[1] is not None}


def initializer_of(layer: keras.layers.Layer, name: str) -> Any:
    """Returns what a layer draws a variable from, or `None`.

    A kernel of `EinsumDense` is drawn by an initializer that knows which of its axes are summed
    over. Relies on `EinsumDense.build` and `_update_kernel_initializer`
    (keras/src/layers/core/einsum_dense.py).
    """
    names = (
        f"{name}_initializer",
        f"{name.removesuffix('_kernel')}_initializer",
        "depthwise_initializer",
    )
    initializer = next((getattr(layer, each) for each in names if hasattr(layer, each)), None)
    scales = isinstance(initializer, keras.initializers.VarianceScaling)
    if not (isinstance(layer, keras.layers.EinsumDense) and name == "kernel" and scales):
        return initializer
    if initializer.input_axes is not None and initializer.output_axes is not None:
        return initializer
    kernel, outputs = layer.equation.replace("...", "").split(",")[1].split("->")
    out_of = [axis for axis, letter in enumerate(kernel) if letter in outputs]
    into = [axis for axis, letter in enumerate(kernel) if letter not in outputs]
    return layer._update_kernel_initializer(into, out_of)
