"""The recipe for every kind of model: one of them through `main`, the others built and grown."""

import keras
import numpy as np
import pytest
from small_cifar import recipe

import keras_grow
from keras_grow import runs

pytestmark = pytest.mark.long

any_model, common = recipe("any_model"), recipe("common")


def on_fewer_waves(out, *options):
    with pytest.MonkeyPatch.context() as patch:
        x, y = any_model.waves()
        task = any_model.TASKS["cnn1d"]._replace(data=lambda: (x[:320], y[:320]))
        patch.setitem(any_model.TASKS, "cnn1d", task)
        given = "--model cnn1d --method random --epochs 4 --seeds 3".split()
        return any_model.main([*given, *options, "--out", str(out)])["cnn1d"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Runs the recipe on fewer waves; returns its folder and what it returned."""
    out = tmp_path_factory.mktemp("any_model") / "run"
    return out, on_fewer_waves(out)


def test_it_grows_three_times_and_compares_with_its_final_size(finished):
    out, (found,) = finished
    assert list(found) == ["grown", "flops", "epochs"]
    assert found == {arm: runs.read(out / f"cnn1d-seed3-{arm}") for arm in found}
    grown, short, whole = found.values()
    assert [event["epoch"] for event in grown.growth] == [1, 2, 3]
    assert not short.growth and not whole.growth
    assert grown.parameters == short.parameters == whole.parameters
    assert grown.widths == short.widths == whole.widths
    epoch = whole.training_flops // 4
    assert grown.training_flops <= short.training_flops < grown.training_flops + epoch
    assert short.training_flops == epoch * short.configuration["epochs"]


def test_the_penalty_is_named(finished, tmp_path):
    _, (papers,) = finished
    (default,) = on_fewer_waves(tmp_path / "default", "--penalty", "default")
    (none,) = on_fewer_waves(tmp_path / "none", "--penalty", "none")
    penalties = [run["grown"].history["penalty"][-1] for run in (papers, default)]
    assert 0 < penalties[0] != penalties[1] > 0
    assert not any(none["grown"].history.get("penalty", [0.0]))


def test_the_table_has_a_row_for_each_way_to_train(finished):
    _, seeds = finished
    lines = any_model.table({"cnn1d": seeds}, any_model.parse([])).splitlines()
    assert [line.split(" | ")[1] for line in lines[2:]] == list(any_model.ARMS.values())
    accuracy = 100 * seeds[0]["grown"].test_accuracy
    assert lines[2].startswith(f"| cnn1d | grown | {accuracy:.2f} | {accuracy:.1f} | ")
    assert len({line.count("|") for line in lines}) == 1


@pytest.mark.parametrize("name", any_model.TASKS)
def test_every_model_grows_keeps_its_function_and_is_counted_at_its_final_size(name):
    keras.utils.set_random_seed(0)
    model = keras_grow.GrowableModel.from_keras(any_model.TASKS[name].build())
    frozen = {row.layer for row in model.growth_report().frozen}
    assert frozen == {model.layers[-1].name}  # its output
    x, y = (part[:8] for part in any_model.TASKS[name].data())
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, run_eagerly=True)
    model.train_on_batch(x, y)
    before = model.predict_on_batch(x)
    model.grow(0.35, "random")
    np.testing.assert_allclose(model.predict_on_batch(x), before, atol=1e-4 * np.abs(before).max())
    model.train_on_batch(x, y)
    fresh = keras_grow.GrowableModel.from_keras(keras.models.clone_model(model.to_keras()))
    assert fresh.widths == model.widths
    counted = keras_grow.flops.forward_flops(model)
    assert counted == keras_grow.flops.forward_flops(fresh) > 0
    assert np.abs(fresh.predict_on_batch(x) - before).max() > 0.01 * np.abs(before).max()


@pytest.mark.parametrize("name", any_model.TASKS)
def test_data_are_the_same_at_every_call_and_splits_are_apart(name):
    x, y = any_model.TASKS[name].data()
    again = any_model.TASKS[name].data()
    np.testing.assert_array_equal(x, again[0])
    np.testing.assert_array_equal(y, again[1])
    tried, tested = (any_model.load(name, any_model.parse(a)) for a in (["--validation"], []))
    np.testing.assert_array_equal(np.concatenate([*tried[::2], tested[2]]), x)
    np.testing.assert_array_equal(tried[0], tested[0])


def test_the_text_goes_on_after_each_character():
    x, y = any_model.text()
    np.testing.assert_array_equal(x.ravel()[1:], y.ravel()[:-1])
    assert x.min() >= 0 and x.max() < 128


@pytest.mark.parametrize(
    "argv, message",
    [
        ("--epochs 3", "--epochs 3 leaves no room for 3 growths"),
        ("--model rnn", "invalid choice: 'rnn'"),
        ("--rate 0", "must be a positive number"),
    ],
)
def test_bad_arguments(argv, message, capsys):
    with pytest.raises(SystemExit):
        any_model.main(argv.split())
    assert message in capsys.readouterr().err


def test_what_is_done_is_not_done_again(finished, monkeypatch):
    out, found = finished
    monkeypatch.setattr(any_model, "train", None)
    options = "--model cnn1d --method random --epochs 4 --seeds 3".split()
    assert any_model.main([*options, "--out", str(out)])["cnn1d"] == found
    with pytest.raises(common.FolderError, match="method was random, now firefly"):
        any_model.main(["--epochs", "4", "--out", str(out)])
