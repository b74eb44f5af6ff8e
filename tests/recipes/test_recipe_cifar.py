import contextlib
import dataclasses
import io
import json
import platform

import keras
import numpy as np
import pytest
from small_cifar import recipe, write_tfds

import keras_grow

cifar, common = recipe("cifar"), recipe("common")

SMALL = ["--epochs", "3", "--every", "1", "--batch-size", "64", "--method", "net2wider"]
NARROW = ["--width", "4"]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        yield write_tfds(tmp_path_factory.mktemp("cifar10"), "cifar10", 200, 50, patch)


@pytest.fixture(scope="module")
def printed():
    """What the small grown run prints, from the moment that it has run."""
    return io.StringIO()


@pytest.fixture(scope="module")
def grown(data_dir, tmp_path_factory, printed):
    """Folder and returned results of one small grown run."""
    out = tmp_path_factory.mktemp("runs") / "grown"
    with contextlib.redirect_stdout(printed):
        return out, run(data_dir, out)


def run(data_dir, out, *extra, size=NARROW):
    return cifar.main([*SMALL, *size, "--data-dir", str(data_dir), "--out", str(out), *extra])


def test_the_file_holds_what_main_returns(grown):
    out, results = grown
    assert json.loads((out / "results.json").read_text()) == results
    assert common.read_run(out / "results.json").to_dict() == results
    assert sorted(p.name for p in out.iterdir()) == ["model.keras", "results.json"]


def test_growth_and_history(grown):
    _, results = grown
    assert [event["epoch"] for event in results["growth"]] == [1, 2]
    neurons = [sum(event["widths_after"].values()) for event in results["growth"]]
    assert neurons == [70, 94]  # 52 + 18, + 24: 35 %, rounded down
    assert results["neurons"] == sum(results["widths"].values()) == 94
    history = results["history"]
    for name in ("loss", "accuracy", "val_loss", "val_accuracy", "params", "similarity"):
        assert len(history[name]) == 3
    assert history["params"][-1] == results["parameters"]
    assert history["val_accuracy"][-1] == pytest.approx(results["test_accuracy"])


def test_flops_are_counted_at_each_epochs_width(grown):
    _, results = grown
    widths = [results["growth"][0]["widths_before"]]
    widths += [event["widths_after"] for event in results["growth"]]
    want = [keras_grow.flops.training_flops(keras_grow.models.VGG16(widths=w), 200) for w in widths]
    assert results["history"]["training_flops"] == want
    assert results["training_flops"] == sum(want)


def test_seconds_add_up(grown):
    _, results = grown
    seconds = results["seconds"]
    assert seconds["training"] == pytest.approx(sum(results["history"]["seconds"]))
    assert 0 < seconds["widening"] + seconds["choosing"] < seconds["training"] < seconds["total"]


def test_learning_rate_is_one_cosine(grown):
    _, results = grown
    # Three epochs of four steps; the rate of an epoch is the one after its last step.
    want = [0.05 * (1 + np.cos(np.pi * step / 12)) for step in (4, 8, 12)]
    np.testing.assert_allclose(results["history"]["learning_rate"], want, atol=1e-6)


def test_configuration_versions_and_machine(grown):
    _, results = grown
    asked = results["configuration"]
    assert (asked["model"], asked["width"], asked["rate"], asked["static"]) == (
        "vgg16",
        4,
        0.35,
        False,
    )
    assert results["versions"]["python"] == platform.python_version()
    assert results["versions"]["keras_grow"] == keras_grow.__version__
    assert results["machine"]["cpus"] >= 1
    assert results["machine"]["devices"][0] == "CPU"


def test_the_saved_model_is_the_grown_one(grown):
    out, results = grown
    model = keras.models.load_model(out / "model.keras")
    assert model.widths == results["widths"]
    assert [event.to_dict() for event in model.growth_history] == results["growth"]


def test_static_baseline_has_the_grown_size(grown, data_dir, tmp_path):
    out, results = grown
    size = ["--static", "--widths-from", str(out / "results.json")]
    static = run(data_dir, tmp_path / "static", size=size)
    assert static["parameters"] == results["parameters"]
    assert static["widths"] == results["widths"]
    assert static["growth"] == []
    assert static["training_flops"] == 3 * results["history"]["training_flops"][-1]
    assert static["history"]["learning_rate"] == results["history"]["learning_rate"]


def test_the_same_seed_gives_the_same_run(grown, data_dir, tmp_path):
    _, results = grown
    again = run(data_dir, tmp_path / "again")
    for name, values in results["history"].items():
        if name != "seconds":
            np.testing.assert_allclose(again["history"][name], values, rtol=1e-3, atol=1e-5)


def test_a_stopped_run_ends_as_if_it_had_not_been(grown, data_dir, tmp_path, monkeypatch):
    _, results = grown

    class Killed(Exception):
        pass

    def killed(self, epoch, logs=None):
        if epoch == 1:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(keras_grow.GrowthBackup, "on_epoch_begin", killed)
        run(data_dir, tmp_path)
    assert not (tmp_path / "results.json").exists()
    after = run(data_dir, tmp_path)
    for name, values in results["history"].items():
        if name != "seconds":
            np.testing.assert_allclose(after["history"][name], values, rtol=1e-3, atol=1e-5)
    assert after["widths"] == results["widths"]


def test_progress_and_summary_are_printed(grown, printed):
    _, results = grown
    printed = printed.getvalue()
    assert printed.count("epoch 1: net2wider grew 52 -> 70 neurons") == 1
    assert "note: the penalty lasts 1 epochs after a growth (--every), not 15" in printed
    assert "Epoch 3/3" in printed
    assert f"test accuracy {100 * results['test_accuracy']:.2f} %" in printed


