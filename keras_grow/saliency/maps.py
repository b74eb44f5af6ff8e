"""Where a network looks: saliency maps, by tf-keras-vis where TensorFlow is Keras's backend."""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_grow.backend import RUNS_TENSORFLOW_LIBRARIES
from keras_grow.core.float32_copy import in_float32
from keras_grow.saliency.gradcam import gradcam

SALIENCY_METHODS = {"gradcam": "Grad-CAM", "gradcam++": "Grad-CAM++", "scorecam": "Score-CAM"}
MASKED_VALUES = 2**24  # that Score-CAM holds at a time: an image is masked once per channel


def saliency_maps(
    model: keras.Model,
    images: Any,
    classes: Sequence[int],
    method: str = "gradcam",
    layer: int | str | None = None,
) -> np.ndarray:
    """Computes which places of an image speak for a class.

    Args:
        model: A Functional or Sequential model with one input and one output, a logit a class.
            What it computes in half precision is computed in float32 here.
        images: Array of shape `(images, height, width, channels)`, as the model takes it.
        classes: One class index an image.
        method: `"gradcam"`, `"gradcam++"` or `"scorecam"`.
        layer: Where to look, see `feature_layer`.

    Returns:
        Maps `(images, height, width)`, each scaled by itself to [0, 1]; all zero where nothing
        speaks for the class.

    Raises:
        ValueError: if the model has no such layer, or the arguments do not fit together, or a
            method other than Grad-CAM is asked for on another backend than TensorFlow.
    """
    images = keras.ops.convert_to_numpy(images).astype("float32")
    if method not in SALIENCY_METHODS:
        raise ValueError(f"`method` must be one of {[*SALIENCY_METHODS]}. Received: {method!r}")
    _check_images(model, images, classes)
    model = in_float32(model)  # half precision hides differences, and stops Score-CAM
    features = feature_layer(model, layer)
    size = 100
    if method == "scorecam":
        size = max(1, MASKED_VALUES // (features.output.shape[-1] * images[0].size))
    batches = [slice(start, start + size) for start in range(0, len(images), size)]
    if not RUNS_TENSORFLOW_LIBRARIES:
        maps = [_own_maps(method, model, images[b], classes[b], features) for b in batches]
        return np.concatenate(maps)
    with _quietly():
        explain = _explainer(method, model)
        maps = [_maps(explain, images[b], classes[b], features) for b in batches]
    return np.concatenate(maps)


def feature_layer(model: keras.Model, layer: int | str | None = None) -> keras.Layer:
    """Returns the layer whose outputs a saliency map weighs.

    Args:
        model: A Functional or Sequential model.
        layer: Name of the layer; or the number of a convolution, counted from 1 in the model's
            order, for what it gives once normalised and activated. By default the last convolution
            whose features have 4 x 4 positions or more (2 x 2 say no more than a quarter of the
            image), or, without one, the most positions.

    Raises:
        ValueError: if the model has no such layer, or no features with positions.
    """
    layers = [each for each in model.layers if not isinstance(each, keras.Model)]
    found = [each for each in layers if isinstance(each, keras.layers.Conv2D) and _positions(each)]
    if not found:
        need = "A saliency map needs a Conv2D layer with more than one position"
        raise ValueError(f"{need}, which model {model.name!r} lacks.")
    if layer is None:
        fine = [each for each in found if min(_positions(each)) >= 4]
        most = max(found, key=lambda each: math.prod(_positions(each)))
        return _activated(layers, fine[-1] if fine else most)
    if isinstance(layer, int) and 1 <= layer <= len(found):
        return _activated(layers, found[layer - 1])
    for each in layers:
        if each.name == layer and _positions(each):
            return each
    known = ", ".join(f"{number} {each.name!r}" for number, each in enumerate(found, start=1))
    raise ValueError(
        f"Model {model.name!r} has no such `layer` with more than one position: {layer!r}. Its "
        f"convolutions are: {known}."
    )


def _positions(layer: keras.Layer) -> tuple | None:
    """Height and width of a layer's outputs, or `None` where they are less than two positions."""
    shape = getattr(layer.output, "shape", ())
    if len(shape) != 4 or None in shape[1:3] or math.prod(shape[1:3]) < 2:
        return None
    return tuple(shape[1:3])


def _activated(layers: Sequence[keras.Layer], convolution: keras.Layer) -> keras.Layer:
    """Returns the last layer that follows a convolution at its size, before the next kernel."""
    features = convolution
    for layer in layers[layers.index(convolution) + 1 :]:
        if hasattr(layer, "kernel") or _positions(layer) != _positions(convolution):
            break
        features = layer
    return features


def _check_images(model: keras.Model, images: np.ndarray, classes: Sequence[int]) -> None:
    if images.ndim != 4 or len(images) != len(classes) or len(classes) == 0:
        raise ValueError(
            "`images` must have shape (images, height, width, channels), and `classes` one class "
            f"an image. Received: shape {images.shape} and {len(classes)} classes"
        )
    inputs, outputs = getattr(model, "inputs", None) or [], getattr(model, "outputs", None) or []
    if len(inputs) != 1 or len(outputs) != 1:
        raise ValueError(
            f"Model {model.name!r} must be a Functional or Sequential one with one input and one "
            f"output. Received: {len(inputs)} inputs, {len(outputs)} outputs"
        )
    wanted, given = tuple(inputs[0].shape[1:]), images.shape[1:]
    if len(wanted) != 3 or any(
        size not in (None, here) for size, here in zip(wanted, given, strict=True)
    ):
        raise ValueError(
            f"Model {model.name!r} takes inputs of shape {wanted}. Received: images of shape "
            f"{given}"
        )
    count = outputs[0].shape[-1]
    if not 0 <= min(classes) <= max(classes) < count:
        known = f"0 to {count - 1}, the outputs of model {model.name!r}"
        raise ValueError(f"`classes` must be from {known}. Received: classes={list(classes)}")


def _explainer(method: str, model: keras.Model) -> Callable:
    try:
        from tf_keras_vis.gradcam import Gradcam
        from tf_keras_vis.gradcam_plus_plus import GradcamPlusPlus
        from tf_keras_vis.scorecam import Scorecam
    except ImportError as error:
        hint = "Saliency maps need tf-keras-vis: pip install tf-keras-vis scipy"
        raise ImportError(hint) from error
    kind = {"gradcam": Gradcam, "gradcam++": GradcamPlusPlus, "scorecam": Scorecam}[method]
    return kind(model, clone=False)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Holds back what is no news to the caller.

    tf-keras-vis imports from SciPy's old namespace and passes inputs in a list, and Score-CAM lets
    `predict` print its progress bar.
    """
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.filterwarnings("ignore", message="Please import `zoom`")
        warnings.filterwarnings("ignore", message="The structure of `inputs`")
        yield


def _own_maps(method: str, model: keras.Model, images, classes, features) -> np.ndarray:
    if method != "gradcam":
        raise ValueError(
            f"{SALIENCY_METHODS[method]} is computed by tf-keras-vis, which needs TensorFlow as "
            "Keras's backend: set KERAS_BACKEND=tensorflow, or use 'gradcam'. Received: "
            f"method={method!r}"
        )
    return gradcam(keras.Model(model.inputs, model.outputs[0]), images, classes, features)


def _maps(explain: Callable, images: np.ndarray, classes: Sequence[int], features) -> np.ndarray:
    maps = explain(
        lambda logits: [logits[row, each] for row, each in enumerate(classes)],
        images,
        penultimate_layer=features,
        seek_penultimate_conv_layer=False,
    )
    return np.asarray(maps)
