"""Small models of the kinds that people build, as they write them: what `sweep.py` grows.

Each function returns a plain Keras model of which nothing is known to this package but layers and
`keras.ops`, and whose outputs are no probabilities: a saturated softmax would hide an error.
"""

from __future__ import annotations

import keras
import zoo_ops
from keras import layers as kl
from keras import ops
from zoo_parts import (
    VOCABULARY,
    ClassToken,
    DropPath,
    Models,
    Positions,
    Sample,
    Scale,
    TokensAndPositions,
    classify,
    image,
    tokens,
)

MODELS = Models()


@MODELS.entry("1-D CNN")
def conv1d():
    x = inputs = keras.Input((16, 2))
    for filters in (8, 12):
        x = kl.Conv1D(filters, 3, padding="same", use_bias=False)(x)
        x = kl.MaxPooling1D()(kl.ReLU()(kl.BatchNormalization()(x)))
    return keras.Model(inputs, kl.Dense(3)(kl.Dense(12, "relu")(kl.Flatten()(x))))


@MODELS.entry("WaveNet-like")
def wavenet():
    inputs = keras.Input((16, 2))
    x, skips = kl.Conv1D(8, 2, padding="causal")(inputs), []
    for dilation in (1, 2, 4):
        y = kl.Conv1D(8, 2, padding="causal", dilation_rate=dilation, activation="tanh")(x)
        gate = kl.Conv1D(8, 2, padding="causal", dilation_rate=dilation, activation="sigmoid")(x)
        y = kl.Multiply()([y, gate])
        skips.append(kl.Conv1D(10, 1)(y))
        x = kl.Add()([x, kl.Conv1D(8, 1)(y)])
    x = kl.ReLU()(kl.Add()(skips))
    return keras.Model(inputs, kl.Conv1D(4, 1)(kl.Conv1D(10, 1, activation="relu")(x)))


@MODELS.entry("3-D CNN")
def conv3d():
    x = inputs = keras.Input((6, 6, 6, 1))
    for filters in (6, 8):
        x = kl.ReLU()(kl.BatchNormalization()(kl.Conv3D(filters, 3, padding="same")(x)))
        x = kl.MaxPooling3D()(x)
    return keras.Model(inputs, kl.Dense(3)(kl.GlobalAveragePooling3D()(x)))


@MODELS.entry("U-Net")
def unet():
    x = inputs = image()
    skips = []
    for filters in (6, 8):
        x = kl.Conv2D(filters, 3, padding="same", activation="relu")(x)
        skips.append(x)
        x = kl.MaxPooling2D()(x)
    x = kl.Conv2D(12, 3, padding="same", activation="relu")(x)
    for filters, skip in zip((8, 6), reversed(skips), strict=True):
        x = kl.Conv2DTranspose(filters, 2, strides=2, padding="same")(x)
        x = kl.Concatenate()([x, skip])
        x = kl.Conv2D(filters, 3, padding="same", activation="relu")(x)
    return keras.Model(inputs, kl.Conv2D(1, 1)(x))


@MODELS.entry("autoencoder")
def autoencoder():
    x = inputs = image(8, 1)
    for filters in (6, 8):
        x = kl.Conv2D(filters, 3, strides=2, padding="same", activation="relu")(x)
    x = kl.Dense(6, "relu")(kl.Flatten()(x))
    x = kl.Reshape((2, 2, 8))(kl.Dense(32, "relu")(x))
    for filters in (8, 6):
        x = kl.Conv2DTranspose(filters, 3, strides=2, padding="same", activation="relu")(x)
    return keras.Model(inputs, kl.Conv2D(1, 3, padding="same")(x))


@MODELS.entry("GAN generator")
def generator():
    inputs = keras.Input((5,))
    x = kl.Reshape((2, 2, 12))(kl.Dense(48, use_bias=False)(inputs))
    for filters in (8, 6):
        x = kl.LeakyReLU()(kl.BatchNormalization()(x))
        x = kl.Conv2DTranspose(filters, 4, strides=2, padding="same", use_bias=False)(x)
    x = kl.LeakyReLU()(kl.BatchNormalization()(x))
    return keras.Model(inputs, kl.Conv2DTranspose(1, 3, padding="same", activation="tanh")(x))


