"""The state of Keras's own callbacks: patience, counters, the best value and weights so far."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_grow.core import keras_private

Memories = list[list]


def capture(callbacks: Sequence) -> tuple[Memories, list[np.ndarray]]:
    """Returns what callbacks remember: what JSON can hold, and the arrays of it, in order.

    Args:
        callbacks: Callbacks of Keras that remember anything.
    """
    memories, arrays = [], []
    for callback in callbacks:
        memory = keras_private.memory_of(callback)
        weights = memory.get("best_weights")
        if weights is not None:
            arrays += [np.asarray(value) for value in weights]
            memory["best_weights"] = len(weights)
        memories.append([_key(callback), {name: _plain(v) for name, v in memory.items()}])
    return memories, arrays


def check(callbacks: Sequence, memories: Memories) -> None:
    """Refuses memories of which it can't be told whose they are.

    Raises:
        ValueError: if another number of callbacks is alike than in the run that was backed up.
    """
    saved, present = _count(key for key, _ in memories), _count(map(_key, callbacks))
    for key in saved.keys() & present.keys():
        if saved[key] != present[key]:
            kind, monitor, _ = key
            raise ValueError(
                f"its callbacks differ: {saved[key]} `{kind}` (monitor={monitor!r}) in the backup, "
                f"{present[key]} in this run"
            )


def restore(callbacks: Sequence, memories: Memories, arrays: Sequence[np.ndarray]) -> None:
    """Has callbacks go on from what `capture` returned.

    A callback of another class, or that watches something else, starts anew.
    """
    found = defaultdict(list)
    left = list(arrays)
    for key, memory in memories:
        memory = dict(memory)
        if memory.get("best_weights") is not None:
            count = memory["best_weights"]
            memory["best_weights"], left = left[:count], left[count:]
        found[tuple(key)].append(memory)
    for callback in callbacks:
        if found[_key(callback)]:
            keras_private.remember(callback, found[_key(callback)].pop(0))


def has_stopped(callbacks: Sequence) -> bool:
    """Tells whether an `EarlyStopping` has ended the run, and still would."""
    return any(
        callback.stopped_epoch > 0 and callback.wait >= callback.patience
        for callback in callbacks
        if isinstance(callback, keras.callbacks.EarlyStopping)
    )


def _key(callback: Any) -> tuple:
    """Returns what makes a callback the same in another process: its class, and what it watches."""
    names = ("monitor", "mode")
    return (type(callback).__name__, *(getattr(callback, name, None) for name in names))


def _count(keys: Any) -> dict[tuple, int]:
    counts: dict[tuple, int] = defaultdict(int)
    for key in keys:
        counts[tuple(key)] += 1
    return counts


def _plain(value: Any) -> Any:
    """Returns a number as JSON can hold it."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return keras.ops.convert_to_numpy(value).tolist()
