"""Grad-CAM by its formula, on any backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_grow.backend import compiled, vjp
from keras_grow.core.keras_private import run_calls, shapes_within


def gradcam(
    model: keras.Model, images: Any, classes: Sequence[int], features: keras.Layer
) -> np.ndarray:
    """Computes Grad-CAM maps.

    The channels of a layer's outputs, weighted by the mean over positions of the gradient of the
    class's output with respect to them; what speaks against the class counts as zero.

    Args:
        model: A Functional model with one input and one output, a logit a class.
        images: Array of shape `(images, height, width, channels)`.
        classes: One class index an image.
        features: The layer.

    Returns:
        Maps of shape `(images, height, width)`, at the size of the images by linear interpolation,
        each scaled by itself to [0, 1].

    Reference:
        Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
        Localization, 2017, Eq. 1 and 2.
    """
    try:
        from scipy.ndimage import zoom
    except ImportError as error:
        raise ImportError("Saliency maps need SciPy: pip install scipy") from error
    target = features.output
    chosen = np.eye(model.output_shape[-1], dtype="float32")[np.asarray(classes)]

    def coarse_maps(images, chosen, zeros):
        def scores(shift):
            def shifted(tensor, value):
                return value + shift if tensor is target else value

            outputs, values = run_calls(model, images, shifted)
            return ops.sum(outputs * chosen), values[id(target)]

        # The gradient with respect to features is that with respect to zeros added to them.
        score, pullback, activations = vjp(scores, [zeros], has_aux=True)
        (gradient,) = pullback(ops.ones_like(score))
        weights = ops.mean(gradient, axis=(1, 2), keepdims=True)
        return ops.relu(ops.sum(weights * activations, axis=-1))

    shape = shapes_within(model, [images.shape])[id(target)]
    coarse = ops.convert_to_numpy(compiled(coarse_maps)(images, chosen, np.zeros(shape, "float32")))
    factors = (1, *np.divide(images.shape[1:3], coarse.shape[1:]))
    maps = zoom(coarse, factors, order=1)
    low, high = (f(maps, axis=(1, 2), keepdims=True) for f in (np.min, np.max))
    return np.divide(maps - low, high - low, out=np.zeros_like(maps), where=high > low)
