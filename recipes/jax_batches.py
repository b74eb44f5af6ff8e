"""Batches on JAX: the images live on the device, and a compiled function makes a batch of them.

What goes to the device in a step are a few hundred integers: which images, from where to crop
them, which to flip. The batch never leaves it.
"""

from __future__ import annotations

import data
import jax
import jax.numpy as jnp
import keras
import numpy as np

PAD = 4  # pixels, black, on each side of an image before a random crop


def batches(
    split: data.Split,
    batch_size: int,
    scale_and_offset: tuple[np.ndarray, np.ndarray],
    seed: int | None = None,
    augment: bool = False,
) -> tuple[DeviceBatches, list[keras.callbacks.Callback]]:
    """Returns normalised batches, and the callbacks that they need in `fit`.

    Args: as of `tf_batches.batches`.
    """
    made = DeviceBatches(split, batch_size, scale_and_offset, seed, augment)
    if seed is None:
        return made, []
    return made, [keras.callbacks.LambdaCallback(on_epoch_begin=made.begin_epoch)]


class DeviceBatches(keras.utils.PyDataset):
    """Batches whose order and crops follow from the seed and the number of the epoch.

    Args: as of `batches`.
    """

    def __init__(self, split, batch_size, scale_and_offset, seed, augment):
        super().__init__()
        pad = PAD if augment else 0
        self._images = jnp.asarray(np.pad(split.images, ((0, 0), (pad, pad), (pad, pad), (0, 0))))
        self._labels, self._size = split.labels, batch_size
        self._scale, self._offset = map(jnp.asarray, scale_and_offset)
        self._seed, self._augment = seed, augment
        self.begin_epoch(0)

    def begin_epoch(self, epoch: int, logs: dict | None = None) -> None:
        """Shuffles for an epoch; the same epoch always comes in the same order."""
        self._epoch, self._order = epoch, np.arange(len(self._labels), dtype="int32")
        if self._seed is not None:
            np.random.default_rng([self._seed, epoch]).shuffle(self._order)

    def __len__(self) -> int:
        return -(-len(self._labels) // self._size)

    def __getitem__(self, index: int) -> tuple[jax.Array, np.ndarray]:
        rows = self._order[index * self._size : (index + 1) * self._size]
        top, left, flips = np.zeros((3, len(rows)), "int32")
        if self._augment:
            rng = np.random.default_rng([self._seed, self._epoch, index])
            top, left = rng.integers(0, 2 * PAD + 1, (2, len(rows)), "int32")
            flips = rng.integers(0, 2, len(rows), "int32")
        images = _cut(self._images, rows, top, left, flips, self._scale, self._offset)
        return images, self._labels[rows]


@jax.jit
def _cut(images, rows, top, left, flips, scale, offset) -> jax.Array:
    """Crops, flips and normalises some of the (padded) images."""
    pixel = jnp.arange(32)
    down = top[:, None] + pixel
    across = left[:, None] + jnp.where(flips[:, None], pixel[::-1], pixel)
    cut = images[rows[:, None, None], down[:, :, None], across[:, None, :]]
    return cut.astype("float32") * scale + offset
