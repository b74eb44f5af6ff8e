"""Figures of finished runs: what is drawn in them, and what is refused."""

import dataclasses
import json
import shutil

import keras
import numpy as np
import pytest
from figures import growable, legend, lines
from small_cifar import recipe

from keras_grow import runs

curves = recipe("curves")

FIGURES = ["growth_curve.png", "similarity_histogram.png", "similarity_over_time.png"]


def finished(seed, **configuration):
    """Returns the results of a run that grew after its second epoch of three."""
    rng = np.random.default_rng(seed)
    names = ["accuracy", "loss", "val_accuracy", "val_loss", "similarity", "seconds"]
    history = {name: rng.uniform(0.1, 0.9, 3).tolist() for name in names}
    return runs.Run(
        recipe="cifar",
        configuration={"method": "random", "penalty": True, "seed": seed, **configuration},
        versions={},
        machine={},
        started="",
        history={**history, "params": [50, 50, 90], "training_flops": [1e6, 1e6, 2e6]},
        growth=[{"epoch": 2}],
        seconds={},
        training_flops=4_000_000,
        widths={},
        neurons=0,
        parameters=90,
        test_loss=0.5,
        test_accuracy=0.5,
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Four runs: two seeds without the penalty, two with it; models of one seed."""
    made, root = [], tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        for penalty in (False, True):
            folder = root / f"{penalty}-{seed}"
            runs.write(folder / "results.json", finished(seed, penalty=penalty))
            made.append(folder)
            if seed == 0:
                keras.utils.set_random_seed(int(penalty))
                growable().save(folder / "model.keras")
    return made


def drawn(folders, *argv):
    """Returns the figures, where the recipe would save them."""
    args = curves.parse(["--runs", *map(str, folders), *argv])
    read = [runs.read(folder) for folder in folders]
    labelled = {}
    for index, label in enumerate(args.labels or runs.labels(read)):
        labelled.setdefault(label, []).append(index)
    return curves.draw(labelled, read, args)


def test_writes_three_figures_a_page_wide(folders, tmp_path, capsys):
    from matplotlib.image import imread

    paths = curves.main(["--runs", *map(str, folders), "--out", str(tmp_path / "out")])
    assert sorted(path.name for path in paths) == FIGURES
    assert sorted((tmp_path / "out").iterdir()) == sorted(paths)
    for path in paths:
        pixels = imread(path)[..., :3]
        assert pixels.shape[1] == 7 * 150
        assert pixels.std() > 0.05
    assert str(tmp_path / "out") in capsys.readouterr().out


def test_seeds_become_one_curve(folders):
    figures = drawn(folders)
    curve, over_time = figures["growth_curve.png"], figures["similarity_over_time.png"]
    labels = ["no penalty (mean and range of 2)", "penalty (mean and range of 2)", "growth"]
    assert legend(curve) == legend(over_time) == labels
    read = [json.loads((folder / "results.json").read_text()) for folder in folders]
    for figure, name in ((curve, "val_accuracy"), (over_time, "similarity")):
        mean = np.mean([run["history"][name] for run in read[::2]], axis=0)
        np.testing.assert_allclose(lines(figure.axes[0])[labels[0]].get_ydata(), mean)


def test_labels_and_cost(folders):
    figures = drawn(folders[:2], "--labels", "a", "b", "--x", "flops")
    curve = figures["growth_curve.png"]
    assert legend(curve) == ["a", "b", "growth"]
    np.testing.assert_allclose(lines(curve.axes[0])["a"].get_xdata(), [1e6, 2e6, 4e6])


def test_histogram_is_of_the_layer_of_the_models(folders):
    by_number = drawn(folders, "--layer", "3")["similarity_histogram.png"]
    by_name = drawn(folders, "--layer", "conv3")["similarity_histogram.png"]
    assert legend(by_number) == legend(by_name)
    assert [text.split(":")[0] for text in legend(by_name)] == ["no penalty", "penalty"]
    with pytest.raises(ValueError, match="no such `layer`: 'conv9'"):
        drawn(folders, "--layer", "conv9")


def test_what_a_run_lacks_is_left_out(folders, tmp_path):
    run = runs.read(folders[0])
    history = {k: v for k, v in run.history.items() if k not in ("similarity", "params")}
    static = dataclasses.replace(run, history=history, growth=[], parameters=120)
    runs.write(tmp_path / "static" / "results.json", static)
    figures = drawn([folders[2], tmp_path / "static"], "--labels", "grown", "static")
    assert list(figures) == ["growth_curve.png", "similarity_over_time.png"]  # no models
    assert legend(figures["similarity_over_time.png"]) == ["grown", "growth"]
    steps = figures["growth_curve.png"].axes[2].get_lines()
    np.testing.assert_allclose(steps[1].get_ydata(), [120] * 4)


def damaged(folder):
    (folder / "results.json").write_text('{"format": "keras_grow.run", "ver')


def foreign(folder):
    (folder / "results.json").write_text("[]")


def without_results(folder):
    (folder / "results.json").unlink()


def damaged_model(folder):
    (folder / "model.keras").write_bytes(b"PK")


@pytest.mark.parametrize(
    "spoil, message",
    [
        (damaged, "is damaged or only half written"),
        (foreign, "is not the results of a recipe"),
        (without_results, "No results at"),
        (damaged_model, "model.keras can't be loaded as a Keras model"),
    ],
)
def test_bad_files(folders, spoil, message, tmp_path):
    shutil.copytree(folders[0], tmp_path / "bad")
    spoil(tmp_path / "bad")
    bad, out = str(tmp_path / "bad"), tmp_path / "out"
    with pytest.raises((OSError, ValueError), match=message):
        curves.main(["--runs", str(folders[1]), bad, "--labels", "a", "b", "--out", str(out)])
    assert not out.exists()


def test_bad_arguments(folders, capsys):
    with pytest.raises(SystemExit):
        curves.parse(["--runs", *map(str, folders), "--labels", "a"])
    assert "one label a run. Received: 4 runs, 1 labels" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        curves.parse(["--runs", str(folders[0]), "--x", "steps"])
    assert "invalid choice: 'steps'" in capsys.readouterr().err


def test_figures_are_never_overwritten(folders, tmp_path, capsys):
    (tmp_path / "growth_curve.png").write_text("mine")
    with pytest.raises(SystemExit):
        curves.main(["--runs", str(folders[0]), "--out", str(tmp_path)])
    assert "already holds growth_curve.png: name another" in capsys.readouterr().err
    assert (tmp_path / "growth_curve.png").read_text() == "mine"
