"""A file of version 0.1, written under TensorFlow: it loads under every backend, and goes on."""

from pathlib import Path

import keras
import numpy as np
import pytest

import keras_grow

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture
def loaded():
    return keras.models.load_model(DATA / "last_version.keras")


def test_it_computes_what_it_computed(loaded):
    with np.load(DATA / "last_version.npz") as arrays:
        outputs = loaded.predict(arrays["x"], verbose=0)
        np.testing.assert_allclose(outputs, arrays["outputs"], atol=1e-5)


def test_what_has_come_of_growing_is_there(loaded):
    assert type(loaded) is keras_grow.GrowableModel
    assert loaded.widths == {"a": 9, "b": 10}
    assert [event.method for event in loaded.growth_history] == ["net2wider"] * 2
    assert loaded.penalty_window.epochs_left == 14
    assert isinstance(loaded.optimizer, keras.optimizers.Adam)
    moments = [v for v in loaded.optimizer.variables if "momentum" in v.path]
    assert any(np.any(keras.ops.convert_to_numpy(v) != 0) for v in moments)


def test_it_trains_and_grows_on(loaded):
    with np.load(DATA / "last_version.npz") as arrays:
        x = arrays["x"]
    y = np.arange(len(x)) % loaded.output_shape[-1]
    growth = keras_grow.GrowthCallback(0.5, every=1, method="net2wider", verbose=0)
    history = loaded.fit(x, y, epochs=2, callbacks=[growth], verbose=0).history
    assert loaded.neurons == 19 + 9 and np.all(np.isfinite(history["loss"]))
