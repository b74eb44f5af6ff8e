"""Layer types of one's own: what they do to channels, in a line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from keras import layers as kl

from keras_grow import layers as growable
from keras_grow.channels import flow, products
from keras_grow.channels.layer_table import ROWS, Axes, Row


def register_layer(
    kind: type,
    like: type | None = None,
    *,
    through: Mapping[str, int] | None = None,
    added: Mapping[str, int] | None = None,
    input: Mapping[str, int] | None = None,
    output: Mapping[str, int] | None = None,
    size: str | None = None,
) -> None:
    """Says what a layer type of one's own does to its channels, so that they can grow.

    Either what a known layer does (`like`): what has the same name in both must mean the same, the
    variables that channels run through (`kernel`, `bias`, `gamma`) and the width (`units`,
    `filters`). A class that derives from `keras_grow.layers.Growable` and from `like` becomes its
    growable kind, for `GrowableModel.from_keras` and `to_keras` too, where it has none yet.

    Or which of its variables hold channels, by the names of their attributes ("inner.kernel" for
    one of a layer within it), each with the axis, counted from the end. Channels lie along the last
    axis of what goes in and comes out, or where the layer's `data_format` says. A layer with
    `output` sums over the channels that come in, and puts out others; one without does the same to
    each channel alone. So a layer of which only the class is given is a carrier: it has no weights,
    and keeps shapes.

    New channels of a variable start as its initializer says, if the layer keeps it by the name of
    the variable (`scale_initializer`), and else at the mean of the present ones.

    Args:
        kind: The class of the layer.
        like: The class of a layer that the package knows.
        through: Variable -> axis of the channels that the layer treats one by one.
        added: Variable -> axis of the channels to which the layer adds it, and does nothing else,
            as it does with positions that are learned. A stream that is normalised over its
            channels stays exact through such a layer.
        input: Variable -> axis of the channels that the layer sums over.
        output: Variable -> axis of the channels that the layer puts out.
        size: The attribute that holds how many channels the layer puts out.

    Raises:
        TypeError: if `kind` is no class of layers.
        ValueError: if `like` is not known, or the rest says what can't be.

    Example:

    >>> import keras, keras_grow
    >>> class Scale(keras.layers.Layer):
    ...     def build(self, shape):
    ...         self.scale = self.add_weight(shape=shape[-1:], initializer="ones")
    ...     def call(self, inputs):
    ...         return inputs * self.scale
    >>> class Sine(keras.layers.Layer):
    ...     def call(self, inputs):
    ...         return keras.ops.sin(inputs)
    >>> keras_grow.register_layer(Scale, through={"scale": -1})
    >>> keras_grow.register_layer(Sine)
    >>> inputs = keras.Input((8,))
    >>> x = Sine()(Scale()(keras.layers.Dense(4, name="hidden")(inputs)))
    >>> keras_grow.GrowableModel(inputs, keras.layers.Dense(3)(x)).widths
    {'hidden': 4}
    """
    if not (isinstance(kind, type) and issubclass(kind, kl.Layer)):
        raise TypeError(f"`kind` must be a class of Keras layers. Received: kind={kind!r}")
    places = {
        "through": through or {},
        "added": added or {},
        "input": input or {},
        "output": output or {},
    }
    if like is None:
        ROWS[kind] = _row(kind, places, size)
        return
    if size or any(places.values()):
        raise ValueError(
            "`like` says which variables hold channels: leave out `through`, `added`, `input`, "
            f"`output` and `size`. Received: like={like!r} and {places}, size={size!r}"
        )
    if like not in ROWS:
        raise ValueError(
            "`like` must be the class of a layer whose channels are understood: "
            f"{', '.join(known.__name__ for known in ROWS)}. Received: like={like!r}"
        )
    row = ROWS[like]
    grows = issubclass(kind, growable.Growable)
    if row.twin is None and grows and issubclass(kind, like):
        ROWS[like] = replace(row, twin=kind)
    # Another class than the twin of `like` has none, or is its own.
    ROWS[kind] = replace(row, twin=kind if grows else None)


def _row(kind: type, places: Mapping[str, Mapping[str, int]], size: str | None) -> Row:
    """Makes a row of the axes of variables, by role."""
    axes = [axis for named in places.values() for axis in named.values()]
    if not all(isinstance(axis, int) and axis < 0 for axis in axes):
        raise ValueError(
            "Axes must be counted from the end: -1 for the last. Received: "
            f"{ {role: named for role, named in places.items() if named} }"
        )
    if places["input"] and not places["output"]:
        raise ValueError(
            "A layer that sums over channels puts out others: name the variables that hold those "
            f"in `output`. Received: input={places['input']} and no `output`"
        )
    if sum(bool(places[role]) for role in ("output", "through", "added")) > 1:
        raise ValueError(
            "A layer puts out channels of its own (`output`), or those that come in, either "
            "changed one by one (`through`) or with something added to them (`added`). Received: "
            f"{ {role: named for role, named in places.items() if named} }"
        )
    names = dict.fromkeys(name for named in places.values() for name in named)
    # What is added is an output as a bias is: of a silent channel, the mean of the others'.
    roles = {"output": {**places["output"], **places["added"]}}
    roles |= {role: places[role] for role in ("input", "through")}
    variables = {
        name: Axes(
            **{role: named[name] for role, named in roles.items() if name in named},
            kernel=name in places["input"] and name in places["output"],
        )
        for name in names
    }
    return Row(
        flow.produce_as(variables) if places["output"] else flow.carry,
        axis=flow.format_axis,
        variables=variables,
        size=size,
        linear=bool(places["added"]),
        multiply_adds=None if places["output"] else products.none,
        twin=kind if issubclass(kind, growable.Growable) else None,
    )
