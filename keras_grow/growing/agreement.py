"""The processes that train one model together grow it alike: by the choice of the first one.

Under `MultiWorkerMirroredStrategy` every worker runs `fit` and its callbacks. Methods score neurons
on the batches that a worker reads, and draw with a seed that may be its own, so their choices may
differ; were they applied, the workers' variables would have different shapes.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import keras
import numpy as np

from keras_grow.backend import broadcast, spans_processes
from keras_grow.core.widening import Widening


def agreed(model: keras.Model, widenings: Sequence[Widening]) -> list[Widening]:
    """Returns the widenings that the first worker has chosen, on every worker.

    Args:
        model: The model, which all workers train.
        widenings: What this process has chosen.
    """
    if not spans_processes(model):
        return list(widenings)
    return unpacked(broadcast(model, packed(widenings)))


def agree_on_weights(model: keras.Model, block: keras.Model) -> None:
    """Gives a block that a model is to get the first worker's weights, on every worker.

    Args:
        model: The model, which all workers train.
        block: The block as this process has made it.
    """
    if not spans_processes(model):
        return
    file = io.BytesIO()
    np.savez(file, *block.get_weights())
    with np.load(io.BytesIO(broadcast(model, file.getvalue())), allow_pickle=False) as arrays:
        block.set_weights([arrays[name] for name in arrays.files])


def packed(widenings: Sequence[Widening]) -> bytes:
    """Returns widenings as bytes, which `unpacked` reads.

    Example:

    >>> import keras_grow
    >>> (copy,) = unpacked(packed([keras_grow.Widening("conv1", sources=[0, 1, 1])]))
    >>> copy.group, copy.sources.tolist()
    ('conv1', [0, 1, 1])
    """
    arrays = {}
    for number, widening in enumerate(widenings):
        arrays[f"{number}/group"] = np.array(widening.group)
        arrays[f"{number}/sources"] = widening.sources
        arrays[f"{number}/outgoing_scale"] = widening.outgoing_scale
        arrays[f"{number}/unhelpful"] = np.array(widening.unhelpful)
        for side in ("incoming", "outgoing"):
            for path, values in getattr(widening, side).items():
                arrays[f"{number}/{side}/{path}"] = np.asarray(values)
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def unpacked(content: bytes) -> list[Widening]:
    """Returns the widenings that `packed` was given."""
    parts: dict[int, dict] = {}
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        for key, values in arrays.items():
            number, name, *path = key.split("/", 2)
            fields = parts.setdefault(int(number), {"incoming": {}, "outgoing": {}})
            if path:
                fields[name][path[0]] = values
            else:
                fields[name] = values
    return [
        Widening(**{**fields, "group": str(fields["group"]), "unhelpful": int(fields["unhelpful"])})
        for fields in parts.values()
    ]
