"""Loading weights into a growing model: all of them, or none and the reason."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import keras
import numpy as np

from keras_grow.channels.graph import find_groups

Shapes = dict[str, list[tuple]]


@contextmanager
def all_or_nothing(model: keras.Model, filepath: str | Path) -> Iterator[None]:
    """Puts a model and its optimizer back if loading fails inside, and says which widths differ.

    Args:
        model: The model that weights are loaded into.
        filepath: The file that they come from.

    Raises:
        ValueError: if loading fails and the widths differ; otherwise what loading raised.
    """
    optimizer = getattr(model, "optimizer", None)  # none before `compile`
    variables = [*model.variables, *(optimizer.variables if optimizer else ())]
    held = [(variable, variable.numpy()) for variable in variables]
    try:
        with warnings.catch_warnings():
            # Keras remarks on this where something else doesn't fit, too.
            warnings.filterwarnings("ignore", "Skipping nested container")
            yield
    except BaseException as error:
        for variable, value in held:
            variable.assign(value)
        differing = _differing_widths(model, filepath) if isinstance(error, ValueError) else ""
        if differing:
            raise ValueError(
                f"The weights in '{filepath}' are of a model of other widths: {differing}. Build "
                "the model with the widths of the file (`widths=` of the networks in "
                "`keras_grow.models`, or `GrowableModel.from_config` of the grown model's config), "
                "or save and load whole models: `model.save('model.keras')`, "
                "`keras.models.load_model`. A model goes back to weights of its own earlier widths "
                "by `set_weights`; a run that was killed goes on with `keras_grow.GrowthBackup` in "
                "place of `keras.callbacks.BackupAndRestore`. Of a search by KerasTuner: its own "
                "tuners keep weights alone; search with the tuner of the same name in "
                "`keras_grow.tuning`, or derive yours from `GrowthTuner` there. The model is "
                "unchanged."
            ) from error
        raise


def check_shapes(model: keras.Model, weights: Sequence) -> None:
    """Refuses weights of other shapes than a model's.

    Raises:
        ValueError: naming the first variables whose shape differs.
    """
    differing = [
        f"`{variable.path}` is of shape {tuple(variable.shape)}, not {tuple(np.shape(value))}"
        for variable, value in zip(model.weights, weights, strict=False)
        if tuple(variable.shape) != tuple(np.shape(value))
    ]
    if differing:
        raise ValueError(
            f"The weights are of a model of other widths: {', '.join(differing[:3])}. Weights of "
            "widths that this model has had itself would take it back there; these are of no such "
            "width. Keep whole models, as `keras.callbacks.ModelCheckpoint('{epoch}.keras')` does. "
            "The model is unchanged."
        )


def _differing_widths(model: keras.Model, filepath: str | Path) -> str:
    """Returns the groups whose widths differ, in words; an empty string if that can't be told."""
    try:
        saved = _saved_shapes(filepath)
    except (OSError, ValueError, KeyError):  # of another format
        return ""
    graph = find_groups(model)
    differing = {}
    for name, group in graph.growable.items():
        for item, axis in graph.kernels(name, "output"):
            shapes = [
                s for s in saved.get(item.layer.name, []) if len(s) == len(item.variable.shape)
            ]
            times = len(axis.segments)  # a gate's units lie beside those of the next
            if shapes and shapes[0][axis.axis] != group.width * times:
                differing[name] = f"'{name}' {shapes[0][axis.axis] // times} (here {group.width})"
    return ", ".join(differing.values())


def _saved_shapes(filepath: str | Path) -> Shapes:
    """Returns layer name -> shapes of its variables, of a `.weights.h5` or `.keras` file."""
    with contextlib.redirect_stdout(io.StringIO()):  # the editor greets its user
        editor = keras.saving.KerasFileEditor(str(filepath))
    shapes: Shapes = {}
    for path, values in _walk(editor.weights_dict, ""):
        name = editor.object_metadata.get(path, {}).get("name")
        shapes.setdefault(name, []).append(tuple(np.shape(values)))
    return shapes


def _walk(entries: dict, path: str) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the path of the object that holds it, and the value, of every variable in a file."""
    for key, value in entries.items():
        if isinstance(value, dict):
            yield from _walk(value, f"{path}/{key}")
        else:
            yield path, value


def check_save_path(filepath: str | Path) -> None:
    """Refuses the legacy format, which can't be loaded with registered classes.

    Raises:
        ValueError: if the path ends in that format's suffix.
    """
    if str(filepath).endswith((".h5", ".hdf5")) and not str(filepath).endswith(".weights.h5"):
        raise ValueError(
            "A `GrowableModel` is saved in the `.keras` format: the legacy HDF5 format doesn't "
            f"find its layers again. Received: filepath={filepath}"
        )
