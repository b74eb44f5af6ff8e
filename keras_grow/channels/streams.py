"""Normalisations over the channels of a stream, such as the residual stream of a transformer.

Their statistics are taken over all channels, so a fresh one changes what becomes of the others,
unless it is silent: the mean of the others at each position (LayerNormalization, whose mean then
stays), or zero (RMSNormalization and UnitNormalization). A mean over m channels of which n are
not silent is n / m of what it was; the scale and epsilon make up for it. What a silent channel is
after the normalisation is zero, so the weights out of it may be anything, and through them it
learns, unless an activation that is flat at zero lies before them.

A channel is the mean of the others where the kernels that add to the stream say so, and as long as
nothing but linear layers, which treat all channels alike, lies between.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from keras_grow.channels import joins
from keras_grow.channels.joins import Inputs
from keras_grow.channels.walk import Channels, Walk
from keras_grow.core.keras_private import Call

_ROOT, _INVERSE = -0.5, -1.0


def centred(walk: Walk, call: Call, inputs: Inputs) -> Channels | None:
    """LayerNormalization: the mean of a stream is taken from it."""
    layer = call.operation
    if layer.gamma is None or layer.rms_scaling:
        reason = f"`{layer.name}` has no scale that could make up for more channels"
        return walk.refuse(layer, inputs, reason)
    return _normalised(walk, call, inputs, "mean", "gamma", "beta")


def uncentred(walk: Walk, call: Call, inputs: Inputs) -> Channels | None:
    """RMSNormalization: a stream is divided by its root mean square."""
    return _normalised(walk, call, inputs, "zero", "scale")


def unit(walk: Walk, call: Call, inputs: Inputs) -> Channels | None:
    """UnitNormalization: a stream is divided by its norm, to which silent channels add nothing."""
    return _normalised(walk, call, inputs, "zero")


def _normalised(
    walk: Walk, call: Call, inputs: Inputs, fresh: str, scale: str = "", shift: str = ""
) -> Channels | None:
    channels, layer = inputs[0], call.operation
    if channels is None:
        return None
    if _axes(layer, len(call.inputs[0].shape)) != {channels.axis} or not walk.is_one(channels):
        walk.unsettle([channels], f"`{layer.name}` does not keep their mean")
        return joins.along_an_axis(walk, call, inputs)
    if channels.normalised:  # what is zero then is not the mean of the others
        reason = f"`{layer.name}` normalises what is normalised already"
        walk.unsettle([channels], reason, ["mean"])
    walk.carry(layer, channels)
    walk.silence(channels, fresh)
    if scale:
        through = (-1, channels, "through", 1.0, _ROOT)
        walk.add_variable(layer, scale, [through], is_kernel=False)
        walk.sizes.append((layer, "epsilon", None, channels, _INVERSE))
    if shift:
        walk.add_variable(layer, shift, [(-1, channels, "through")], is_kernel=False)
    return replace(channels, normalised=True)


def _axes(layer: Any, rank: int) -> set[int]:
    axes = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    return {axis % rank for axis in axes}
