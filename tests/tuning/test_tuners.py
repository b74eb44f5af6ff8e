import gc
import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import keras
import keras_tuner
import numpy as np
import pytest
from networks import mlp
from problems import compiled
from searches import SPLITS, Interrupt, X, Y, build, hypermodel, search
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

import keras_grow
from keras_grow import tuning

# KerasTuner 1.4.8 calls what Python has renamed.
pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore:`GrowthCallback` grows nothing in this `fit`"),
    pytest.mark.filterwarnings("ignore:currentThread:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:getName:DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def _no_garbage_collection(monkeypatch):
    """KerasTuner collects garbage before each execution, which takes longer than a search here."""
    monkeypatch.setattr(gc, "collect", lambda *args: 0)


@pytest.mark.parametrize(
    "kind",
    [tuning.RandomSearch, pytest.param(tuning.BayesianOptimization, marks=pytest.mark.slow)],
)
def test_best_models_are_the_grown_ones(tmp_path, kind):
    tuner = search(tmp_path, kind)
    trials, models = tuner.oracle.get_best_trials(2), tuner.get_best_models(2)
    for trial, model in zip(trials, models, strict=True):
        (execution,) = tuner.executions(trial)
        losses = execution["history"]["val_loss"]
        assert trial.score == min(losses)
        assert model.evaluate(X[32:], Y[32:], verbose=0) == pytest.approx(trial.score, rel=1e-5)
        parameters = execution["history"]["params"][losses.index(trial.score)]
        assert sum(math.prod(v.shape) for v in model.trainable_variables) == parameters
    assert models[0].neurons > mlp().neurons
    assert trials[0].hyperparameters.values != trials[1].hyperparameters.values


def test_best_hyperparameters_build_a_new_model(tmp_path):
    tuner = search(tmp_path, max_trials=1, epochs=2)
    (hp,) = tuner.get_best_hyperparameters()
    assert tuner.hypermodel.build(hp).neurons == mlp().neurons


def test_hyperband_goes_on_from_the_grown_model(tmp_path):
    model = hypermodel(method=keras_grow.methods.Net2Wider(seed=0))
    # The best epoch is the first one, before any growth; it is not where to go on.
    objective = keras_tuner.Objective("val_loss", "max")
    tuner = search(tmp_path, tuning.Hyperband, model, max_epochs=3, factor=2, objective=objective)
    trials = [t for t in tuner.oracle.trials.values() if "tuner/trial_id" in t.hyperparameters]
    assert len(trials) == 2
    for trial in trials:
        hp = trial.hyperparameters
        assert (hp["tuner/initial_epoch"], hp["tuner/epochs"]) == (2, 3)
        (execution,) = tuner.executions(trial)
        assert [event["epoch"] for event in execution["growth"]] == [1, 2]
        in_one_go, losses = train_in_one_go(tuner.hypermodel, hp)
        np.testing.assert_allclose(execution["history"]["loss"], losses[2:], rtol=1e-4)
        kept = keras.models.load_model(Path(tuner.get_trial_dir(trial.trial_id), "last-0.keras"))
        for one, other in zip(kept.weights, in_one_go.weights, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
        slots = zip(kept.optimizer.variables, in_one_go.optimizer.variables, strict=True)
        for one, other in slots:
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-6)


def test_no_round_ends_before_the_first_growth(tmp_path):
    model = hypermodel(every=[1, 2])
    tuner = tuning.Hyperband(model, "val_loss", max_epochs=6, factor=2, directory=str(tmp_path))
    assert tuner.oracle.create_trial("tuner0").hyperparameters["tuner/epochs"] == 3
    with pytest.raises(ValueError, match=r"`max_epochs` must be at least 3.*max_epochs=2"):
        tuning.Hyperband(model, "val_loss", max_epochs=2, directory=str(tmp_path / "short"))


@pytest.mark.slow
def test_in_no_round_of_a_search_the_first_growth_is_missing(tmp_path):
    model = hypermodel(every=[1, 2])
    tuner = search(tmp_path, tuning.Hyperband, model, max_epochs=6, factor=2, min_epochs=None)
    trials = tuner.oracle.trials.values()
    assert {trial.hyperparameters["tuner/epochs"] for trial in trials} == {3, 6}
    for trial in trials:
        assert tuner.executions(trial)[0]["growth"][0]["epoch"] < 3


def test_an_epoch_that_was_not_validated_is_not_the_best(tmp_path):
    tuner = tuning.RandomSearch(
        hypermodel(),
        "val_loss",
        max_trials=1,
        seed=1,
        directory=str(tmp_path),
        executions_per_trial=2,
    )
    tuner.search(**SPLITS, epochs=3, batch_size=32, verbose=0, validation_freq=2)
    (trial,) = tuner.oracle.trials.values()
    best = min(each["history"]["val_loss"][0] for each in tuner.executions(trial))
    (model,) = tuner.get_best_models()
    assert model.evaluate(X[32:], Y[32:], verbose=0) == pytest.approx(best, rel=1e-5)


def train_in_one_go(model, hp):
    """Trains without a tuner and without a break, from the seed of a first execution."""
    entropy = np.random.SeedSequence([model.seed, 0, 0]).generate_state(1)[0]
    keras.utils.set_random_seed(int(entropy))
    trained, growth = model.build(hp), model.growth(hp)
    history = trained.fit(**SPLITS, epochs=3, batch_size=32, verbose=0, callbacks=[growth])
    return trained, history.history["loss"]


def test_executions_are_kept_apart_and_continued_apart(tmp_path):
    tuner = search(tmp_path, tuning.Hyperband, max_epochs=2, factor=2, executions_per_trial=2)
    for trial in tuner.oracle.trials.values():
        executions = tuner.executions(trial)
        scores = [min(execution["history"]["val_loss"]) for execution in executions]
        assert len(set(scores)) == 2
        assert trial.score == pytest.approx(np.mean(scores))
        earlier = trial.hyperparameters.values.get("tuner/trial_id")
        for number, execution in enumerate(executions if earlier else []):
            before = tuner.executions(tuner.oracle.trials[earlier])[number]
            assert execution["history"]["loss"][0] < before["history"]["loss"][-1]


def test_all_trials_have_the_same_seeds(tmp_path):
    tuner = search(tmp_path, model=hypermodel(weight=(0.1, 1.0)), epochs=1, executions_per_trial=2)
    first = [
        [execution["history"]["val_loss"][0] for execution in tuner.executions(trial)]
        for trial in tuner.oracle.trials.values()
    ]
    assert first[0] == pytest.approx(first[1])  # the penalty comes only with the first growth
    assert first[0][0] != first[0][1]


@pytest.mark.tensorflow
def test_models_are_loaded_under_the_tuners_strategy(tmp_path):
    strategy = pytest.importorskip("tensorflow").distribute.MirroredStrategy(["cpu:0"])

    model = tuning.GrowthHyperModel(
        lambda: compiled(mlp(), optimizer="adam"), (0.01, 1), 0.1, 1, "net2wider", 0.5, every=1
    )
    tuner = search(tmp_path, model=model, max_trials=1, epochs=2, distribution_strategy=strategy)
    (best,) = tuner.get_best_models()
    assert best.distribute_strategy is strategy
    assert best.neurons > mlp().neurons


def test_stock_tuners_are_refused(tmp_path):
    with pytest.raises(
        TypeError, match=r"Use the tuner of the same name in `keras_grow\.tuning`.*RandomSearch"
    ):
        search(tmp_path, keras_tuner.RandomSearch)


def test_best_models_of_a_stock_tuner_say_which_tuner_keeps_them(tmp_path):
    tuner = keras_tuner.RandomSearch(
        build, "val_loss", max_trials=1, seed=1, directory=tmp_path, project_name="search"
    )
    callbacks = [keras_grow.GrowthCallback(0.5, every=1, method="net2wider", penalty=None)]
    tuner.search(**SPLITS, epochs=3, batch_size=32, verbose=0, callbacks=callbacks)
    with pytest.raises(ValueError, match=r"other widths.*same name in `keras_grow\.tuning`"):
        tuner.get_best_models()


def test_tuner_of_ones_own(tmp_path):
    class Mine(tuning.GrowthTuner, keras_tuner.BayesianOptimization):
        pass

    (best,) = search(tmp_path, Mine, epochs=2, max_trials=1).get_best_models()
    assert best.neurons > mlp().neurons


@pytest.mark.parametrize(
    ("kind", "given", "settings", "trials"),
    [
        pytest.param(tuning.RandomSearch, {"max_trials": 3}, {}, 3, marks=pytest.mark.slow),
        pytest.param(tuning.BayesianOptimization, {"max_trials": 3}, {}, 3, marks=pytest.mark.slow),
        (tuning.GridSearch, {}, {"weight_sum": [0, 0.1, 0.2]}, 3),
        (tuning.Hyperband, {"max_epochs": 2, "factor": 2}, {}, 5),
    ],
)
def test_a_search_is_taken_up_again(tmp_path, monkeypatch, kind, given, settings, trials):
    monkeypatch.setattr(Interrupt, "fits", 0)
    model = hypermodel(**settings)
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, kind, model, 2, [Interrupt((2, 0))], **given)
    files = sorted((tmp_path / "search").glob("trial_*/executions.json"))
    assert len(files) == 1
    written = files[0].stat().st_mtime_ns
    tuner = search(tmp_path, kind, model, 2, **given)
    assert files[0].stat().st_mtime_ns == written  # the finished trial wasn't run again
    assert len(tuner.oracle.trials) == trials
    statuses = {trial.status for trial in tuner.oracle.trials.values()}
    assert statuses == {"COMPLETED"}
    assert tuner.get_best_models()[0].neurons >= mlp().neurons