@MODELS.entry("VAE")
def vae():
    x = inputs = image(8, 1)
    for filters in (6, 8):
        x = kl.Conv2D(filters, 3, strides=2, padding="same", activation="relu")(x)
    x = kl.Dense(10, "relu")(kl.Flatten()(x))
    x = Sample()([kl.Dense(4, name="mean")(x), kl.Dense(4, name="log_variance")(x)])
    x = kl.Reshape((2, 2, 8))(kl.Dense(32, "relu")(x))
    for filters in (8, 6):
        x = kl.Conv2DTranspose(filters, 3, strides=2, padding="same", activation="relu")(x)
    return keras.Model(inputs, kl.Conv2DTranspose(1, 3, padding="same")(x))


@MODELS.entry("LSTM classifier")
def lstm():
    inputs = tokens()
    x = kl.LSTM(8, return_sequences=True)(kl.Embedding(VOCABULARY, 6, mask_zero=True)(inputs))
    return keras.Model(inputs, kl.Dense(3)(kl.LSTM(6)(x)))


@MODELS.entry("GRU classifier")
def gru():
    inputs = tokens()
    x = kl.GRU(8)(kl.SpatialDropout1D(0.1)(kl.Embedding(VOCABULARY, 6)(inputs)))
    return keras.Model(inputs, kl.Dense(3)(kl.Dense(6, "relu")(x)))


@MODELS.entry("bidirectional classifier")
def bidirectional():
    inputs = tokens()
    x = kl.Bidirectional(kl.LSTM(5, return_sequences=True))(kl.Embedding(VOCABULARY, 6)(inputs))
    return keras.Model(
        inputs, kl.Dense(3)(kl.GlobalMaxPooling1D()(kl.Bidirectional(kl.GRU(4))(x)[:, None]))
    )


