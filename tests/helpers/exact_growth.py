"""What every model has to go through: exact growths, training, saving, conversion."""

import keras
import numpy as np
from networks import randomise, relative_change

from keras_grow import GrowableModel
from keras_grow.methods import Net2Wider, Random


def grown_exactly(make, x, y, path, rate=0.6, method=None):
    """Grows a model of plain layers exactly, and checks all that has to hold.

    Args:
        make: Takes widths by group and returns the model at these; without any at its first ones.
        x: Inputs.
        y: Targets.
        path: A folder to save in.

    Returns:
        The model that has grown.
    """
    model = GrowableModel.from_keras(randomise(make()))
    model.compile("adam", "mse", run_eagerly=True)
    model.train_on_batch(x, y)
    before = model(x)
    model.grow(rate, method or Net2Wider(noise=0, seed=0))
    assert model.growth_history[-1].widths_before != model.widths
    assert relative_change(before, model(x)) < 1e-4
    fresh = make(**model.widths)
    assert [v.shape for v in model.weights] == [v.shape for v in fresh.weights]
    assert [t.shape for t in model.outputs] == [t.shape for t in fresh.outputs]
    model.train_on_batch(x, y)
    assert [v.shape for v in model.optimizer.variables[2::2]] == [
        v.shape for v in model.trainable_weights
    ]
    model.save(path / "grown.keras")
    plain = model.to_keras()
    plain.save(path / "plain.keras")
    own = [type(layer).__module__ for layer in plain._flatten_layers()]
    assert not any(module.startswith("keras_grow") for module in own)
    for other in (plain, *map(keras.saving.load_model, map(str, path.glob("*.keras")))):
        assert relative_change(model(x), other(x)) < 1e-5
    return model


def grown_both_ways(make, x, y, path, rate=0.6):
    """Does the same by copies and by fresh neurons, and returns the widths."""
    grown = [
        grown_exactly(make, x, y, path, rate, method)
        for method in (Net2Wider(noise=0, seed=0), Random(seed=0))
    ]
    return grown[0].widths


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")
