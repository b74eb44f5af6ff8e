"""The recipes on JAX, in a process where TensorFlow can't be imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_cifar import RECIPES, write_npz

from keras_grow import runs

pytestmark = pytest.mark.long

SCRIPT = """
import sys

out, data, recipes, helpers = sys.argv[1:5]
for name in ("tensorflow", "tensorflow_datasets", "keras_tuner", "tf_keras_vis", "tensorboard"):
    sys.modules[name] = None
sys.path[:0] = [recipes, helpers]
import common  # which reads --backend

import cifar, digits
from small_cifar import small_network

short = "--every 1 --method net2wider --backend jax".split()
cifar.MODELS["small"] = (small_network, 4)
options = [*short, "--epochs", "2", "--model", "small", "--batch-size", "64", "--data", data]
whole = cifar.main([*options, "--out", f"{out}/whole"])
assert cifar.main([*options, "--out", f"{out}/pieces", "--minutes", "1e-9"]) is None
pieces = cifar.main([*options, "--out", f"{out}/pieces"])
for name in ("loss", "val_loss", "params", "similarity", "learning_rate"):
    assert pieces["history"][name] == whole["history"][name], name
digits.main([*short, "--epochs", "2", "--width", "2", "--fast", "--out", f"{out}/digits"])
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of what the script ran."""
    pytest.importorskip("jax")
    out = tmp_path_factory.mktemp("jax")
    data = write_npz(out, "cifar10", 100, 30)
    places = [out, data, RECIPES, Path(__file__).parents[1] / "helpers"]
    environment = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT, *map(str, places), "--backend", "jax"],
        env={
            **environment,
            "PYTHONPATH": str(RECIPES.parent),
            "JAX_COMPILATION_CACHE_DIR": str(out / "compilations"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return out


@pytest.mark.parametrize("name", ["whole", "pieces", "digits"])
def test_runs_grow_and_are_written(finished, name):
    run = runs.read(finished / name)
    assert run.configuration["backend"] == "jax"
    assert "jax" in run.versions and "tensorflow" not in run.versions
    assert [event["epoch"] for event in run.growth] == [1]
    assert run.neurons == sum(run.widths.values()) > sum(run.growth[0]["widths_before"].values())
    assert run.history["penalty"][1] > 0


def test_compilations_are_kept(finished):
    assert list((finished / "compilations").glob("jit_train_step-*"))
