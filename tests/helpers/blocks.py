"""Models that get deeper, and blocks to put into them."""

import keras
import numpy as np
from networks import batch

from keras_grow import GrowableModel
from keras_grow.layers import GrowableDense

OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.05, momentum=0.9),
    "adam": lambda: keras.optimizers.Adam(0.01, amsgrad=True, use_ema=True),
    "accumulating": lambda: keras.optimizers.RMSprop(0.01, gradient_accumulation_steps=2),
    "adafactor": lambda: keras.optimizers.Adafactor(0.01),
    "ftrl": lambda: keras.optimizers.Ftrl(0.01),
    "nadam": lambda: keras.optimizers.Nadam(0.01),
    "scaled": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01)),
}


def by_layer():
    """An optimizer for each layer, of which a function makes another whenever it is asked."""
    made = keras.optimizers.Adam(0.01)
    return keras.optimizers.MultiOptimizer(
        lambda v: made if "hidden1" in v.path else keras.optimizers.SGD(0.05, momentum=0.9)
    )


if hasattr(keras.optimizers, "MultiOptimizer"):
    OPTIMIZERS["by layer"] = by_layer


def relu_mlp(hidden=(4, 4)):
    x = inputs = keras.Input((5,))
    for number, units in enumerate(hidden):
        x = GrowableDense(units, activation="relu", name=f"hidden{number}")(x)
    return GrowableModel(inputs, keras.layers.Dense(2, name="head")(x))


def compiled(model, optimizer="sgd"):
    model.compile(OPTIMIZERS[optimizer](), "mse", run_eagerly=True)
    return model


def data_of(model):
    x = batch(model)
    y = np.random.default_rng(3).normal(size=(8, *model.output_shape[1:]))
    return x, y.astype("float32")


def train(model, data=None):
    model.fit(*(data_of(model) if data is None else data), verbose=0)
    return model


def outputs(model, x=None):
    return keras.ops.convert_to_numpy(model(batch(model) if x is None else x, training=False))


def branch(x):
    y = keras.layers.Dense(6, activation="tanh")(x)
    return keras.layers.Dense(x.shape[-1])(y)


def conv_branch(x):
    y = keras.layers.BatchNormalization()(x)
    y = keras.layers.Conv2D(3, 3, padding="same", activation="relu")(y)
    y = keras.layers.Conv2D(x.shape[-1], 3, padding="same")(y)
    return keras.layers.Dropout(0.2)(keras.layers.BatchNormalization()(y))


def attention_branch(x):
    y = keras.layers.LayerNormalization()(x)
    return keras.layers.MultiHeadAttention(2, 3)(y, y)
