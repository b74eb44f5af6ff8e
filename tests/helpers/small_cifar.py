"""A few hundred real handwritten digits that pass for CIFAR, and a network that trains in a second.

As an `.npz` file, or as a TFDS folder whose records the stock builder writes, from binary files in
CIFAR's own layout and without a network.
"""

import importlib
import sys
from pathlib import Path

import keras
import numpy as np
from sklearn.datasets import load_digits

import keras_grow
from keras_grow.layers import GrowableBatchNormalization, GrowableConv2D

RECIPES = Path(__file__).parents[2] / "recipes"


def recipe(name: str):
    """Imports a recipe the way that running one does: from its folder."""
    if str(RECIPES) not in sys.path:
        sys.path.insert(0, str(RECIPES))
    return importlib.import_module(name)


def images(examples: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns digits as uint8 `(examples, 32, 32, 3)`, a shade per channel, and their labels."""
    digits = load_digits()
    grey = np.kron(digits.images[:examples] * 255 / 16, np.ones((4, 4)))
    shades = grey[..., None] * np.array([1.0, 0.8, 0.6])
    return shades.astype(np.uint8), digits.target[:examples]


def write_npz(folder: Path, name: str, train: int, test: int) -> Path:
    """Writes a data set as recipes read it, and returns the file."""
    x, y = images(train + test)
    arrays = {"x_train": x[:train], "y_train": y[:train], "x_test": x[train:], "y_test": y[train:]}
    np.savez(folder / f"{name}.npz", **arrays)
    return folder / f"{name}.npz"


def small_network(width=4, classes=10, input_shape=(32, 32, 3), widths=None):
    """A network with the signature of the recipe's own."""
    width = (widths or {}).get("conv1", width)
    inputs = keras.Input(input_shape)
    x = GrowableConv2D(width, 8, strides=8, use_bias=False, name="conv1")(inputs)
    x = keras.layers.ReLU()(GrowableBatchNormalization(name="bn1")(x))
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras_grow.GrowableModel(inputs, keras.layers.Dense(classes, name="head")(x))


def rows(pixels: np.ndarray, *labels: np.ndarray) -> np.ndarray:
    """Returns CIFAR's binary layout: label bytes, then the image as three planes."""
    planes = pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1)
    return np.concatenate([*(label[:, None] for label in labels), planes], 1).astype(np.uint8)


def write_tfds(folder: Path, name: str, train: int, test: int, patch) -> Path:
    """Prepares a data set in `folder / "tfds"`, and returns that path.

    Args:
        folder: An empty folder.
        name: "cifar10" or "cifar100".
        train: Number of training examples.
        test: Number of test examples.
        patch: A `pytest.MonkeyPatch`.
    """
    import tensorflow_datasets as tfds

    pixels, labels = images(train + test)
    {"cifar10": _binary10, "cifar100": _binary100}[name](folder, pixels, labels, train)
    patch.setattr(tfds.download.DownloadManager, "download_and_extract", lambda self, url: folder)
    builder = tfds.builder(name, data_dir=folder / "tfds", try_gcs=False)
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False)
    )
    return folder / "tfds"


def _binary10(folder: Path, pixels, labels, train: int) -> None:
    root = folder / "cifar-10-batches-bin"
    root.mkdir()
    for number, part in enumerate(np.array_split(rows(pixels, labels)[:train], 5), start=1):
        part.tofile(root / f"data_batch_{number}.bin")
    rows(pixels, labels)[train:].tofile(root / "test_batch.bin")
    (root / "batches.meta.txt").write_text("\n".join(f"digit {n}" for n in range(10)))


def _binary100(folder: Path, pixels, labels, train: int) -> None:
    root = folder / "cifar-100-binary"
    root.mkdir()
    content = rows(pixels, labels // 5, labels * 11)
    content[:train].tofile(root / "train.bin")
    content[train:].tofile(root / "test.bin")
    for kind, names in (("coarse", 20), ("fine", 100)):
        (root / f"{kind}_label_names.txt").write_text("\n".join(str(n) for n in range(names)))
