"""Files that are complete or not there."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Start of the name of the folders that hold files which are being written.
PARTIAL = ".partial-"


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Gives a temporary path beside `path`; what is written there takes its place at the end.

    Until then the file that was there stays, whatever happens: an exception, a kill, a power cut.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A folder of its own keeps the file's name, and so the ending that Keras insists on.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=PARTIAL) as folder:
        partial = Path(folder) / path.name
        yield partial
        _to_disk(partial)
        os.replace(partial, path)
        if os.name == "posix":  # elsewhere a folder can't be opened
            _to_disk(path.parent)


def _to_disk(path: Path) -> None:
    """Waits until a file's content, or a folder's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
