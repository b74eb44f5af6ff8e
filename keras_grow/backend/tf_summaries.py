"""What TensorBoard shows, as TensorFlow writes it."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping

import numpy as np


def check_tensorboard() -> None:
    """Makes sure that TensorFlow can write summaries.

    Raises:
        ImportError: if TensorBoard is not installed; says what to do.
    """
    try:
        importlib.import_module("tensorboard")
    except ImportError as error:
        raise ImportError("TensorBoard is not installed: pip install tensorboard") from error
    try:
        importlib.import_module("tensorflow")
    except ImportError as error:
        raise ImportError(
            "TensorBoard's files are written by TensorFlow, whatever Keras's backend: pip install "
            "tensorflow. `keras.callbacks.CSVLogger` and `keras_grow.plots.growth_curve` need none"
        ) from error


class Summaries:
    """A file of summaries in a folder of its own, which TensorBoard shows as a run.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: str | os.PathLike):
        import tensorflow as tf

        self._summary = tf.summary
        self._writer = tf.summary.create_file_writer(os.fspath(folder))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Writes one number for each name."""
        with self._writer.as_default(step):
            for name, value in values.items():
                self._summary.scalar(name, value)
        self._writer.flush()

    def histograms(self, values: Mapping[str, np.ndarray], step: int) -> None:
        """Writes the distribution of many numbers for each name."""
        with self._writer.as_default(step):
            for name, value in values.items():
                self._summary.histogram(name, value)
        self._writer.flush()

    def close(self) -> None:
        """Completes the file."""
        self._writer.close()
