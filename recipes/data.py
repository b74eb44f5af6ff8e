"""CIFAR-10 and CIFAR-100: real images, from TensorFlow Datasets or from `.npz` files, in batches.

The images are read once and kept as uint8. An epoch shuffles indices, and whole batches are
cropped, flipped and normalised at once: on TensorFlow by a `tf.data` pipeline, on JAX by a compiled
function on the device, where the images live.

An `.npz` file holds `x_train`, `y_train`, `x_test` and `y_test`, as `keras.datasets` returns them;
the images may be in another order than in TensorFlow Datasets.
"""

from __future__ import annotations

import argparse
import importlib.util
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np


class DataError(RuntimeError):
    """The data set is not there, and could not be fetched."""


class Statistics(NamedTuple):
    """Mean and standard deviation of each channel over a training split, pixels from 0 to 1."""

    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]


STATISTICS = {
    "cifar10": Statistics((0.49140, 0.48216, 0.44653), (0.24703, 0.24349, 0.26159)),
    "cifar100": Statistics((0.50708, 0.48655, 0.44092), (0.26733, 0.25644, 0.27615)),
}
CLASSES = {
    "cifar10": "airplane automobile bird cat deer dog frog horse ship truck".split(),
    "cifar100": """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy
        bridge bus butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud
        cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl
        hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
        motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear
        pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket
        rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar sunflower
        sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
        wardrobe whale willow_tree wolf woman worm""".split(),
}


class Split(NamedTuple):
    """Images, uint8 `(examples, 32, 32, 3)`, and their labels, int32 `(examples,)`."""

    images: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Data:
    """What a recipe trains on.

    Attributes:
        train: Batches `(images, labels)`, in another order and with other crops in each epoch;
            images float32 `(batch, 32, 32, 3)`, normalised. The last batch holds the remainder.
        test: Batches of the test split, in order, not augmented.
        validation: Batches held out from the training split, or `None`.
        classes: Number of classes.
        train_examples: Number of examples in `train`.
        callbacks: What `fit` needs so that each epoch has its own order.
    """

    train: Any
    test: Any
    validation: Any
    classes: int
    train_examples: int
    callbacks: list[keras.callbacks.Callback] = field(default_factory=list)
    input_shape: tuple[int, int, int] = (32, 32, 3)

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches in `train`."""
        return len(self.train)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what to read, and where it is."""
    add = parser.add_argument
    add("--dataset", choices=list(STATISTICS), default="cifar10", help="which images")
    where = "an .npz file, a folder with <dataset>.npz, or a folder of TensorFlow Datasets"
    add("--data", "--data-dir", type=Path, help=f"{where}; by default TFDS's own")


def load(args: argparse.Namespace, augment: bool = True) -> Data:
    """Loads what the arguments of a recipe ask for, downloading it where it isn't there.

    Args:
        args: With `dataset`, `data`, `batch_size`, `seed`, and `train_examples` (`None`: all that
            aren't held out) and `validation_examples`: train on the first so many, hold out the
            last so many of the training split.
        augment: Whether to crop and flip the training images.

    Raises:
        ValueError: if there are fewer images than asked for.
        DataError: if the data set is neither there nor can be downloaded; says what to do.
    """
    if keras.config.backend() == "jax":
        from jax_batches import batches
    else:
        from tf_batches import batches

    train, test = read(args.dataset, args.data)
    kept, held_out = _sizes(len(train.labels), args.train_examples, args.validation_examples)
    scale, size = scale_and_offset(args.dataset), args.batch_size
    first, last = (
        Split(*(p[rows] for p in train)) for rows in (slice(kept), slice(-held_out, None))
    )
    training, callbacks = batches(first, size, scale, args.seed, augment)
    return Data(
        train=training,
        test=batches(test, size, scale)[0],
        validation=batches(last, size, scale)[0] if held_out else None,
        classes=len(CLASSES[args.dataset]),
        train_examples=kept,
        callbacks=callbacks,
    )


def read(name: str, path: Path | None = None) -> tuple[Split, Split]:
    """Returns the training and the test split.

    Args:
        name: "cifar10" or "cifar100".
        path: What `--data` says.
    """
    file = path / f"{name}.npz" if path and path.is_dir() else path
    if file and file.suffix == ".npz" and file.exists():
        arrays = _read_npz(file)
    elif file and path.suffix == ".npz":
        raise DataError(f"--data: there is no file {path}")
    elif path or importlib.util.find_spec("tensorflow_datasets"):
        from tfds_arrays import read_tfds

        arrays = read_tfds(name, path)
    else:
        arrays = _download(name)
    splits = tuple(Split(x, np.ravel(y).astype("int32")) for x, y in arrays)
    for images, labels in splits:
        if images.dtype != np.uint8 or images.shape != (len(labels), 32, 32, 3):
            raise DataError(
                f"{path or name} must hold uint8 images (examples, 32, 32, 3) with a label each. "
                f"Received: {images.dtype} {images.shape} and {len(labels)} labels"
            )
    labels = np.concatenate([split.labels for split in splits])
    if (labels.min(), labels.max()) != (0, len(CLASSES[name]) - 1):
        raise DataError(
            f"{path or name} isn't {name}: its labels go from {labels.min()} to {labels.max()}"
        )
    return splits


def scale_and_offset(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the factor and the summand that give uint8 images mean 0 and deviation 1."""
    mean, deviation = (255 * np.array(each, "float32") for each in STATISTICS[name])
    return 1 / deviation, -mean / deviation


def _read_npz(file: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    try:
        with open(file, "rb") as opened, np.load(opened) as content:
            return [(content[f"x_{part}"], content[f"y_{part}"]) for part in ("train", "test")]
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{file} must hold x_train, y_train, x_test and y_test. Received: {error}"
        ) from error


def _download(name: str) -> Any:
    """Downloads with Keras, where there is no TensorFlow Datasets."""
    try:
        return getattr(keras.datasets, name).load_data()
    except Exception as error:  # whatever a network can do
        raise DataError(
            f"Downloading '{name}' failed: {error}\nName a file that has it, with x_train, "
            f"y_train, x_test and y_test: --data {name}.npz"
        ) from error


def _sizes(total: int, train_examples: int | None, held_out: int) -> tuple[int, int]:
    """Returns how many examples to train on, and how many to hold out."""
    if held_out >= total:
        raise ValueError(
            f"--validation-examples must leave some of the {total:,} training examples. "
            f"Received: {held_out}"
        )
    kept = total - held_out if train_examples is None else train_examples
    if kept > total - held_out:
        raise ValueError(
            f"--train-examples must be at most {total - held_out:,}: the training split has "
            f"{total:,} examples, of which {held_out:,} are held out. Received: {kept}"
        )
    return kept, held_out
