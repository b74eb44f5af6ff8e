"""CIFAR-10 and CIFAR-100 as tf.data pipelines that cost a few per cent of a training step.

TensorFlow Datasets (TFDS) supplies the images. They are decoded once and kept in memory as uint8;
an epoch shuffles indices, and whole batches are cropped, flipped and normalised by a few gathers:
130,000 images/s on one core of a 2-core machine, where the narrowest VGG16 trains at 3,000.
"""

from __future__ import annotations

import numbers
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

PAD = 4  # pixels, black, on each side of an image before a random crop


class DataError(RuntimeError):
    """The data set is not there, and could not be fetched."""


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation of each channel over a training split, pixels from 0 to 1."""

    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]


STATISTICS = {
    "cifar10": Statistics((0.49140, 0.48216, 0.44653), (0.24703, 0.24349, 0.26159)),
    "cifar100": Statistics((0.50708, 0.48655, 0.44092), (0.26733, 0.25644, 0.27615)),
}


@dataclass(frozen=True)
class Data:
    """What a recipe trains on.

    Attributes:
        train: Batches `(images, labels)`, in another order and with other crops at each iteration.
        test: Batches of the test split, in order, not augmented.
        validation: Batches held out from the training split, or `None`.
        classes: Number of classes.
        input_shape: Height, width and channels of an image.
        train_examples: Number of examples in `train`.
        steps_per_epoch: Number of batches in `train`.
    """

    train: tf.data.Dataset
    test: tf.data.Dataset
    validation: tf.data.Dataset | None
    classes: int
    input_shape: tuple[int, int, int]
    train_examples: int
    steps_per_epoch: int


def load(
    name: str = "cifar10",
    batch_size: int = 128,
    data_dir: str | None = None,
    train_examples: int | None = None,
    validation_examples: int = 0,
    seed: int = 0,
    augment: bool = True,
) -> Data:
    """Loads a data set, downloading it where TFDS doesn't have it yet.

    Images come as float32 `(batch, 32, 32, 3)`, normalised per channel, labels as int64
    `(batch,)`. The last batch of an epoch holds the remainder. Order and crops follow from `seed`
    and from the global seed of `keras.utils.set_random_seed`.

    Args:
        name: "cifar10" or "cifar100".
        batch_size: Examples per batch.
        data_dir: Where TFDS keeps its data sets. Defaults to its own default.
        train_examples: Train on the first so many examples. Defaults to all that aren't held out.
        validation_examples: Hold out the last so many examples of the training split.
        seed: Integer seed of the order and of the crops.
        augment: Whether to crop and flip the training images.

    Raises:
        ValueError: if an argument is wrong.
        DataError: if the data set is neither there nor can be downloaded; says what to do.
    """
    _check_arguments(name, batch_size, seed)
    builder = prepare(name, data_dir)
    kept, held_out = _check_sizes(builder, train_examples, validation_examples)
    total = builder.info.splits["train"].num_examples
    normalise = normaliser(STATISTICS[name])
    validation = None
    if held_out:
        validation = plain_batches(
            *decode(builder, f"train[{total - held_out}:]"), batch_size, normalise
        )
    images, labels = decode(builder, f"train[:{kept}]")
    train = training_batches(images, labels, batch_size, normalise, seed, augment)
    return Data(
        train=train,
        test=plain_batches(*decode(builder, "test"), batch_size, normalise),
        validation=validation,
        classes=builder.info.features["label"].num_classes,
        input_shape=images.shape[1:],
        train_examples=kept,
        steps_per_epoch=len(train),
    )


def training_batches(
    images: np.ndarray, labels: np.ndarray, batch_size: int, normalise, seed: int, augment: bool
) -> tf.data.Dataset:
    """Returns shuffled, augmented, normalised batches.

    Args:
        images: uint8, `(examples, height, width, channels)`.
        labels: int64, `(examples,)`.
        batch_size: Examples per batch.
        normalise: What `normaliser` returned.
        seed: Integer seed.
        augment: Whether to crop and flip.
    """
    size = images.shape[1:3]
    if augment:  # once for all epochs: padding a batch costs as much as the rest of the pipeline
        images = np.pad(images, ((0, 0), (PAD, PAD), (PAD, PAD), (0, 0)))
    images, labels = _on_cpu(images), _on_cpu(labels)

    def batch(indices, draw):
        chosen = tf.gather(images, indices)
        if augment:
            chosen = crop_and_flip(chosen, *draw_crops(tf.shape(indices)[0], draw), size)
        return normalise(chosen), tf.gather(labels, indices)

    indices = tf.data.Dataset.range(len(labels))
    indices = indices.shuffle(len(labels), seed=seed, reshuffle_each_iteration=True)
    # One random number a batch, from which all its crops follow: so the result doesn't depend on
    # which thread makes which batch.
    draws = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True)
    batches = tf.data.Dataset.zip(indices.batch(batch_size), draws)
    return batches.map(batch, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def plain_batches(
    images: np.ndarray, labels: np.ndarray, batch_size: int, normalise
) -> tf.data.Dataset:
    """Returns normalised batches in order. Arguments as for `training_batches`."""
    images, labels = _on_cpu(images), _on_cpu(labels)

    def batch(indices):
        return normalise(tf.gather(images, indices)), tf.gather(labels, indices)

    batches = tf.data.Dataset.range(len(labels)).batch(batch_size)
    return batches.map(batch, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def draw_crops(examples, draw) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Draws how to crop and flip a batch.

    Args:
        examples: Number of examples.
        draw: Integer that everything follows from.

    Returns:
        Row and column of the crops' upper left corners in the padded images, int32 from 0 to
        `2 * PAD`, and whether to flip, bool: each `(examples,)`.
    """
    corners = tf.random.stateless_uniform((2, examples), [draw, 0], 0, 2 * PAD + 1, tf.int32)
    flips = tf.random.stateless_uniform((examples,), [draw, 1], 0, 2, tf.int32) == 1
    return corners[0], corners[1], flips


