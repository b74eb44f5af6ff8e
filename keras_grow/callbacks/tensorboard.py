"""GrowthTensorBoard: what TensorBoard shows of growth beyond the epoch's logs."""

from __future__ import annotations

import os

import keras
import numpy as np

from keras_grow.backend import sync_state
from keras_grow.backend.tf_summaries import Summaries, check_tensorboard
from keras_grow.channels.graph import find_groups
from keras_grow.model import check_growable_model
from keras_grow.penalty.similarity import pair_similarities
from keras_grow.penalty.window import penalised_kernels


class GrowthTensorBoard(keras.callbacks.Callback):
    """Shows widths and similarities in TensorBoard, beside `keras.callbacks.TensorBoard`.

    Keras's callback shows what `GrowthCallback` logs: `params`, `similarity`, `weight_drift`. This
    one adds, as the run "growth" of the same folder:

    - `widths/<group>`: the width of each channel group, at the end of each epoch;
    - `similarity/<layer>`: a histogram of the cosine similarities of all pairs of neurons (Eq. 1),
      at the start, just after each growth, and at the end. Its step is the number of epochs
      completed.

    Its place in the list of callbacks doesn't matter.

    Args:
        log_dir: Folder of the logs, as for `keras.callbacks.TensorBoard`.

    Raises:
        ImportError: if TensorBoard is not installed: TensorFlow no longer brings it along.
        TypeError: if the model that it is used with can't grow.

    Example:

    >>> import keras, keras_grow, numpy as np, os, tempfile
    >>> inputs = keras.Input((8,))
    >>> x = keras_grow.layers.GrowableDense(4, activation="relu", name="hidden")(inputs)
    >>> model = keras_grow.GrowableModel(inputs, keras.layers.Dense(3)(x))
    >>> model.compile("sgd", "mse")
    >>> logs = tempfile.mkdtemp()
    >>> history = model.fit(np.ones((8, 8)), np.ones((8, 3)), epochs=2, verbose=0, callbacks=[
    ...     keras_grow.GrowthCallback(0.5, every=1, method="net2wider", verbose=0),
    ...     keras.callbacks.TensorBoard(logs, write_graph=False),
    ...     keras_grow.GrowthTensorBoard(logs)])
    >>> sorted(os.listdir(logs))
    ['growth', 'train']
    """

    def __init__(self, log_dir: str | os.PathLike = "logs"):
        super().__init__()
        check_tensorboard()  # now, rather than when training begins
        self.log_dir = log_dir
        self._summaries: Summaries | None = None
        self._growths = -1
        self._epoch = 0

    def set_model(self, model: keras.Model) -> None:
        """Takes the model that `fit` trains; refuses one that can't grow."""
        check_growable_model(model, "GrowthTensorBoard")
        super().set_model(model)

    def on_train_begin(self, logs=None) -> None:
        """Opens the file."""
        self._summaries = Summaries(os.path.join(self.log_dir, "growth"))
        self._growths = -1  # so that the start is shown

    def on_epoch_begin(self, epoch, logs=None) -> None:
        """Counts the epochs."""
        self._epoch = epoch

    def on_train_batch_begin(self, batch, logs=None) -> None:
        """Shows similarities where the model has just grown, whichever callback did it."""
        growths = len(self.model.growth_history)
        if growths != self._growths:
            self._growths = growths
            sync_state(self.model)
            self._summaries.histograms(self._similarities(), self._epoch)

    def on_epoch_end(self, epoch, logs=None) -> None:
        """Shows the widths."""
        widths = {f"widths/{name}": width for name, width in self.model.widths.items()}
        self._summaries.scalars(widths, epoch)
        self._epoch = epoch + 1

    def on_train_end(self, logs=None) -> None:
        """Shows similarities as they are in the end."""
        self._summaries.histograms(self._similarities(), self._epoch)
        self._summaries.close()

    def _similarities(self) -> dict[str, np.ndarray]:
        graph = find_groups(self.model)
        paths = {id(item.variable): item.path for item in graph.variables}
        return {
            f"similarity/{paths[id(kernel)].removesuffix('/kernel')}": pair_similarities(
                kernel, *neurons
            )
            for kernel, neurons in penalised_kernels(graph)
        }
