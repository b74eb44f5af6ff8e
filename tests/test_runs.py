"""Results of runs as files: what is written is read again, and nothing else is."""

import dataclasses
import json
import platform

import numpy as np
import pytest
from networks import mlp
from problems import eager, problem

import keras_grow
from keras_grow import runs


@pytest.fixture(scope="module")
def finished():
    """A model that has grown once, and the results of its training."""
    model, meter = eager(mlp()), keras_grow.CostMeter(24)
    x, y = problem(model)
    growth = keras_grow.GrowthCallback(0.5, 1, "random", penalty=None, verbose=0)
    history = model.fit(x, y, 8, epochs=2, verbose=0, callbacks=[meter, growth])
    test = {"loss": 0.25, "accuracy": 0.5}
    return model, runs.Run.of(history, meter, test, "test", {"seed": 0})


def test_what_a_run_says_of_its_model(finished):
    model, run = finished
    assert run.widths == model.widths and run.neurons == model.neurons
    assert run.parameters == sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    assert run.growth == [event.to_dict() for event in model.growth_history]
    assert run.training_flops == sum(run.history["training_flops"])
    assert run.seconds["training"] == pytest.approx(sum(run.history["seconds"]))
    assert 0 < run.seconds["widening"] < run.seconds["training"] <= run.seconds["total"]
    assert (run.test_loss, run.test_accuracy) == (0.25, 0.5)


def test_versions_and_machine(finished):
    _, run = finished
    assert run.versions["python"] == platform.python_version()
    assert run.versions["keras_grow"] == keras_grow.__version__
    assert len(run.versions) == 4  # Python, Keras, its backend, this package
    assert run.machine["cpus"] >= 1 and run.machine["devices"][0] == "CPU"


def test_what_is_written_is_read(finished, tmp_path):
    _, run = finished
    runs.write(tmp_path / "a" / runs.RESULTS, run)
    assert runs.read(tmp_path / "a") == runs.read(tmp_path / "a" / runs.RESULTS) == run
    assert json.loads((tmp_path / "a" / runs.RESULTS).read_text()) == run.to_dict()


def test_runs_are_found_by_their_files(finished, tmp_path):
    for name in ("b", "a", "more/c"):
        runs.write(tmp_path / name / runs.RESULTS, finished[1])
    (tmp_path / "empty").mkdir()
    assert runs.find(tmp_path) == [tmp_path / name for name in ("a", "b", "more/c")]


def test_a_value_that_is_not_finite_is_null(finished, tmp_path):
    values = dataclasses.replace(
        finished[1], test_loss=float("nan"), history={"loss": [1.0, np.inf]}
    )
    runs.write(tmp_path / "run.json", values)
    read = json.loads((tmp_path / "run.json").read_text())
    assert (read["test_loss"], read["history"]) == (None, {"loss": [1.0, None]})


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
        runs.read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["run.json", ""])
def test_missing_results(tmp_path, name):
    with pytest.raises(FileNotFoundError, match="No results at"):
        runs.read(tmp_path / name)


def asked(run, **configuration):
    return dataclasses.replace(run, configuration={"method": "random", "seed": 0, **configuration})


def test_labels_are_what_differs(finished):
    run = finished[1]
    pairs = [asked(run, seed=seed, penalty=penalty) for penalty in (True, False) for seed in (0, 1)]
    assert runs.labels(pairs) == ["penalty", "penalty", "no penalty", "no penalty"]
    rates = [asked(run, rate=rate, method=method) for rate in (0.2, 0.5) for method in "ab"]
    assert runs.labels(rates) == ["a, rate 0.2", "b, rate 0.2", "a, rate 0.5", "b, rate 0.5"]
    assert runs.labels([asked(run), asked(run, out="elsewhere", seed=3)]) == ["test", "test"]


def test_a_network_that_does_not_grow_has_no_method(finished):
    run = finished[1]
    labels = runs.labels([asked(run, static=False), asked(run, static=True, method="firefly")])
    assert labels == ["random", "static"]


def test_a_baseline_is_not_named_by_how_it_would_have_grown(finished):
    run = finished[1]
    grown = {"static": False, "widths": None, "epochs": 5}
    baseline = {"static": True, "widths": {"conv1": 20}, "epochs": 5, "method": "firefly"}
    asked_for = [grown, baseline, {**baseline, "seed": 1}]
    made = [asked(run, penalty=True, **each) for each in asked_for]
    assert runs.labels(made) == ["random", "static", "static"]
    made += [asked(run, penalty=False, **grown), asked(run, **{**baseline, "epochs": 2})]
    assert runs.labels(made) == [
        "random, penalty, epochs 5",
        "static, epochs 5",
        "static, epochs 5",
        "random, no penalty, epochs 5",
        "static, epochs 2",
    ]