def crop_and_flip(padded, top, left, flips, size: tuple[int, int]) -> tf.Tensor:
    """Crops each image of a batch at a place of its own, and mirrors some.

    Args:
        padded: `(batch, height + 2 * PAD, width + 2 * PAD, channels)`.
        top: First row of each crop, `(batch,)`.
        left: First column of each crop, `(batch,)`.
        flips: Whether to mirror left and right, `(batch,)`.
        size: Height and width of a crop.
    """
    row, column = tf.range(size[0]), tf.range(size[1])
    rows = top[:, None] + row
    columns = left[:, None] + tf.where(flips[:, None], column[::-1], column)
    cropped = tf.gather(padded, rows, axis=1, batch_dims=1)
    return tf.gather(cropped, columns, axis=2, batch_dims=1)


def normaliser(statistics: Statistics):
    """Returns the function from uint8 images to float32 ones with mean 0 and deviation 1."""
    deviation = 255 * np.array(statistics.deviation, "float32")
    scale, offset = 1 / deviation, -255 * np.array(statistics.mean, "float32") / deviation

    def normalise(images):
        # Constants of a whole image's shape: three times as fast as broadcasting over channels.
        shape = images.shape[1:]
        whole_scale, whole_offset = (np.broadcast_to(c, shape).copy() for c in (scale, offset))
        return tf.cast(images, tf.float32) * whole_scale + whole_offset

    return normalise


def prepare(name: str, data_dir: str | None = None):
    """Returns the TFDS builder of a data set that is on the disk, downloading it if need be.

    Raises:
        DataError: if the data set is neither there nor can be downloaded; says what to do.
    """
    tfds = _import_tfds()
    builder = tfds.builder(name, data_dir=data_dir, try_gcs=False)
    if builder.is_prepared():
        return builder
    settings = tfds.download.DownloadConfig(try_download_gcs=False)
    try:
        _check_network()
        builder.download_and_prepare(download_config=settings)
    except Exception as error:  # TFDS's errors have no common public class
        raise DataError(_what_to_do(name, builder, error)) from error
    return builder


def _import_tfds():
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise DataError(
            "This recipe needs tensorflow-datasets: pip install 'keras-grow[recipes]'"
        ) from error
    return tfds


def _check_network() -> None:
    """Fails within seconds without a network, where TFDS would try for minutes.

    Asks with the client that TFDS downloads with, so that proxies and certificates count alike.
    Any answer will do.
    """
    import requests

    requests.head("https://www.cs.toronto.edu/~kriz/cifar.html", timeout=10)


def _what_to_do(name: str, builder, error: Exception) -> str:
    folder = builder.data_path.parent.parent
    return (
        f"The data set '{name}' is not in {folder}, and downloading it failed: {error}\n"
        "Do one of these:\n"
        "- Name the TFDS folder that has it: --data-dir DIR (where DIR/"
        f"{name}/{builder.version} exists). Without it, TFDS looks in $TFDS_DATA_DIR, and by "
        "default in ~/tensorflow_datasets.\n"
        "- Run once with a network (and a writable folder): the download takes a few minutes.\n"
        "- On another machine with a network, run\n"
        f"    python -c \"import tensorflow_datasets as tfds; tfds.load('{name}')\"\n"
        f"  and copy its ~/tensorflow_datasets/{name} into {folder}."
    )


def decode(builder, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the images and labels of a split, in the order of the records."""
    images, labels = builder.as_dataset(
        split=split, batch_size=-1, shuffle_files=False, as_supervised=True
    )
    return images.numpy(), labels.numpy()


def _on_cpu(array: np.ndarray) -> tf.Tensor:
    """The pipeline runs on the CPU: on the GPU, the store would be copied back and forth."""
    with tf.device("cpu"):
        return tf.constant(array)


def _check_arguments(name: str, batch_size: int, seed: int) -> None:
    if name not in STATISTICS:
        raise ValueError(f"`name` must be one of {list(STATISTICS)}. Received: name={name!r}")
    _check_count("batch_size", batch_size, least=1)
    _check_count("seed", seed, least=0)


def _check_sizes(builder, train_examples: int | None, validation_examples: int) -> tuple[int, int]:
    """Returns how many examples to train on, and how many to hold out."""
    total = builder.info.splits["train"].num_examples
    held_out = _check_count("validation_examples", validation_examples, least=0)
    if held_out >= total:
        raise ValueError(
            f"`validation_examples` must leave some of the {total:,} training examples. "
            f"Received: validation_examples={held_out}"
        )
    if train_examples is None:
        return total - held_out, held_out
    kept = _check_count("train_examples", train_examples, least=1)
    if kept > total - held_out:
        raise ValueError(
            f"`train_examples` must be at most {total - held_out:,}: the training split has "
            f"{total:,} examples, of which {held_out:,} are held out. "
            f"Received: train_examples={kept}"
        )
    return kept, held_out


def _check_count(name: str, value, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        raise ValueError(
            f"`{name}` must be an integer of at least {least}. Received: {name}={value!r}"
        )
    return int(value)
