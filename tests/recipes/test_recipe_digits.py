"""The main job, on the real digits, for a few epochs: what it prints and what is in its files."""

import argparse
import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from small_cifar import recipe

from keras_grow import runs

pytestmark = pytest.mark.long

digits = recipe("digits")

EPOCHS, EVERY, WIDTH = 4, 1, 3
NAMES = [f"conv{block}" for block in (1, 2, 3, 4)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Runs the recipe as a user does, and returns its folder and the finished process."""
    root = Path(__file__).parents[2]
    out = tmp_path_factory.mktemp("digits") / "run"
    options = {"--epochs": EPOCHS, "--every": EVERY, "--width": WIDTH, "--out": out}
    command = [sys.executable, root / "recipes" / "digits.py"]
    process = subprocess.run(
        [str(part) for part in [*command, *(each for pair in options.items() for each in pair)]],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return out, process


def history_of(out):
    return json.loads((out / "results.json").read_text())["history"]


def test_prints_only_what_a_reader_needs(finished):
    out, process = finished
    assert process.stderr == ""
    lines = process.stdout.splitlines()
    assert lines[0] == "1,297 handwritten digits to train on, 500 to test"
    assert sum(" grew " in line for line in lines) == 3
    assert sum(line.startswith("epoch 4: accuracy ") for line in lines) == 3
    table = lines[-9:-4]
    assert table[0].split() == "test accuracy seconds training FLOPs to 98% parameters".split()
    assert [line[:26].strip() for line in table[1:]] == list(digits.LABELS.values())
    assert len({len(line) for line in table}) == 1  # aligned
    assert lines[-1].endswith(str(out))
    assert max(len(line) for line in lines[:-1]) <= 100


def test_writes_these_files_and_no_others(finished):
    out, _ = finished
    figures = ["growth_curve.png", "saliency.png", "similarity_histogram.png"]
    others = ["history.csv", "model.keras", "results.json"]
    others += ["static.json", "static_flops.json", "static_start.json"]
    assert sorted(path.name for path in out.iterdir()) == sorted(figures + others)


def test_results_tell_of_three_growths_of_a_third(finished):
    out, _ = finished
    run = runs.read(out / "results.json")
    assert run.recipe == "digits"
    assert [event["epoch"] for event in run.growth] == [1, 2, 3]
    neurons = [sum(event["widths_after"].values()) for event in run.growth]
    assert neurons == [16, 21, 28]  # 12 at first, and each time int(0.35 * n) more
    assert run.neurons == 28 == sum(run.widths.values())
    sizes = [run.growth[0]["parameters_before"], *(e["parameters_after"] for e in run.growth)]
    assert run.history["params"] == sizes
    assert {len(values) for values in run.history.values()} == {EPOCHS}
    assert run.test_accuracy == run.history["val_accuracy"][-1]
    assert run.seconds["training"] <= run.seconds["total"]


def test_flops_are_those_of_the_convolutions_at_each_width(finished):
    out, _ = finished
    run = runs.read(out / "results.json")
    stages = [run.growth[0]["widths_before"], *(event["widths_after"] for event in run.growth)]
    for widths, flops in zip(stages, run.history["training_flops"], strict=True):
        one, two, three, four = (widths[f"conv{block}"] for block in (1, 2, 3, 4))
        products = 64 * 9 * (one + one * two) + 16 * 9 * (two * three + three * four) + 10 * four
        assert flops == 3 * 2 * products * 1297  # forward and backward, multiply and add


def test_the_baseline_is_the_final_size_for_as_many_epochs(finished):
    out, _ = finished
    grown, static = (runs.read(out / f"{name}.json") for name in ("results", "static"))
    assert static.growth == []
    assert static.widths == grown.widths
    assert static.parameters == grown.parameters
    assert len(static.history["loss"]) == EPOCHS
    assert static.training_flops == EPOCHS * grown.history["training_flops"][-1]
    assert static.configuration["static"] and not grown.configuration["static"]


def test_the_other_baseline_is_the_final_size_for_no_fewer_flops(finished):
    out, process = finished
    grown, static, short = (
        runs.read(out / f"{name}.json") for name in ("results", "static", "static_flops")
    )
    assert short.widths == grown.widths and short.growth == []
    epochs = len(short.history["loss"])
    assert epochs == short.configuration["epochs"] < EPOCHS
    assert short.training_flops == epochs * grown.history["training_flops"][-1]
    rest = short.training_flops - grown.training_flops
    assert 0 <= rest < grown.history["training_flops"][-1]
    share = grown.training_flops / static.training_flops
    assert f"growing took {share:.0%} of the FLOPs of as many epochs" in process.stdout


def test_the_first_size_trains_without_growing(finished):
    out, _ = finished
    grown, start = (runs.read(out / f"{name}.json") for name in ("results", "static_start"))
    assert start.widths == grown.growth[0]["widths_before"] and start.growth == []
    assert start.training_flops == EPOCHS * grown.history["training_flops"][0]


def test_the_way_to_the_goal_ends_with_the_first_epoch_that_is_there():
    def run(*accuracies):
        history = {"training_flops": [10] * len(accuracies), "val_accuracy": accuracies}
        return argparse.Namespace(history=history)

    slow, fast, never = run(0.5, 0.97, 0.98, 0.9), run(0.99, 0.9), run(0.9, 0.97)
    assert [digits.flops_to_goal(each) for each in (slow, fast, never)] == [30, 10, None]


def test_the_learning_rate_of_fewer_epochs_has_the_same_shape():
    args = digits.parse(["--epochs", "60", "--every", "12"])
    half = argparse.Namespace(
        training_flops=30, history={"training_flops": [1]}, widths=dict.fromkeys(NAMES, 2)
    )
    _, shorter = digits.baselines(args, half)["static_flops"]
    assert (shorter.epochs, shorter.every) == (30, 6)
    rates = []
    for each in (args, shorter):
        model = digits.build([2, 2, 2, 2], digits.load(False), each)
        steps = 41 * each.epochs * np.array([0, 0.5, 0.79, 0.9, 0.95, 1])
        rates.append([float(model.optimizer._learning_rate(step)) for step in steps])
    np.testing.assert_allclose(*rates, rtol=1e-4, atol=1e-7)


def test_the_log_has_the_epochs_of_the_results(finished):
    out, _ = finished
    with open(out / "history.csv") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == list(range(EPOCHS))
    history = history_of(out)
    for name in set(rows[0]) - {"epoch"}:
        logged = [float(row[name]) for row in rows]
        np.testing.assert_allclose(logged, history[name], rtol=1e-6, err_msg=name)
    assert {"params", "similarity", "weight_drift", "learning_rate"} <= set(rows[0])


def test_the_saved_model_is_the_one_that_was_tested(finished):
    out, _ = finished
    run = runs.read(out / "results.json")
    model = keras.models.load_model(out / "model.keras")
    assert model.widths == run.widths
    images, labels = digits.load(validation=False).test
    accuracy = np.mean(model.predict(images, verbose=0).argmax(-1) == labels)
    assert accuracy == pytest.approx(run.test_accuracy, abs=1e-6)


@pytest.mark.parametrize("name", ["growth_curve", "similarity_histogram", "saliency"])
def test_figures_are_a_page_wide_and_not_blank(finished, name):
    from matplotlib.image import imread

    out, _ = finished
    pixels = imread(out / f"{name}.png")[..., :3]
    assert pixels.shape[1] == 7 * 150
    assert pixels.std() > 0.05
    assert np.mean(pixels > 0.99) < 0.95


def test_the_splits_are_fixed_apart_and_in_proportion():
    loaded, again = digits.load(False), digits.load(False)
    for part, same in zip(loaded, again, strict=True):
        np.testing.assert_array_equal(part[0], same[0])
    assert [len(labels) for _, labels in loaded] == [1297, 500]
    tried = digits.load(True)
    assert [len(labels) for _, labels in tried] == [1000, 297]
    rows = [{image.tobytes() for image in part[0]} for part in (*tried, loaded.test)]
    assert not rows[0] & rows[1]
    assert not rows[2] & (rows[0] | rows[1])
    for _, labels in (*loaded, *tried):
        shares = np.bincount(labels) / len(labels)
        assert shares.min() > 0.09 and shares.max() < 0.11


def test_shifted_batches_are_all_images_each_shifted_by_up_to_a_pixel():
    images = np.random.default_rng(0).uniform(0.1, 1, (90, 8, 8, 1))
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    batches = digits.ShiftedBatches(images, np.arange(90), seed=0)
    again = digits.ShiftedBatches(images, np.arange(90), seed=0)
    places = [(row, column) for row in range(3) for column in range(3)]
    epochs = []
    for _ in range(2):
        assert len(batches) == 3
        parts = zip(*(batches[index] for index in range(3)), strict=True)
        x, labels = (np.concatenate(part) for part in parts)
        assert sorted(labels) == list(range(90))
        windows = [padded[labels, row : row + 8, column : column + 8] for row, column in places]
        fits = np.array([(x == window).all(axis=(1, 2, 3)) for window in windows])
        assert (fits.sum(axis=0) == 1).all() and fits.any(axis=1).all()
        np.testing.assert_array_equal(again[2][0], batches[2][0])
        batches.on_epoch_end()
        again.on_epoch_end()
        epochs.append(labels)
    assert not np.array_equal(*epochs)


def test_options_reach_the_run(tmp_path, capsys):
    argv = "--epochs 2 --every 1 --width 3 --rate 0.5 --method net2wider --penalty none"
    results = digits.main([*argv.split(), "--validation", "--fast", "--out", str(tmp_path)])
    grown, static = results["grown"], results["static"]
    assert [event["method"] for event in grown["growth"]] == ["net2wider"]
    assert grown["neurons"] == static["neurons"] == 18
    assert grown["history"]["weight_drift"] == [0, 0]
    assert not (tmp_path / "saliency.png").exists()
    out = capsys.readouterr().out
    assert "1,000 handwritten digits to train on, 297 to validate" in out
    assert "validation accuracy" in out
    json.dumps(results)


def test_the_same_seed_gives_the_same_run(tmp_path):
    argv = "--epochs 2 --every 1 --width 3 --fast --seed 5".split()
    first, second = (digits.main([*argv, "--out", str(tmp_path / name)]) for name in "ab")
    assert first["grown"]["history"]["loss"] == second["grown"]["history"]["loss"]
    assert first["static"]["history"]["loss"] == second["static"]["history"]["loss"]


@pytest.mark.parametrize(
    "argv, message",
    [
        ("--epochs 0", "must be a positive integer. Received: '0'"),
        ("--epochs 5 --every 5", "--every 5 leaves no growth within --epochs 5"),
        ("--rate nan", "must be a positive number"),
        ("--method magic", "invalid choice: 'magic'"),
        ("--seed -1", "must be an integer of at least 0"),
    ],
)
def test_bad_arguments(argv, message, capsys):
    with pytest.raises(SystemExit):
        digits.main(argv.split())
    assert message in capsys.readouterr().err


def test_results_are_never_overwritten(finished, capsys):
    out, _ = finished
    before = (out / "results.json").read_bytes()
    with pytest.raises(SystemExit):
        digits.main(["--out", str(out)])
    assert "already holds results" in capsys.readouterr().err
    assert (out / "results.json").read_bytes() == before
