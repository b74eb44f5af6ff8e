"""Where a network looks: saliency maps, and what they are worth in numbers.

In comes what explains a trained network; growing has no part in it.
"""

from keras_grow.saliency.maps import SALIENCY_METHODS, feature_layer, saliency_maps
from keras_grow.saliency.measures import (
    Estimate,
    area,
    blurred,
    coverage,
    estimate,
    probability_curve,
    ranks,
    replaced,
)

__all__ = [
    "SALIENCY_METHODS",
    "Estimate",
    "area",
    "blurred",
    "coverage",
    "estimate",
    "feature_layer",
    "probability_curve",
    "ranks",
    "replaced",
    "saliency_maps",
]
