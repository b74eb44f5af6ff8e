"""A data set of TensorFlow Datasets (TFDS) as arrays, downloaded where it isn't there yet."""

from __future__ import annotations

from pathlib import Path

import data
import numpy as np


def read_tfds(name: str, folder: Path | None = None) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns images and labels of the training and the test split, in the order of the records.

    Args:
        name: Name of the data set.
        folder: Where TFDS keeps its data sets. Defaults to its own default.

    Raises:
        DataError: if the data set is neither there nor can be downloaded; says what to do.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise data.DataError(
            "This recipe needs tensorflow-datasets (pip install tensorflow-datasets) or --data "
            f"{name}.npz"
        ) from error
    builder = tfds.builder(name, data_dir=folder, try_gcs=False)
    if not builder.is_prepared():
        settings = tfds.download.DownloadConfig(try_download_gcs=False)
        try:
            _check_network()
            builder.download_and_prepare(download_config=settings)
        except Exception as error:  # TFDS's errors have no common public class
            raise data.DataError(_what_to_do(name, builder, error)) from error
    splits = [
        builder.as_dataset(split=split, batch_size=-1, shuffle_files=False, as_supervised=True)
        for split in ("train", "test")
    ]
    return [(images.numpy(), labels.numpy()) for images, labels in splits]


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
        "- Name the TFDS folder that has it: --data DIR (where DIR/"
        f"{name}/{builder.version} exists), or a file: --data {name}.npz. Without it, TFDS looks "
        "in $TFDS_DATA_DIR, and by default in ~/tensorflow_datasets.\n"
        "- Run once with a network (and a writable folder): the download takes a few minutes.\n"
        "- On another machine with a network, run\n"
        f"    python -c \"import tensorflow_datasets as tfds; tfds.load('{name}')\"\n"
        f"  and copy its ~/tensorflow_datasets/{name} into {folder}."
    )
