"""A `fit` that goes back to an earlier width: by `EarlyStopping`, and in the middle of it."""

import keras
import numpy as np
import pytest
from networks import mlp
from problems import compiled, problem
from states import assert_same_arrays

from keras_grow import At, GrowthCallback, SimilarityPenalty
from keras_grow.methods import Net2Wider


def growing(epochs, penalty=None):
    return GrowthCallback(0.5, At(epochs), Net2Wider(seed=1), penalty, verbose=0)


def uphill(model, **options):
    """The first epoch is the best."""
    return compiled(model, **options, optimizer=keras.optimizers.SGD(-0.01, momentum=0.5))


def stopping(**arguments):
    return keras.callbacks.EarlyStopping("loss", restore_best_weights=True, **arguments)


@pytest.mark.parametrize("stops", [False, True])
@pytest.mark.quick(1)
def test_early_stopping_goes_back_to_the_best_width(stops):
    # Eagerly where the other one shows that compiled functions are made anew.
    model, never = (uphill(mlp(), run_eagerly=stops) for _ in range(2))
    never.set_weights(model.get_weights())
    x, y = problem(model)
    never.fit(x, y, epochs=2, verbose=0, shuffle=False)
    best = stopping(patience=2 if stops else 9, start_from_epoch=1)
    penalty = SimilarityPenalty(weight=0.01, epochs=9)
    history = model.fit(x, y, epochs=5, verbose=0, shuffle=False,
                        callbacks=[growing([2, 3], penalty=penalty), best])  # fmt: skip
    assert len(history.epoch) == (4 if stops else 5) and best.best_epoch == 1
    assert model.widths == never.widths and model.growth_history == []
    assert_same_arrays(model.get_weights(), never.get_weights())
    assert model.evaluate(x, y, verbose=0) == pytest.approx(never.evaluate(x, y, verbose=0))
    assert model.penalty_window is None
    model.fit(x, y, epochs=3, verbose=0, callbacks=[growing([1])])  # and grows again
    assert model.neurons == 10


def test_early_stopping_where_the_widest_is_the_best():
    model = compiled(mlp(), optimizer=keras.optimizers.SGD(0.01))
    x, y = problem(model)
    best = stopping(patience=9)
    model.fit(x, y, epochs=3, verbose=0, callbacks=[growing([1]), best])
    assert best.best_epoch == 2 and len(model.growth_history) == 1
    assert_same_arrays(model.get_weights(), best.best_weights)


class GoesBack(keras.callbacks.Callback):
    """Puts the weights of the first epoch back after the third one, and goes on."""

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 0:
            self.weights = self.model.get_weights()
        if epoch == 2:
            self.model.set_weights(self.weights)


@pytest.mark.long
def test_going_back_while_fit_runs():
    model, never = (compiled(mlp(), optimizer=keras.optimizers.SGD(0.05)) for _ in range(2))
    never.set_weights(model.get_weights())
    x, y = problem(model)
    callbacks = [growing([1, 2], penalty=SimilarityPenalty(epochs=2)), GoesBack()]
    history = model.fit(x, y, epochs=5, verbose=0, shuffle=False, callbacks=callbacks)
    losses = never.fit(x, y, epochs=3, verbose=0, shuffle=False).history["loss"]
    np.testing.assert_allclose(history.history["loss"][3:], losses[1:], rtol=1e-5)
    assert history.history["weight_drift"][3:] == [0, 0]
    assert_same_arrays(model.get_weights(), never.get_weights())
