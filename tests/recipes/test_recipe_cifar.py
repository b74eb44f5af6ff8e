"""The recipe on digits that pass for CIFAR: what it says, what is in its files, what it refuses."""

import contextlib
import io
import json

import keras
import numpy as np
import pytest
from small_cifar import recipe, small_network, write_npz

import keras_grow
from keras_grow import runs

pytestmark = pytest.mark.long

cifar, common = recipe("cifar"), recipe("common")

SMALL = "--model small --epochs 3 --every 1 --batch-size 64 --method net2wider".split()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(cifar.MODELS, "small", (small_network, 4))
        yield write_npz(tmp_path_factory.mktemp("cifar10"), "cifar10", 200, 50)


@pytest.fixture(scope="module")
def printed():
    """What the small grown run prints, from the moment that it has run."""
    return io.StringIO()


@pytest.fixture(scope="module")
def grown(data, tmp_path_factory, printed):
    """Folder and returned results of one small grown run."""
    out = tmp_path_factory.mktemp("runs") / "grown"
    with contextlib.redirect_stdout(printed):
        return out, run(data, out)


def run(data, out, *extra):
    return cifar.main([*SMALL, "--data", str(data), "--out", str(out), *extra])


def same(history, other):
    for name, values in other.items():
        if name != "seconds":
            np.testing.assert_allclose(history[name], values, rtol=1e-3, atol=1e-5, err_msg=name)


def test_the_file_holds_what_main_returns(grown):
    out, results = grown
    assert json.loads((out / "results.json").read_text()) == results
    assert runs.read(out).to_dict() == results
    assert sorted(p.name for p in out.iterdir()) == ["model.keras", "results.json"]


def test_growth_and_history(grown):
    _, results = grown
    assert [event["epoch"] for event in results["growth"]] == [1, 2]
    assert [event["widths_after"]["conv1"] for event in results["growth"]] == [5, 6]
    assert results["neurons"] == sum(results["widths"].values()) == 6
    history = results["history"]
    for name in ("loss", "accuracy", "val_loss", "val_accuracy", "params", "similarity"):
        assert len(history[name]) == 3
    assert history["params"][-1] == results["parameters"]
    assert history["val_accuracy"][-1] == pytest.approx(results["test_accuracy"])
    assert np.isfinite(history["loss"]).all()


def test_flops_are_counted_at_each_epochs_width(grown):
    _, results = grown
    # 16 windows of 8 x 8 x 3, then the head; three products a step, two operations each.
    want = [3 * 2 * 200 * (16 * 192 * width + 10 * width) for width in (4, 5, 6)]
    assert results["history"]["training_flops"] == want
    assert results["training_flops"] == sum(want)


def test_learning_rate_is_one_cosine(grown):
    _, results = grown
    # Three epochs of four steps; the rate of an epoch is the one after its last step.
    want = [0.05 * (1 + np.cos(np.pi * step / 12)) for step in (4, 8, 12)]
    np.testing.assert_allclose(results["history"]["learning_rate"], want, atol=1e-6)


def test_configuration(grown):
    _, results = grown
    asked = results["configuration"]
    named = [asked[name] for name in ("model", "width", "rate", "static", "backend")]
    assert named == ["small", 4, 0.35, False, keras.config.backend()]


def test_the_saved_model_is_the_grown_one(grown):
    out, results = grown
    model = keras.models.load_model(out / "model.keras")
    assert model.widths == results["widths"]
    assert [event.to_dict() for event in model.growth_history] == results["growth"]


def test_static_baseline_has_the_grown_size(grown, data, tmp_path, capsys):
    out, results = grown
    static = run(data, tmp_path, "--static", "--widths-from", str(out / "results.json"))
    assert static["parameters"] == results["parameters"]
    assert static["widths"] == results["widths"]
    assert static["growth"] == []
    assert "penalty lasts" not in capsys.readouterr().out  # it has none
    assert static["training_flops"] == 3 * results["history"]["training_flops"][-1]
    assert static["history"]["learning_rate"] == results["history"]["learning_rate"]


def test_the_same_seed_gives_the_same_run(grown, data, tmp_path):
    same(run(data, tmp_path / "again")["history"], grown[1]["history"])


def test_a_stopped_run_ends_as_if_it_had_not_been(grown, data, tmp_path, monkeypatch):
    _, results = grown

    class Killed(Exception):
        pass

    def killed(self, epoch, logs=None):
        if epoch == 1:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(keras_grow.GrowthBackup, "on_epoch_begin", killed)
        run(data, tmp_path)
    assert not (tmp_path / "results.json").exists()
    after = run(data, tmp_path)
    same(after["history"], results["history"])
    assert after["widths"] == results["widths"]


