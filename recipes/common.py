"""What the recipes share: the choice of a backend, folders with a purpose, argument types.

Import it first: a `--backend` must be known before Keras is imported.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BACKENDS = ["tensorflow", "jax"]


def _choose_backend() -> None:
    """Sets what Keras reads as it is imported, where the command line names a backend."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--backend", choices=BACKENDS)
    backend = parser.parse_known_args()[0].backend
    if backend and "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = backend


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Holds back what TensorFlow's libraries log while they load, unless loading fails."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # they don't heed it until they are loaded
    with tempfile.TemporaryFile() as log:
        stderr = os.dup(2)
        os.dup2(log.fileno(), 2)
        try:
            yield
        except ImportError:
            log.seek(0)
            os.write(stderr, log.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


_choose_backend()
with _quietly():
    import keras

    keras.utils.set_random_seed(0)  # which loads TensorFlow, where it is installed, on JAX too


def _keep_compilations(folder: Path) -> None:
    """Has JAX keep what it compiles, for networks that come back to widths trained before.

    What the environment ($JAX_COMPILATION_CACHE_DIR) already names stays.
    """
    import jax

    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(folder))
        # By default what compiles within a second isn't kept; a growth compiles many of these.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


if keras.config.backend() == "jax":
    _keep_compilations(Path.home() / ".cache" / "keras_grow" / "compilations")


class FolderError(ValueError):
    """A folder that was named for results is for something else."""


def parser(description: str, **options: Any) -> argparse.ArgumentParser:
    """Returns the parser of a recipe, whose docstring begins with what it does."""
    made = argparse.ArgumentParser(
        description=description.partition("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        **options,
    )
    add_backend(made)
    return made


def add_backend(to: argparse.ArgumentParser) -> None:
    """Adds `--backend`, which was read when this module was imported."""
    present = keras.config.backend()
    # Now that Keras is imported, there is no other choice.
    to.add_argument(
        "--backend", choices=[present], default=present, metavar="{tensorflow,jax}", help="of Keras"
    )


def claim(path: Path, asked: dict[str, Any]) -> None:
    """Writes down what a folder is for, or makes sure that it is for the same.

    Args:
        path: A JSON file in the folder.
        asked: What it is for: a configuration, as JSON has it.

    Raises:
        FolderError: if the folder is for something else, or the file is damaged.
    """
    if not path.exists():
        write_json(path, asked)
        return
    before = read_json(path)
    if not isinstance(before, dict):
        raise FolderError(f"{path} is not a configuration. Name another folder: --out")
    other = [
        f"{name} was {before.get(name)}, now {asked.get(name)}"
        for name in sorted({*before, *asked})
        if before.get(name) != asked.get(name)
    ]
    if other:
        raise FolderError(
            f"{path.parent} is of another configuration ({'; '.join(other)}). Ask for that one to "
            "go on with it, or name another folder: --out"
        )


def read_json(path: Path) -> Any:
    """Reads what an earlier start of a recipe left in its folder.

    Raises:
        FolderError: if the file is damaged.
    """
    try:
        return json.loads(path.read_text())
    except ValueError as error:  # not JSON, or not even text
        raise FolderError(
            f"{path} is damaged or only half written: {error}. Bring back a copy of the folder, or "
            "name another: --out"
        ) from error


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file: completely, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    partial.replace(path)


def load_model(path: Path) -> keras.Model:
    """Loads a saved model, not compiled.

    Raises:
        ValueError: if the file is damaged, or something else.
    """
    try:
        return keras.models.load_model(path, compile=False)
    except Exception as error:  # Keras's errors for a damaged file have no common class
        raise ValueError(f"{path} can't be loaded as a Keras model: {error}") from error


def default_out(recipe: str) -> Path:
    """Returns a folder for the results of a run that starts now."""
    return Path("runs") / f"{recipe}-{time.strftime('%Y%m%d-%H%M%S')}"


def positive_int(text: str) -> int:
    """Argparse type: an integer of at least 1."""
    return _number(text, int, lambda value: value >= 1, "a positive integer")


def count(text: str) -> int:
    """Argparse type: an integer of at least 0."""
    return _number(text, int, lambda value: value >= 0, "an integer of at least 0")


def positive(text: str) -> float:
    """Argparse type: a number above 0."""
    return _number(text, float, lambda value: value > 0, "a positive number")


def non_negative(text: str) -> float:
    """Argparse type: a number of at least 0."""
    return _number(text, float, lambda value: value >= 0, "a number of at least 0")


def fraction(text: str) -> float:
    """Argparse type: a number of at least 0 and below 1."""
    return _number(text, float, lambda value: 0 <= value < 1, "a number from 0 to below 1")


def layer(text: str) -> int | str:
    """Argparse type: the number of a layer, or else its name."""
    return int(text) if text.lstrip("-").isdigit() else text


def _number(text: str, kind: type, valid, wanted: str):
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or not valid(value):
        raise argparse.ArgumentTypeError(f"must be {wanted}. Received: {text!r}")
    return value
