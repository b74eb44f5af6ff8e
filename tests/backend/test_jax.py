"""JAX in processes of its own, in which TensorFlow can't be imported."""

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import on_jax
import pytest

pytestmark = pytest.mark.long


def run(folder, devices):
    command = [sys.executable, on_jax.__file__, str(folder), str(devices)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(printed.splitlines()[-1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("jax")


@pytest.fixture(scope="module")
def facts(folder):
    return run(folder, devices=1)


def test_a_run_without_tensorflow(facts):
    assert facts["backend"] == "jax" and not facts["tensorflow"]
    assert sum(facts["widths"].values()) == 15  # 7, half of it more, twice
    assert facts["history"]["penalty"][0] == 0 < facts["history"]["penalty"][1]
    assert facts["loaded alike"]


def test_a_run_that_stopped_within_an_epoch_goes_on_to_the_last_bit(facts):
    assert facts["resumed alike"]


def test_its_file_loads_under_this_backend_and_goes_on(facts, folder):
    model = keras.models.load_model(folder / "model.keras")
    with np.load(folder / "outputs.npz") as arrays:
        x, outputs = arrays["x"], arrays["outputs"]
    np.testing.assert_allclose(model.predict(x, verbose=0), outputs, atol=1e-5)
    assert model.widths == facts["widths"]
    model.grow(0.5, "net2wider")
    model.fit(x, np.zeros(len(x)), verbose=0)


@pytest.mark.slow
def test_two_devices_train_and_grow_as_one(facts, tmp_path):
    both = run(tmp_path, devices=2)
    assert facts["devices"] == 1 and both["devices"] == 2
    assert both["widths"] == facts["widths"] and both["resumed alike"]
    for name, values in facts["history"].items():
        np.testing.assert_allclose(both["history"][name], values, atol=1e-4)


def test_another_backend_is_refused_at_import():
    package = Path(__file__).parents[2] / "keras_grow"
    code = (
        "import sys, types; keras = types.ModuleType('keras'); sys.modules['keras'] = keras;"
        "keras.config = types.SimpleNamespace(backend=lambda: 'torch');"
        f"exec(open({str(package / 'backend' / '__init__.py')!r}).read())"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "ImportError: keras_grow works on Keras's backends" in ended.stderr
    assert "Received: KERAS_BACKEND=torch" in ended.stderr
