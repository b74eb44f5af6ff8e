import contextlib
import gc
import io
import json
import statistics

import keras
import keras_tuner
import pytest
from small_cifar import recipe, small_network, write_npz
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from keras_grow import tuning

cifar, tune_lambda = recipe("cifar"), recipe("tune_lambda")

# KerasTuner 1.4.8 calls what Python has renamed.
pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore:currentThread:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:getName:DeprecationWarning"),
]

SMALL = "--model small --width 4 --epochs 2 --every 1 --batch-size 64 --method net2wider".split()
SPLIT = "--train-examples 100 --validation-examples 60".split()
SCAN = ["--scan", "lambda=0,0.1", "--seeds", "2"]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(cifar.MODELS, "small", (small_network, 4))
        patch.setattr(gc, "collect", lambda *args: 0)  # KerasTuner does, and it takes a second
        yield write_npz(tmp_path_factory.mktemp("cifar10"), "cifar10", 200, 50)


@pytest.fixture(scope="module")
def printed():
    return io.StringIO()


@pytest.fixture(scope="module")
def scanned(data_dir, tmp_path_factory, printed):
    """Folder and results of a scan that was stopped after its first trial, and taken up again."""
    out = tmp_path_factory.mktemp("runs") / "scan"
    first = run(data_dir, out, *SCAN, "--trials", "1")
    with contextlib.redirect_stdout(printed):
        return out, first, run(data_dir, out, *SCAN)


def run(data_dir, out, *extra):
    places = ["--data-dir", str(data_dir), "--out", str(out)]
    return tune_lambda.main([*SMALL, *SPLIT, *places, *extra])


def test_scan_is_taken_up_again(scanned):
    out, first, found = scanned
    assert [trial["hyperparameters"] for trial in first["trials"]] == [{"weight_sum": 0.0}]
    by_id = {trial["id"]: trial for trial in found["trials"]}
    assert len(by_id) == 2
    assert by_id["0"] == first["trials"][0]  # its seconds, too: it was not trained again
    assert {t["hyperparameters"]["weight_sum"] for t in found["trials"]} == {0.0, 0.1}
    assert json.loads((out / "trials.json").read_text()) == found


def test_what_a_trial_says(scanned):
    out, _, found = scanned
    for trial in found["trials"]:
        assert (trial["status"], trial["epochs"], trial["error"]) == ("COMPLETED", 2, None)
        kept = json.loads((out / "search" / f"trial_{trial['id']}" / "executions.json").read_text())
        assert trial["accuracies"] == [each["history"]["val_accuracy"][-1] for each in kept]
        assert trial["mean"] == pytest.approx(statistics.mean(trial["accuracies"]))
        assert trial["deviation"] == pytest.approx(statistics.stdev(trial["accuracies"]))
        of_60_images = [60 * accuracy for accuracy in trial["accuracies"]]
        assert of_60_images == pytest.approx([round(right) for right in of_60_images], abs=1e-4)
        assert [len(each["growth"]) for each in kept] == [1, 1]
        assert trial["params"] == [each["growth"][0]["parameters_after"] for each in kept]
    means = [trial["mean"] for trial in found["trials"]]
    assert means == sorted(means, reverse=True)
    assert found["configuration"]["weight_sum"] == "0.0,0.1"
    assert found["configuration"]["weight"] == "1.0"


def test_the_table_and_the_files(scanned, printed):
    out, _, found = scanned
    best = found["trials"][0]
    lines = printed.getvalue().splitlines()
    header = next(i for i, line in enumerate(lines) if "weight_sum  epochs" in line)
    accuracy = f"{100 * best['mean']:.2f} +- {100 * best['deviation']:.2f} (2)"
    assert accuracy in lines[header + 1]
    names = ["accuracy_against_weight_sum.png", "configuration.json", "search", "tensorboard"]
    assert sorted(path.name for path in out.iterdir()) == [*names, "trials.json"]
    assert (out / names[0]).read_bytes().startswith(b"\x89PNG")


def test_tensorboard_has_the_hyperparameters(scanned):
    out, _, _ = scanned
    files = (out / "tensorboard").rglob("events.out.tfevents.*")
    values = [
        value
        for file in files
        for event in EventFileLoader(str(file)).Load()
        for value in event.summary.value
    ]
    plugins = [value.metadata.plugin_data for value in values]
    assert any(b"weight_sum" in p.content for p in plugins if p.plugin_name == "hparams")
    assert {"epoch_params", "epoch_accuracy"} <= {value.tag for value in values}


