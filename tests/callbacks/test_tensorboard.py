"""What is in the event files, read by TensorBoard's own reader."""

import copy
import math
import sys

import keras
import numpy as np
import pytest
from networks import plain_cnn
from problems import cross_entropy, eager

import keras_grow
from keras_grow.callbacks.tensorboard import GrowthTensorBoard
from keras_grow.plots.similarity import pair_similarities

EPOCHS, GROWTHS = 4, [1, 3]
KERNELS = ["a", "b", "c"]


@pytest.fixture(scope="module")
def reader():
    path = "tensorboard.backend.event_processing.event_accumulator"
    return pytest.importorskip(path).EventAccumulator


def fit(folder, first=0, epochs=EPOCHS, model=None):
    """Trains a small network that grows, and returns it with its history."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(16, 6, 6, 2)).astype("float32"), np.arange(16) % 3
    if model is None:
        model = eager(plain_cnn(), cross_entropy(), "adam", metrics=["accuracy"])
    # In an order in which the second callback acts after the first at the same moments.
    callbacks = [
        GrowthTensorBoard(folder),
        keras_grow.GrowthCallback(0.5, keras_grow.At(GROWTHS), "net2wider", verbose=0),
        keras.callbacks.TensorBoard(folder, histogram_freq=1, write_graph=True, write_images=False),
    ]
    history = model.fit(x, y, 8, epochs, 0, callbacks, validation_data=(x, y), initial_epoch=first)
    return model, history.history


@pytest.fixture(scope="module")
def trained(reader, tmp_path_factory):
    """Folder, model and history of one run, in which no warning was given (they are errors)."""
    folder = tmp_path_factory.mktemp("logs")
    return folder, *fit(folder)


def read(reader, folder, run):
    """Returns tag -> [(step, array)]."""
    from tensorflow import make_ndarray

    events = reader(str(folder / run), size_guidance={"tensors": 0})
    events.Reload()
    return {
        tag: [(each.step, make_ndarray(each.tensor_proto)) for each in events.Tensors(tag)]
        for tag in events.Tags()["tensors"]
    }


def widths_of(model):
    """Widths in each epoch, by the record of the growths."""
    first, second = model.growth_history
    return [first.widths_before, *2 * [first.widths_after], second.widths_after]


def test_widths_of_each_epoch(reader, trained):
    folder, model, _ = trained
    written = read(reader, folder, "growth")
    assert sorted(written) == [f"{kind}/{n}" for kind in ("similarity", "widths") for n in KERNELS]
    for name in KERNELS:
        want = [(epoch, widths[name]) for epoch, widths in enumerate(widths_of(model))]
        assert written[f"widths/{name}"] == want


def test_similarities_at_the_start_at_each_growth_and_at_the_end(reader, trained):
    folder, model, _ = trained
    written = read(reader, folder, "growth")
    widths = widths_of(model)
    for name in KERNELS:
        histograms = written[f"similarity/{name}"]
        assert [step for step, _ in histograms] == [0, *GROWTHS, EPOCHS]
        pairs = [math.comb(widths[min(step, EPOCHS - 1)][name], 2) for step, _ in histograms]
        # A histogram is rows of left edge, right edge, count.
        assert [rows[:, 2].sum() for _, rows in histograms] == pairs
        for _, rows in histograms:
            assert -1 <= rows[0, 0] < rows[-1, 1] <= 1


def test_the_last_histogram_is_that_of_the_trained_model(reader, trained):
    folder, model, _ = trained
    for name in KERNELS:
        _, rows = read(reader, folder, "growth")[f"similarity/{name}"][-1]
        values = pair_similarities(model.get_layer(name).kernel)
        edges = [*rows[:, 0], rows[-1, 1]]
        np.testing.assert_allclose(edges, np.linspace(values.min(), values.max(), len(edges)))
        # An edge is rounded here and there, so a value may fall on its other side.
        counts, _ = np.histogram(values, edges)
        assert np.abs(np.cumsum(rows[:, 2] - counts)).max() <= 1


def test_growth_makes_copies_which_the_histogram_shows(reader, trained):
    folder, _, _ = trained
    highest = [rows[-1, 1] for _, rows in read(reader, folder, "growth")["similarity/b"]]
    assert highest[0] < 0.9 < min(highest[1:3])


def test_keras_callback_shows_the_logs_of_growth(reader, trained):
    folder, _, history = trained
    written = read(reader, folder, "train")
    for name in ("params", "similarity", "weight_drift", "loss"):
        steps, values = zip(*written[f"epoch_{name}"], strict=True)
        assert steps == tuple(range(EPOCHS))
        np.testing.assert_allclose(values, history[name], rtol=1e-6)
    weights = written["b/kernel/histogram"]
    assert [step for step, _ in weights] == list(range(EPOCHS))
    assert written.keys() >= {f"{name}/kernel/histogram" for name in (*KERNELS, "head")}


@pytest.mark.long
def test_training_that_goes_on_is_shown_where_it_stopped(reader, tmp_path):
    model, _ = fit(tmp_path, epochs=2)
    fit(tmp_path, first=2, model=model)
    written = read(reader, tmp_path, "growth")
    assert [step for step, _ in written["widths/a"]] == [0, 1, 2, 3]
    assert [step for step, _ in written["similarity/a"]] == [0, 1, 2, 2, 3, 4]


def test_nothing_is_written_before_training(reader, tmp_path):
    callback = copy.deepcopy(GrowthTensorBoard(tmp_path / "logs"))  # as KerasTuner does
    callback.set_model(plain_cnn())
    assert not (tmp_path / "logs").exists()


def test_a_model_that_cannot_grow(reader, tmp_path):
    inputs = keras.Input((2,))
    model = keras.Model(inputs, keras.layers.Dense(1)(inputs), name="plain")
    model.compile("sgd", "mse")
    with pytest.raises(TypeError, match=r"needs a `keras_grow.GrowableModel`.*\(`plain`\)"):
        model.fit(np.ones((4, 2)), np.ones(4), callbacks=[GrowthTensorBoard(tmp_path)], verbose=0)


def test_without_tensorboard(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ImportError, match="TensorBoard is not installed: pip install tensorboard"):
        GrowthTensorBoard()
