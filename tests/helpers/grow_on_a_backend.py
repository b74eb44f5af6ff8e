"""A small network grown twice within `fit`, on whichever backend Keras has.

By every method, and by one with every penalty.

    KERAS_BACKEND=jax python grow_on_a_backend.py problem.npz grown.npz

A problem is data, and weights for the network: both backends start from the same ones.
"""

import sys

import keras
import numpy as np

from keras_grow import GrowableModel, GrowthCallback, GrowthMethod, SimilarityPenalty, methods
from keras_grow.layers import (
    GrowableBatchNormalization,
    GrowableConv2D,
    GrowableDense,
    GrowableDepthwiseConv2D,
)
from keras_grow.penalty.measures import MEASURES
from keras_grow.penalty.similarity_penalty import PER

BATCH = 16
# Name -> the growth method, and what similar neurons cost after a growth.
CASES = {name: (name, None) for name in methods.NAMES} | {
    f"{measure} per {per}": ("random", SimilarityPenalty(0.1, 0.01, 1, measure=measure, per=per))
    for measure in MEASURES
    for per in PER
}
CASES["relative"] = "random", SimilarityPenalty(0.1, 0.01, 1, relative=True)


def network():
    tensor = keras.Input((6, 6, 2))
    x = GrowableConv2D(4, 3, padding="same", use_bias=False, name="conv")(tensor)
    x = GrowableBatchNormalization(name="conv_bn")(x)
    x = keras.layers.ReLU(name="conv_relu")(x)
    x = GrowableDepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = GrowableBatchNormalization(name="depthwise_bn")(x)
    x = keras.layers.MaxPooling2D(name="pool")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    x = GrowableDense(5, activation="tanh", name="dense")(x)
    return GrowableModel(tensor, keras.layers.Dense(3, name="head")(x))


def problem(seed=0):
    """Returns name -> array: data, and a value for each weight of the network."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(3 * BATCH, 6, 6, 2)).astype("float32")
    arrays = {"x": x, "y": (x[:, :, :3, 0].sum((1, 2)) > 0) + 1 * (x[:, 0, 0, 1] > 0)}
    for number, weight in enumerate(network().weights):
        value = rng.normal(0, 0.4, weight.shape)
        arrays[f"weight{number}"] = np.abs(value) + 0.5 if "variance" in weight.path else value
    return arrays


class Recorder(GrowthMethod):
    """A method that keeps what another one chooses."""

    name = "recorder"
    needs_data = True

    def __init__(self, method):
        super().__init__(seed=3)
        self.method, self.choices = method, []

    def choose(self, graph, budget, rng, data=None):
        chosen = self.method.choose(graph, budget, rng, data)
        self.choices += chosen
        return chosen


def grow(arrays):
    """Returns what every method makes of a problem, as arrays by name."""
    grown = {"backend": np.array(keras.config.backend())}
    for name, (method, penalty) in CASES.items():
        model = network()
        model.set_weights([arrays[f"weight{i}"] for i in range(len(model.weights))])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.02, momentum=0.9), loss)
        method = Recorder(methods.get(method))
        callback = GrowthCallback(0.4, every=1, method=method, penalty=penalty, verbose=0)
        logs = model.fit(
            arrays["x"],
            arrays["y"],
            batch_size=BATCH,
            epochs=3,
            shuffle=False,
            callbacks=[callback],
            verbose=0,
        )
        for each in ("loss", "penalty", "weight_drift", "similarity"):
            grown[f"{name}/{each}"] = np.array(logs.history[each])
        for number, widening in enumerate(method.choices):
            grown[f"{name}/{number}/sources/{widening.group}"] = widening.sources
            for side in ("incoming", "outgoing"):
                for path, added in getattr(widening, side).items():
                    grown[f"{name}/{number}/{side}/{path}"] = np.asarray(added)
    return grown


if __name__ == "__main__":
    with np.load(sys.argv[1]) as given:
        np.savez(sys.argv[2], **grow(dict(given)))
