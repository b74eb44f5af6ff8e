"""The same seed and data grow the same network on TensorFlow and on JAX."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from grow_on_a_backend import CASES, grow, problem

import keras_grow

pytestmark = pytest.mark.long

HELPERS = Path(__file__).parents[1] / "helpers"


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """What comes of every case in this process, and of the same on JAX in another."""
    folder = tmp_path_factory.mktemp("parity")
    given = problem()
    np.savez(folder / "problem.npz", **given)
    paths = [str(Path(keras_grow.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    other = subprocess.Popen(
        [sys.executable, "grow_on_a_backend.py", folder / "problem.npz", folder / "grown.npz"],
        cwd=HELPERS,
        env={**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": os.pathsep.join(paths)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        here = grow(given)
        output, _ = other.communicate(timeout=600)
    finally:
        other.kill()
    assert other.returncode == 0, output
    with np.load(folder / "grown.npz") as there:
        assert there["backend"] == "jax"
        return here, dict(there)


@pytest.mark.parametrize("name", CASES)
def test_both_backends_grow_the_same(name, grown):
    here, there = ({k: v for k, v in g.items() if k.startswith(f"{name}/")} for g in grown)
    assert list(here) == list(there)
    assert sum("/sources/" in key for key in here) >= 2
    for key, expected in here.items():
        if "/sources/" in key:  # the widths, too
            np.testing.assert_array_equal(there[key], expected)
        else:
            assert np.all(np.isfinite(expected))
            scale = max(1.0, np.max(np.abs(expected)))
            np.testing.assert_allclose(there[key], expected, atol=1e-4 * scale, err_msg=key)
