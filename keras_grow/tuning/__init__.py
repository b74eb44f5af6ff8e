"""Searching with KerasTuner: how to grow as hyperparameters, and tuners that keep grown models.

In comes what needs KerasTuner; nothing else of the package imports it.
"""

from keras_grow.tuning.hypermodel import GrowthHyperModel
from keras_grow.tuning.trials import by_value, curves, describe, longest
from keras_grow.tuning.tuners import (
    BayesianOptimization,
    GridSearch,
    GrowthTuner,
    Hyperband,
    RandomSearch,
)

__all__ = [
    "BayesianOptimization",
    "GridSearch",
    "GrowthHyperModel",
    "GrowthTuner",
    "Hyperband",
    "RandomSearch",
    "by_value",
    "curves",
    "describe",
    "longest",
]
