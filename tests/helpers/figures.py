"""What the tests of figures draw, and how they look into a figure."""

import keras
import numpy as np
from problems import cross_entropy, eager

import keras_grow


def run(epochs=6, seed=0, growths=(2, 4), validation=True):
    rng = np.random.default_rng(seed)
    names = ["accuracy", "loss"] + ["val_accuracy", "val_loss"] * validation
    history = {name: list(rng.uniform(size=epochs)) for name in names}
    history["params"] = [100 + 50 * sum(epoch >= at for at in growths) for epoch in range(epochs)]
    history["similarity"] = list(rng.uniform(size=epochs))
    history["seconds"] = list(rng.uniform(1, 2, size=epochs))
    history["training_flops"] = [1e9 * params for params in history["params"]]
    return {"history": history, "growth": [{"epoch": at} for at in growths]}


def network(width=4, name="net"):
    inputs = x = keras.Input((8, 8, 1))
    for block in (1, 2):
        x = keras.layers.Conv2D(width, 3, padding="same", name=f"conv{block}")(x)
        x = keras.layers.BatchNormalization(name=f"bn{block}")(x)
        x = keras.layers.ReLU(name=f"relu{block}")(x)
        x = keras.layers.MaxPooling2D(name=f"pool{block}")(x)
    x = keras.layers.Conv2D(width, 2, name="conv3")(x)  # 1x1: nothing to look at
    outputs = keras.layers.Dense(3, name="head")(keras.layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, outputs, name=name)


def growable(width=4):
    model = keras_grow.GrowableModel.from_keras(network(width))
    return eager(model, cross_entropy(), "sgd", metrics=["accuracy"])


def images(count=3):
    return np.random.default_rng(0).uniform(size=(count, 8, 8, 1)).astype("float32")


def lines(axes):
    return {line.get_label(): line for line in axes.get_lines()}


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]
