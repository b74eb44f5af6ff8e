"""The file of a backup: a line that says what it is, then JSON and arrays.

The line holds the file's kind, its format's version and a digest of all that follows, so that a
file which is foreign, of another version, cut short or damaged anywhere is told apart.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_grow.utils.files import replacing

KIND = b"keras_grow backup"
VERSION = 1  # rises when an entry changes its meaning or goes

Arrays = Mapping[str, Sequence[np.ndarray]]


def write_backup(path: Path, content: Mapping[str, Any], arrays: Arrays) -> None:
    """Writes a backup: completely, or not at all.

    Args:
        path: The file.
        content: What JSON can hold.
        arrays: Name -> arrays, numeric or boolean.
    """
    flat = {f"{name}/{i}": a for name, values in arrays.items() for i, a in enumerate(values)}
    layout = {name: [str(a.dtype) for a in values] for name, values in arrays.items()}
    text = json.dumps({"content": content, "layout": layout}).encode()
    buffer = io.BytesIO()
    np.savez(
        buffer,
        json=np.frombuffer(text, "uint8"),
        **{key: _in_numpys_own_dtype(array) for key, array in flat.items()},
    )
    payload = buffer.getbuffer()
    header = b"%s %d %s\n" % (KIND, VERSION, hashlib.sha256(payload).hexdigest().encode())
    with replacing(path) as partial, partial.open("wb") as file:
        file.write(header)
        file.write(payload)


def read_backup(path: Path) -> tuple[dict[str, Any], dict[str, list[np.ndarray]]]:
    """Reads what `write_backup` wrote.

    Returns:
        The content, and the arrays by name.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is no backup, of another version, or damaged.
    """
    header, _, payload = path.read_bytes().partition(b"\n")
    _check(path, header, payload)
    with np.load(io.BytesIO(payload), allow_pickle=False) as stored:
        whole = json.loads(stored["json"].tobytes())
        arrays = {
            name: [stored[f"{name}/{i}"].view(np.dtype(dtype)) for i, dtype in enumerate(dtypes)]
            for name, dtypes in whole["layout"].items()
        }
    return whole["content"], arrays


def _check(path: Path, header: bytes, payload: bytes) -> None:
    """Refuses what can't be read, and says what to do."""
    if not header.startswith(KIND + b" "):
        raise ValueError(
            f"{path} is not a backup of `keras_grow.GrowthBackup`, or damaged at its start. Give "
            "`GrowthBackup` a folder of its own; or delete the file to train from the beginning."
        )
    version, _, digest = header[len(KIND) + 1 :].partition(b" ")
    if version != b"%d" % VERSION and len(digest) == 64:
        raise ValueError(
            f"{path} is a backup in another format than this keras_grow reads ({VERSION}). Go on "
            "with the keras_grow that wrote it, or delete the file to train from the beginning. "
            f"Received: version={version.decode(errors='replace')}"
        )
    if digest != hashlib.sha256(payload).hexdigest().encode():
        raise ValueError(
            f"{path} is damaged or cut short: its content does not match its checksum. Put a copy "
            "of it back if you have one, or delete the file to train from the beginning."
        )


def _in_numpys_own_dtype(array: np.ndarray) -> np.ndarray:
    """Returns bfloat16 and the like, which NumPy can't store, as integers of the same bits."""
    if array.dtype.kind in "OSU":
        raise ValueError(
            "A backup holds numbers only. Received: an array of Python objects or strings, in the "
            "batches that are kept for scoring neurons. Use a growth method that needs no data "
            "(such as 'net2wider'), or a data set of numbers."
        )
    return array if array.dtype.isbuiltin == 1 else array.view(f"u{array.dtype.itemsize}")