def test_a_search_stopped_in_its_first_trial_begins_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(Interrupt, "fits", 0)
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, tuning.GridSearch, hypermodel(weight_sum=[0, 0.1]), 2, [Interrupt((1, 1))])
    tuner = search(tmp_path, tuning.GridSearch, hypermodel(weight_sum=[0, 0.1]), 2)
    for trial in tuner.oracle.get_best_trials(3):
        (execution,) = tuner.executions(trial)
        assert len(execution["history"]["loss"]) == 2
    assert len(tuner.oracle.trials) == 2


def test_grid_tries_every_combination_once(tmp_path):
    model = hypermodel(weight_sum=[0, 0.1], method=["random", "net2wider"])
    tuner = search(tmp_path, tuning.GridSearch, model, epochs=1)
    tried = [tuple(t.hyperparameters.values.values()) for t in tuner.oracle.trials.values()]
    assert tried == [(0.0, "random"), (0.0, "net2wider"), (0.1, "random"), (0.1, "net2wider")]


def test_grid_leaves_out_what_a_choice_makes_irrelevant(tmp_path):
    oracle = tuning.GridSearch(lambda hp: mlp(), "val_loss", directory=str(tmp_path)).oracle
    hp = oracle.get_space()
    hp.Choice("kind", ["a", "b"])
    with hp.conditional_scope("kind", ["b"]):
        hp.Choice("size", [1, 2])
    oracle.update_space(hp)
    tried = []
    while (trial := oracle.create_trial(f"tuner{len(tried)}")).status == "RUNNING":
        tried.append(trial.hyperparameters.values)
    assert tried == [{"kind": "a"}, {"kind": "b", "size": 1}, {"kind": "b", "size": 2}]


