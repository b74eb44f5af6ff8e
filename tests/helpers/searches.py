"""A small search for tests of KerasTuner: what it trains, on what, and what stops it."""

import keras
import numpy as np
from networks import mlp

from keras_grow import tuning

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 5)).astype("float32")
Y = np.tanh(X @ RNG.normal(size=(5, 2))).astype("float32")
SPLITS = {"x": X[:32], "y": Y[:32], "validation_data": (X[32:], Y[32:]), "shuffle": False}


def build(hp=None):
    model = mlp()
    model.compile(keras.optimizers.Adam(0.05), "mse", run_eagerly=True)
    return model


def hypermodel(**given):
    settings = {"method": "net2wider", "rate": 0.5, "every": 1, "penalty_epochs": 1, "seed": 3}
    return tuning.GrowthHyperModel(build, **{**settings, "weight": 0.1, **given})


def search(folder, tuner=tuning.RandomSearch, model=None, epochs=3, callbacks=(), **given):
    if tuner is tuning.Hyperband:
        given = {"seed": 1, "min_epochs": 1, **given}
    elif tuner is not tuning.GridSearch:
        given = {"max_trials": 2, "seed": 1, **given}
    given = {"objective": "val_loss", "directory": folder, "project_name": "search", **given}
    tuner = tuner(model or hypermodel(), **given)
    tuner.search(**SPLITS, epochs=epochs, batch_size=32, verbose=0, callbacks=list(callbacks))
    return tuner


class Interrupt(keras.callbacks.Callback):
    """Stops the program at `(fit, epoch)`. KerasTuner copies it, so the class counts the fits."""

    fits = 0

    def __init__(self, at):
        super().__init__()
        self.at = at

    def on_epoch_begin(self, epoch, logs=None):
        Interrupt.fits += epoch == 0
        if (Interrupt.fits, epoch) == self.at:
            raise KeyboardInterrupt