def test_no_growth_is_noted(capsys):
    cifar.growth(cifar.parse(["--epochs", "5"]))
    assert "note: --every 50 leaves no growth within --epochs 5" in capsys.readouterr().out


def test_penalty_lasts_as_in_the_paper():
    for method, epochs in (("random", 20), ("net2wider", 15)):
        assert cifar.penalty(cifar.parse(["--method", method])).epochs == epochs
    args = cifar.parse(["--penalty-epochs", "7", "--penalty-weight", "0", "--weight-sum", "0.5"])
    want = keras_grow.SimilarityPenalty(weight=0.0, weight_sum=0.5, epochs=7)
    assert cifar.penalty(args) == want
    assert cifar.growth(cifar.parse(["--no-penalty"])).penalty is None


@pytest.mark.parametrize(
    "extra",
    [
        ["--model", "mobilenet", "--no-penalty", "--schedule", "restarts", "--mixed-precision"],
        ["--schedule", "hold", "--validation-examples", "60", "--train-examples", "100"],
    ],
)
def test_options(data_dir, tmp_path, extra):
    results = run(data_dir, tmp_path, "--epochs", "2", *extra)
    assert len(results["growth"]) == 1
    assert np.isfinite(results["history"]["loss"]).all()
    assert keras.config.dtype_policy().name == "float32"


def test_cifar100(tmp_path, monkeypatch):
    folder = write_tfds(tmp_path, "cifar100", 100, 50, monkeypatch)
    results = run(folder, tmp_path / "out", "--dataset", "cifar100", "--method", "random")
    model = keras.models.load_model(tmp_path / "out" / "model.keras")
    assert model.output_shape == (None, 100)
    assert [event["method"] for event in results["growth"]] == ["random", "random"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rate", "0"], "argument --rate: must be a positive number. Received: '0'"),
        (["--rate", "nan"], "must be a positive number"),
        (["--every", "0"], "argument --every: must be a positive integer"),
        (["--epochs", "2.5"], "argument --epochs: must be a positive integer"),
        (["--momentum", "1"], "argument --momentum: must be a number from 0 to below 1"),
        (["--seed", "-1"], "argument --seed: must be an integer of at least 0"),
        (["--method", "magic"], "argument --method: invalid choice: 'magic'"),
        (["--static"], "--static needs either --widths-from RESULTS.json or --width"),
        (["--widths-from", "x.json"], "add --static"),
        (["--static", "--widths-from", "x.json"], "No results at x.json"),
    ],
)
def test_bad_arguments(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        cifar.main(["--out", str(tmp_path), *arguments])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_results_are_not_overwritten(grown, capsys):
    out, _ = grown
    with pytest.raises(SystemExit):
        cifar.main(["--out", str(out)])
    assert "already holds results" in capsys.readouterr().err


def test_widths_of_another_model_are_refused(grown, tmp_path, capsys):
    out, _ = grown
    widths = ["--static", "--widths-from", str(out / "results.json")]
    with pytest.raises(SystemExit):
        cifar.main(["--out", str(tmp_path), "--model", "mobilenet", *widths])
    assert "a run of vgg16" in capsys.readouterr().err


def l2_with_momentum(weight, rate, decay, momentum, steps):
    """SGD as the published code has it, the loss being nothing but the L2 penalty."""
    velocity = 0.0
    for _ in range(steps):
        velocity = momentum * velocity + decay * weight
        weight -= rate * velocity
    return weight


def test_weight_decay_is_that_of_l2_with_momentum():
    args = cifar.parse(["--epochs", "1000", "--every", "999", "--schedule", "hold"])
    optimizer = cifar.sgd(args, steps_per_epoch=1000)
    variable = keras.Variable(1.0)
    optimizer.build([variable])
    for _ in range(500):
        optimizer.apply([keras.ops.zeros(())], [variable])
    lost, want = 1 - float(variable), 1 - l2_with_momentum(1.0, 0.1, 1e-4, 0.9, 500)
    assert lost == pytest.approx(want, rel=0.03)  # but for the momentum's first 10 steps
    assert want > 0.04


def test_no_weight_decay():
    assert cifar.sgd(cifar.parse(["--weight-decay", "0"]), 10).weight_decay is None


def test_a_value_that_is_not_finite_is_null(grown, tmp_path):
    out, _ = grown
    values = common.read_run(out / "results.json")
    values = dataclasses.replace(values, test_loss=float("nan"), history={"loss": [1.0, np.inf]})
    common.write_run(tmp_path / "run.json", values)
    read = json.loads((tmp_path / "run.json").read_text())
    assert (read["test_loss"], read["history"]) == (None, {"loss": [1.0, None]})


def test_a_failed_write_leaves_the_old_file(grown, tmp_path):
    path = tmp_path / "run.json"
    path.write_text("old")
    with pytest.raises(RuntimeError), common.replacing(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"format": "keras_grow.run", "ver', "damaged or only half written"),
        (b"", "damaged or only half written"),
        (b"\xff\xfe\x00", "damaged or only half written"),
        (b"[1, 2]", "is not the results of a recipe"),
        (b'{"accuracy": 1}', "is not the results of a recipe"),
        (b'{"format": "keras_grow.run", "version": 99}', "results of another version"),
        (b'{"format": "keras_grow.run", "version": 1}', "lacks recipe, configuration"),
    ],
)
def test_files_that_are_not_results(tmp_path, content, message):
    path = tmp_path / "run.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        common.read_run(path)
    assert str(path) in str(caught.value)


def test_missing_results(tmp_path):
    with pytest.raises(FileNotFoundError, match="No results at"):
        common.read_run(tmp_path / "run.json")