def test_damaged_and_missing_files(tmp_path):
    tuner = search(tmp_path, epochs=1, max_trials=1)
    (trial,) = tuner.oracle.get_best_trials()
    folder = tmp_path / "search" / "trial_0"
    whole = (folder / "best.keras").read_bytes()
    (folder / "best.keras").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"The model of trial 0 can't be loaded from .*best.keras"):
        tuner.get_best_models()
    (folder / "best.keras").unlink()
    with pytest.raises(ValueError, match="Trial 0 has left no model at"):
        tuner.get_best_models()
    (folder / "executions.json").write_text('[{"history": {"lo')
    with pytest.raises(ValueError, match=r"executions\.json is damaged or only half written"):
        tuner.executions(trial)
    (folder / "executions.json").unlink()
    assert tuner.executions(trial) == []


def test_tensorboard_shows_hyperparameters_and_growth(tmp_path):
    board = keras.callbacks.TensorBoard(tmp_path / "board")
    tuner = search(tmp_path, max_trials=1, epochs=2, callbacks=[board])
    (trial,) = tuner.oracle.get_best_trials()
    summaries = [
        value
        for file in (tmp_path / "board").rglob("events.out.tfevents.*")
        for event in EventFileLoader(str(file)).Load()
        for value in event.summary.value
    ]
    plugins = {value.metadata.plugin_data.plugin_name for value in summaries}
    assert "hparams" in plugins
    content = b"".join(value.metadata.plugin_data.content for value in summaries)
    assert list(trial.hyperparameters.values) == ["weight_sum"]
    assert b"weight_sum" in content
    assert "epoch_params" in {value.tag for value in summaries}


# A chief and its workers


def search_in_parallel(folder):
    """What each process of a parallel search does; KerasTuner's variables say which one it is."""
    tuner = search(folder, tuning.Hyperband, max_epochs=3, factor=3, executions_per_trial=2)
    if os.environ["KERASTUNER_TUNER_ID"] == "chief":
        (trial,), (model,) = tuner.oracle.get_best_trials(), tuner.get_best_models()
        scores = [min(each["history"]["val_loss"]) for each in tuner.executions(trial)]
        loss = model.evaluate(X[32:], Y[32:], verbose=0)
        found = {"trial": trial.score, "executions": scores, "model": loss, "widths": model.widths}
        Path(folder, "found.json").write_text(json.dumps(found))


@pytest.mark.slow
def test_a_chief_and_two_workers(tmp_path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = {"KERASTUNER_ORACLE_IP": "127.0.0.1"}
        address["KERASTUNER_ORACLE_PORT"] = str(listener.getsockname()[1])
    address["PYTHONPATH"] = str(Path(__file__).parents[1] / "helpers")
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, tmp_path],
            env={**os.environ, **address, "KERASTUNER_TUNER_ID": name},
        )
        for name in ("chief", "worker-0", "worker-1")
    ]
    try:
        assert [process.wait(timeout=600) for process in processes] == [0, 0, 0]
    finally:
        for process in processes:
            process.kill()
    project = tmp_path / "search"
    trials = [json.loads(path.read_text()) for path in project.glob("trial_*/trial.json")]
    assert [trial["status"] for trial in trials] == ["COMPLETED"] * 6
    continued = [t for t in trials if "tuner/trial_id" in t["hyperparameters"]["values"]]
    assert len(continued) == 1
    assert (project / "worker-0.json").exists() and (project / "worker-1.json").exists()
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["trial"] == pytest.approx(np.mean(found["executions"]))
    assert found["model"] == pytest.approx(min(found["executions"]), rel=1e-5)
    assert sum(found["widths"].values()) > mlp().neurons


if __name__ == "__main__":
    search_in_parallel(sys.argv[1])