def test_when_its_time_is_up_a_run_goes_on_another_time(grown, data, tmp_path, capsys):
    """A run that may train two steps at a time ends as one without a limit."""
    for _ in range(5):
        assert run(data, tmp_path, "--minutes", "1e-9") is None
        assert "stopped after 1e-09 min" in capsys.readouterr().out
    assert not (tmp_path / "results.json").exists()
    after = run(data, tmp_path, "--minutes", "60")
    same(after["history"], grown[1]["history"])
    assert len(after["history"]["seconds"]) == 3


def test_progress_and_summary_are_printed(grown, printed):
    _, results = grown
    printed = printed.getvalue()
    assert printed.count("epoch 1: net2wider grew 4 -> 5 neurons") == 1
    assert "note: the penalty lasts 1 epochs after a growth (--every), not 15" in printed
    assert "Epoch 3/3" in printed
    assert f"test accuracy {100 * results['test_accuracy']:.2f} %" in printed


def test_no_growth_is_noted(capsys):
    cifar.growth(cifar.parse(["--epochs", "5"]))
    assert "note: --every 50 leaves no growth within --epochs 5" in capsys.readouterr().out


def test_growths_at_given_epochs():
    args = cifar.parse("--epochs 9 --at 4 2 12 --schedule restarts".split())
    schedule = cifar.growth(args).schedule
    assert [epoch for epoch in range(9) if schedule.due(epoch)] == [2, 4]
    optimizer = cifar.sgd(args, steps_per_epoch=100)
    rates = []
    for step in (199, 200, 399, 400):
        optimizer.iterations.assign(step)
        rates.append(float(optimizer.learning_rate))
    assert rates == pytest.approx([0, 0.1, 0, 0.1], abs=1e-3)


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
        "--no-penalty --schedule restarts --mixed-precision --steps-per-execution 2",
        "--schedule hold --validation-examples 60 --train-examples 100 --save-every 1",
    ],
)
def test_options(data, tmp_path, extra):
    try:
        results = run(data, tmp_path, "--epochs", "2", *extra.split())
    finally:
        keras.config.set_dtype_policy("float32")
    assert len(results["growth"]) == 1
    assert np.isfinite(results["history"]["loss"]).all()


@pytest.mark.parametrize(("model", "widest"), [("vgg16", 13), ("mobilenet", 14)])
def test_the_networks_of_the_paper(model, widest, data):
    args = cifar.parse(["--model", model, "--dataset", "cifar100", "--data", str(data)])
    images = cifar.data.load(cifar.parse(["--data", str(data)]))
    built = cifar.build_model(args, images)
    assert set(built.widths.values()) == {16 if model == "vgg16" else 32}
    assert len(built.widths) == widest
    assert built.output_shape == (None, 10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rate", "0"], "argument --rate: must be a positive number. Received: '0'"),
        (["--rate", "nan"], "must be a positive number"),
        (["--every", "0"], "argument --every: must be a positive integer"),
        (["--epochs", "2.5"], "argument --epochs: must be a positive integer"),
        (["--momentum", "1"], "argument --momentum: must be a number from 0 to below 1"),
        (["--seed", "-1"], "argument --seed: must be an integer of at least 0"),
        (["--minutes", "0"], "argument --minutes: must be a positive number"),
        (["--method", "magic"], "argument --method: invalid choice: 'magic'"),
        (["--backend", "torch"], "argument --backend: invalid choice: 'torch'"),
        (["--static"], "--static needs either --widths-from RESULTS.json or --width"),
        (["--widths-from", "x.json"], "add --static"),
        (["--static", "--widths-from", "x.json"], "No results at x.json"),
        (["--noise", "0.5"], "--noise is of the copies that --method net2wider makes"),
        (["--static-penalty", "always"], "--static-penalty is for a --static network"),
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
    assert "a run of small" in capsys.readouterr().err


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


def test_a_folder_of_another_configuration_is_refused(tmp_path):
    common.claim(tmp_path / "a.json", {"epochs": 2, "seed": 0})
    common.claim(tmp_path / "a.json", {"epochs": 2, "seed": 0})
    with pytest.raises(common.FolderError, match="epochs was 2, now 3"):
        common.claim(tmp_path / "a.json", {"epochs": 3, "seed": 0})
    (tmp_path / "a.json").write_text('{"epo')
    with pytest.raises(common.FolderError, match=r"a\.json is damaged or only half written"):
        common.claim(tmp_path / "a.json", {"epochs": 2})
