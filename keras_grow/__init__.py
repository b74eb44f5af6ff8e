"""Grow Keras networks while they train."""

from keras_grow import layers, methods, models, plots, schedules, similarity
from keras_grow._version import __version__
from keras_grow.callbacks import GrowthCallback
from keras_grow.events import GrowthEvent
from keras_grow.growth_schedules import At, Every, OnPlateau, Schedule
from keras_grow.methods import GrowthMethod
from keras_grow.model import GrowableModel
from keras_grow.similarity import SimilarityPenalty
from keras_grow.widening import Widening

__all__ = [
    "At",
    "Every",
    "GrowableModel",
    "GrowthCallback",
    "GrowthEvent",
    "GrowthMethod",
    "OnPlateau",
    "Schedule",
    "SimilarityPenalty",
    "Widening",
    "__version__",
    "layers",
    "methods",
    "models",
    "plots",
    "schedules",
    "similarity",
]
