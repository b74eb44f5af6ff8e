"""What a growth that fails says: what happened, and that the model is unchanged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

from keras_grow.backend import MISFIT, is_out_of_memory, with_message


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Has what fails inside say what was going on. The type of the exception stays.

    Args:
        what: What is going on, such as "Growing model `vgg16` by 'firefly'".
    """
    try:
        yield
    except KeyboardInterrupt as interrupt:
        message = f"{what} was interrupted. The model is unchanged."
        raise KeyboardInterrupt(message) from interrupt
    except Exception as error:
        if is_out_of_memory(error):
            raise with_message(
                error,
                f"{what} ran out of memory. The model is unchanged. A lower `rate`, `max_params`, "
                f"or smaller batches take less. {error}",
            ) from error
        if hasattr(error, "add_note"):  # from Python 3.11 on
            error.add_note(f"{what} failed. The model is unchanged.")
        raise


@contextmanager
def unfitting(name: str, model: keras.Model, batch: Any) -> Iterator[None]:
    """Has what fails inside say that a batch doesn't fit the model.

    Args:
        name: Name of the argument that the batch comes from.
        model: The model.
        batch: `(x, y, sample_weight)`.
    """
    try:
        yield
    except (ValueError, TypeError, IndexError, *MISFIT) as error:
        shapes = keras.tree.map_structure(lambda a: getattr(a, "shape", a), batch)
        raise ValueError(
            f"A batch of `{name}` doesn't fit model `{model.name}` and its loss. Pass batches as "
            f"`fit` takes them: inputs of shape {model.input_shape}, and their targets. Received: "
            f"x, y, sample_weight of shapes {shapes}"
        ) from error


def check_finite(model: keras.Model) -> None:
    """Refuses to grow a model whose weights aren't numbers: a growth would copy them.

    Raises:
        ValueError: naming the first such variable.
    """
    for variable in model.variables:
        if keras.backend.is_float_dtype(variable.dtype) and not bool(
            keras.ops.all(keras.ops.isfinite(variable))
        ):
            raise ValueError(
                f"Model `{model.name}` can't grow: its variable `{variable.path}` holds NaN or "
                "infinite values, which a growth would copy. Go back to weights from before, and "
                "train with a lower learning rate or clipped gradients (`clipnorm=`); "
                "`keras.callbacks.TerminateOnNaN()` stops in time. The model is unchanged."
            )