def test_a_random_search_in_mixed_precision(data_dir, tmp_path):
    given = "--tuner random --trials 1 --mixed-precision --penalty-weight 0.1".split()
    try:
        (trial,) = run(data_dir, tmp_path, *given)["trials"]
    finally:
        keras.config.set_dtype_policy("float32")
    assert list(trial["hyperparameters"]) == ["weight_sum"]  # --every 1 leaves one N
    assert 1e-4 <= trial["hyperparameters"]["weight_sum"] <= 1
    saved = tmp_path / "search" / f"trial_{trial['id']}" / "best.keras"
    model = keras.models.load_model(saved, compile=False)
    assert model.get_layer("conv1").compute_dtype == "float16"


def test_hyperband_has_no_round_without_a_growth(data_dir, tmp_path):
    given = [*SMALL, *SPLIT, "--data", str(data_dir), "--out", str(tmp_path)]
    args, training = tune_lambda.parse([*given, "--epochs", "12", "--every", "3"])
    oracle = tune_lambda.make_tuner(args, training, tune_lambda.data.load(training)).oracle
    assert (oracle.min_epochs, oracle.max_epochs) == (4, 12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scan", "lambda=0.1"], "must be NAME=V,V,... with a name of lambda, weight, epochs"),
        (["--scan", "width=1,2"], "must be NAME=V,V,... with a name of"),
        (["--scan", "epochs=1.5,2"], "must be a value, LOW:HIGH or A,B,C of type int"),
        (["--scan", "epochs=0,2"], "`epochs` must be a positive integer"),
        (["--weight-sum", "0:1"], "`weight_sum` must be a range above 0"),
        (["--weight-sum", "1:0.1"], "`weight_sum` must be a range (lowest, highest)"),
        (["--penalty-weight", "much"], "argument --penalty-weight: must be a value, LOW:HIGH or"),
        (["--method", "magic,random"], "Unknown growth method"),
        (["--rate", "0"], "`rate` must be a positive number"),
        (["--validation-examples", "0"], "--validation-examples must leave images to judge by"),
        (["--static", "--width", "4"], "--static, --no-penalty and --test-every don't go"),
        (["--epochs", "5"], "--every 50 leaves no growth within 5 epochs"),
        (["--tuner", "random", "--scan", "lambda=0,1"], "--scan is a grid"),
        (["--trials", "3"], "--trials follow from --epochs with hyperband"),
        (
            "--weight-sum 0.1 --penalty-weight 1 --penalty-epochs 3".split(),
            "there is nothing to search: give one a range",
        ),
        (["--seeds", "0"], "argument --seeds: must be a positive integer"),
        (["--no-such-option"], "unrecognized arguments: --no-such-option"),
    ],
)
def test_bad_arguments(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        tune_lambda.main(["--out", str(tmp_path / "out"), *arguments])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_is_searched_by_default():
    args, training = tune_lambda.parse(["--every", "20"])
    assert (args.tuner, args.weight_sum, args.weight) == ("hyperband", (1e-4, 1.0), (0.01, 1.0))
    assert (args.penalty_epochs, args.method, args.rate) == ((1, 20), "firefly", 0.35)
    assert (training.epochs, training.validation_examples) == (250, 5000)
    args, _ = tune_lambda.parse(["--tuner", "random", "--method", "random,firefly"])
    assert (args.penalty_epochs, args.trials, args.method) == ((1, 30), 20, ["random", "firefly"])


def test_another_configuration_is_refused(scanned, data_dir):
    out, _, _ = scanned
    before = sorted((path, path.stat().st_mtime_ns) for path in out.rglob("*"))
    with pytest.raises(
        ValueError, match=r"seeds was 2, now 1; weight_sum was 0\.0,0\.1, now 0\.0,"
    ):
        run(data_dir, out, "--scan", "lambda=0,0.5")
    assert sorted((path, path.stat().st_mtime_ns) for path in out.rglob("*")) == before


@pytest.mark.parametrize("file", ["configuration.json", "search/oracle.json"])
def test_damaged_files_are_named(scanned, data_dir, file):
    out, _, _ = scanned
    whole = (out / file).read_text()
    (out / file).write_text(whole[: len(whole) // 2])
    try:
        with pytest.raises(ValueError, match=f"{file} is damaged or only half written"):
            run(data_dir, out, *SCAN)
        assert (out / file).read_text() == whole[: len(whole) // 2]
    finally:
        (out / file).write_text(whole)


def test_a_folder_of_something_else_is_refused(data_dir, tmp_path):
    (tmp_path / "trials.json").write_text("{}")
    with pytest.raises(ValueError, match="holds something else than a search"):
        run(data_dir, tmp_path, *SCAN)
    (tmp_path / "configuration.json").write_text("[]")
    with pytest.raises(ValueError, match="is not a configuration"):
        run(data_dir, tmp_path, *SCAN)
    assert len(list(tmp_path.iterdir())) == 2


def trial(accuracies, epochs=2, **values):
    return {"hyperparameters": values, "accuracies": accuracies, "mean": 0.5, "epochs": epochs}


def test_a_grid_is_summed_up_by_value():
    grid = [
        trial([a / 10, a / 10 + n / 5], weight_sum=a, penalty_epochs=n, method=m)
        for a in (4, 1)
        for n in (1, 2)
        for m in ("random", "firefly")
    ]
    found = tuning.by_value([*grid, trial([0.9], epochs=1, weight_sum=1, penalty_epochs=1)])
    of_one = [0.1, 0.3, 0.1, 0.3, 0.1, 0.5, 0.1, 0.5]
    assert [each["value"] for each in found["weight_sum"]] == [1, 4]
    assert found["weight_sum"][0] == {
        "value": 1,
        "mean": pytest.approx(0.25),
        "error": pytest.approx(statistics.stdev(of_one) / 8**0.5),
        "runs": 8,
    }
    assert [each["value"] for each in found["method"]] == ["firefly", "random"]
    rows = tune_lambda.table_by_value(found).splitlines()
    assert len(rows) == 7 and rows[1].split() == ["weight_sum", "1", "25.00", "+-", "6.27", "8"]


def test_single_runs_have_no_summary():
    found = tuning.by_value([trial([0.5], weight=w / 7) for w in (1, 2)])
    assert [each["error"] for each in found["weight"]] == [None, None]
    assert (
        tune_lambda.table_by_value(found) == tune_lambda.table_by_value(tuning.by_value([])) == ""
    )


def test_figures_are_of_the_trials_trained_longest():
    found = [trial([0.5, 0.6], weight=w, method="random") for w in (0.0, 0.1)]
    drawn = tune_lambda.figures([*found, trial([0.9], epochs=1, weight=0.5, method="random")])
    assert list(drawn) == ["weight"]
    (axes,) = drawn["weight"].axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "0.1"]
    assert tune_lambda.figures([{**trial([], weight=0.5), "mean": None}]) == {}


class Searched:
    """A tuner that has searched."""

    def __init__(self, trials):
        self.oracle = self
        self.trials = {trial.trial_id: trial for trial in trials}
        self.objective = keras_tuner.Objective("val_accuracy", "max")

    def executions(self, trial):
        return []


def test_failed_trials_are_said_to_have_failed():
    failed = keras_tuner.engine.trial.Trial(keras_tuner.HyperParameters(), "7", "FAILED")
    failed.hyperparameters.values = {"weight_sum": 0.1, "tuner/initial_epoch": 0}
    failed.message = "Traceback:\n  line\nValueError: too wide"
    (described,) = tuning.describe(Searched([failed]))
    assert described["mean"] is None and described["hyperparameters"] == {"weight_sum": 0.1}
    assert tune_lambda.table([described]).splitlines()[1].endswith("FAILED ValueError: too wide")


def test_a_worker_leaves_the_report_to_the_chief(monkeypatch):
    assert not tune_lambda.is_worker()
    monkeypatch.setenv("KERASTUNER_ORACLE_IP", "127.0.0.1")
    monkeypatch.setenv("KERASTUNER_TUNER_ID", "worker-0")
    assert tune_lambda.is_worker()
    monkeypatch.setenv("KERASTUNER_TUNER_ID", "chief")
    assert not tune_lambda.is_worker()


def test_the_tuners():
    assert {kind: tuner.__name__ for kind, tuner in tune_lambda.TUNERS.items()} == {
        "hyperband": "Hyperband",
        "bayesian": "BayesianOptimization",
        "random": "RandomSearch",
        "grid": "GridSearch",
    }
    assert all(issubclass(tuner, tuning.GrowthTuner) for tuner in tune_lambda.TUNERS.values())
