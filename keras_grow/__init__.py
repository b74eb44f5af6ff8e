"""Grow Keras networks while they train."""

import importlib

from keras_grow import flops, layers, methods, models, plots, runs, schedules, similarity
from keras_grow._version import __version__
from keras_grow.callbacks.backup.callback import GrowthBackup
from keras_grow.callbacks.cost import CostMeter
from keras_grow.callbacks.growth import GrowthCallback
from keras_grow.callbacks.growth_schedules import At, Every, OnPlateau, Schedule
from keras_grow.callbacks.tensorboard import GrowthTensorBoard
from keras_grow.channels.registration import register_layer
from keras_grow.core.widening import Widening
from keras_grow.growing.events import GrowthEvent
from keras_grow.growing.slots import register_slot
from keras_grow.methods import GrowthMethod
from keras_grow.model import GrowableModel
from keras_grow.penalty.similarity_penalty import SimilarityPenalty

__all__ = [
    "At",
    "CostMeter",
    "Every",
    "GrowableModel",
    "GrowthBackup",
    "GrowthCallback",
    "GrowthEvent",
    "GrowthMethod",
    "GrowthTensorBoard",
    "OnPlateau",
    "Schedule",
    "SimilarityPenalty",
    "Widening",
    "__version__",
    "flops",
    "layers",
    "methods",
    "models",
    "plots",
    "register_layer",
    "register_slot",
    "runs",
    "schedules",
    "similarity",
]


def __getattr__(name: str):
    """Imports `keras_grow.tuning` when it is asked for: it needs KerasTuner, nothing else does."""
    if name == "tuning":
        return importlib.import_module("keras_grow.tuning")
    raise AttributeError(f"module 'keras_grow' has no attribute '{name}'")
