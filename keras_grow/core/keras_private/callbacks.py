"""What Keras's own callbacks remember from epoch to epoch (Keras 3.15)."""

from __future__ import annotations

from typing import Any

import keras

# Class -> attributes that `on_epoch_end` and `on_train_batch_end` change and later read
# (keras/src/callbacks/*.py). `best_weights` are arrays.
_REMEMBERED: dict[type, tuple[str, ...]] = {
    keras.callbacks.EarlyStopping: (
        "wait",
        "best",
        "best_epoch",
        "stopped_epoch",
        "best_weights",
    ),
    keras.callbacks.ReduceLROnPlateau: ("wait", "cooldown_counter", "best"),
    keras.callbacks.ModelCheckpoint: (
        "best",
        "_batches_seen_since_last_saving",
        "_last_batch_seen",
    ),
    keras.callbacks.SwapEMAWeights: ("_ema_weights_in_model",),
}


def memory_of(callback: Any) -> dict[str, Any] | None:
    """Returns what a callback of Keras remembers, by attribute; `None` for any other callback."""
    for kind, names in _REMEMBERED.items():
        if isinstance(callback, kind):
            return {name: getattr(callback, name) for name in names if hasattr(callback, name)}
    return None


def remember(callback: Any, memory: dict[str, Any]) -> None:
    """Has a callback go on from what `memory_of` returned."""
    for name, value in memory.items():
        setattr(callback, name, value)
