"""The model: GrowableModel, which grows; what it knows of its growths; how it trains.

In comes what a model is asked by its user, beyond what a `keras.Model` is asked.
"""

from keras_grow.model.growable import GrowableModel, check_growable_model

__all__ = ["GrowableModel", "check_growable_model"]