def block(x, heads=2, hidden=16, **attention):
    """A transformer block that normalises what it reads."""
    y = kl.LayerNormalization()(x)
    y = kl.MultiHeadAttention(heads, x.shape[-1] // heads, dropout=0.1)(y, y, **attention)
    x = x + y
    y = kl.Dense(hidden, "gelu")(kl.LayerNormalization()(x))
    return x + kl.Dropout(0.1)(kl.Dense(x.shape[-1])(y))


@MODELS.entry("ViT")
def vit():
    inputs = image()
    x = kl.Reshape((16, 8))(kl.Conv2D(8, 2, strides=2, name="patches")(inputs))
    x = Positions()(ClassToken()(x))
    for _ in range(2):
        x = block(x)
    return keras.Model(inputs, kl.Dense(3)(kl.LayerNormalization()(x)[:, 0]))


@MODELS.entry("text transformer")
def text_transformer():
    inputs = tokens()
    x = TokensAndPositions(8, 8)(inputs)
    x = block(x)
    return classify(inputs, kl.Dense(6, "relu")(kl.LayerNormalization()(x)))


@MODELS.entry("text transformer, normalised sums")
def post_norm_transformer():
    inputs = tokens()
    x = TokensAndPositions(8, 8)(inputs)
    x = kl.LayerNormalization()(x + kl.MultiHeadAttention(2, 4)(x, x))
    x = kl.LayerNormalization()(x + kl.Dense(8)(kl.Dense(16, "relu")(x)))
    return classify(inputs, kl.Dense(6, "relu")(x))


@MODELS.entry("MLP-Mixer")
def mixer():
    inputs = image()
    x = kl.Reshape((16, 8))(kl.Conv2D(8, 2, strides=2)(inputs))
    for _ in range(2):
        y = kl.Permute((2, 1))(kl.LayerNormalization()(x))
        x = x + kl.Permute((2, 1))(kl.Dense(16)(kl.Dense(12, "gelu")(y)))
        x = x + kl.Dense(8)(kl.Dense(12, "gelu")(kl.LayerNormalization()(x)))
    return classify(inputs, kl.LayerNormalization()(x))


@MODELS.entry("GPT-like")
def gpt():
    inputs = tokens()
    x = TokensAndPositions(8, 8)(inputs)
    for _ in range(2):
        x = block(x, use_causal_mask=True)
    return keras.Model(inputs, kl.Dense(VOCABULARY)(kl.LayerNormalization()(x)))


@MODELS.entry("GPT-like, tied embedding")
def tied_gpt():
    inputs, embedding = tokens(), kl.ReversibleEmbedding(VOCABULARY, 8)
    x = Positions()(embedding(inputs))
    for _ in range(2):
        x = block(x, use_causal_mask=True)
    return keras.Model(inputs, embedding(kl.LayerNormalization()(x), reverse=True))


@MODELS.entry("ResNeXt block")
def resnext():
    inputs = image()
    x = kl.Conv2D(12, 3, padding="same", activation="relu")(inputs)
    y = kl.ReLU()(kl.BatchNormalization()(kl.Conv2D(8, 1)(x)))
    y = kl.ReLU()(kl.BatchNormalization()(kl.Conv2D(8, 3, padding="same", groups=4)(y)))
    y = kl.BatchNormalization()(kl.Conv2D(12, 1)(y))
    return classify(inputs, kl.ReLU()(kl.Add()([x, y])))


@MODELS.entry("GroupNormalization net")
def group_normalization():
    x = inputs = image()
    for filters in (8, 12):
        x = kl.Conv2D(filters, 3, padding="same")(x)
        x = kl.Activation("silu")(kl.GroupNormalization(4)(x))
    return classify(inputs, x)


@MODELS.entry("siamese")
def siamese():
    inputs = [image(), image()]
    encoder = keras.Sequential(
        [image(), kl.Conv2D(6, 3, activation="relu"), kl.Flatten(), kl.Dense(8)], name="encoder"
    )
    left, right = map(encoder, inputs)
    x = kl.Dense(6, "relu")(ops.abs(left - right))
    return keras.Model(inputs, kl.Dense(1)(x))


@MODELS.entry("transfer learning")
def transfer():
    inner = image()
    x = kl.ReLU()(kl.BatchNormalization()(kl.Conv2D(8, 3)(inner)))
    base = keras.Model(inner, kl.Conv2D(10, 3, activation="relu")(x), name="base")
    inputs = image()
    x = kl.GlobalAveragePooling2D()(base(kl.RandomFlip()(kl.Rescaling(0.5)(inputs))))
    return keras.Model(inputs, kl.Dense(3)(kl.Dense(6, "relu")(kl.Dropout(0.2)(x))))


@MODELS.entry("Sequential in Functional")
def sequential_inside():
    inputs = keras.Input((6,))
    tower = keras.Sequential([kl.Dense(8, "relu"), kl.Dense(6, "relu")])
    return keras.Model(inputs, kl.Dense(2)(kl.Dense(5, "tanh")(tower(inputs))))


@MODELS.entry("TimeDistributed")
def time_distributed():
    inputs = keras.Input((4, 6, 6, 2))
    x = kl.TimeDistributed(kl.Conv2D(6, 3, activation="relu"))(inputs)
    x = kl.TimeDistributed(kl.GlobalAveragePooling2D())(x)
    return keras.Model(inputs, kl.Dense(3)(kl.LSTM(6)(x)))


@MODELS.entry("ConvLSTM")
def conv_lstm():
    inputs = keras.Input((3, 6, 6, 2))
    x = kl.ConvLSTM2D(4, 3, padding="same", return_sequences=True)(inputs)
    x = kl.ConvLSTM2D(3, 3, padding="same")(kl.BatchNormalization()(x))
    return keras.Model(inputs, kl.Conv2D(1, 1)(kl.Conv2D(4, 3, padding="same")(x)))


@MODELS.entry("SpectralNormalization net")
def spectral():
    x = inputs = image()
    for filters in (6, 8):
        x = kl.SpectralNormalization(kl.Conv2D(filters, 3, strides=2, padding="same"))(x)
        x = kl.LeakyReLU()(x)
    return keras.Model(inputs, kl.SpectralNormalization(kl.Dense(1))(kl.Flatten()(x)))


@MODELS.entry("separable net")
def separable():
    x = inputs = image()
    for filters in (16, 24):
        x = kl.SeparableConv2D(filters, 3, padding="same", use_bias=False)(x)
        x = kl.ReLU()(kl.BatchNormalization()(x))
    return classify(inputs, x)


@MODELS.entry("ConvNeXt block")
def convnext():
    inputs = image()
    x = kl.LayerNormalization()(kl.Conv2D(8, 2, strides=2)(inputs))
    for _ in range(2):
        y = kl.LayerNormalization()(kl.DepthwiseConv2D(3, padding="same")(x))
        y = kl.Dense(8)(kl.Dense(16, "gelu")(y))
        x = x + DropPath()(Scale()(y))
    return keras.Model(inputs, kl.Dense(3)(kl.LayerNormalization()(kl.GlobalAveragePooling2D()(x))))


MODELS |= zoo_ops.MODELS
