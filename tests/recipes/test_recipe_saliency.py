"""The recipe on real digits that pass for CIFAR, with two small grown models."""

import argparse
import json
from pathlib import Path

import keras
import numpy as np
import pytest
from scipy.integrate import trapezoid
from scipy.ndimage import gaussian_filter
from small_cifar import images, recipe, write_npz

import keras_grow
from keras_grow.saliency.maps import saliency_maps
from keras_grow.saliency.measures import ranks

pytestmark = pytest.mark.long

saliency, data = recipe("saliency"), recipe("data")

EXAMPLES = 12
NAMES = ["plain", "grown + penalty"]
METHODS = ["gradcam", "scorecam"]
RESULTS = ["gradcam.png", "saliency.json", "scorecam.png"]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cifar10")
    write_npz(folder, "cifar10", 20, 40)
    return folder


def network(classes=10, size=32):
    inputs = x = keras.Input((size, size, 3))
    for name in ("first", "second"):
        x = keras_grow.layers.GrowableConv2D(3, 3, strides=2, padding="same", name=name)(x)
        x = keras.layers.ReLU(name=f"{name}_relu")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras_grow.GrowableModel(inputs, keras.layers.Dense(classes, name="head")(x))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Files of two models, the second of which has grown."""
    paths = []
    for name in ("a", "b"):
        keras.utils.set_random_seed(ord(name))
        model = network()
        if name == "b":
            model.compile("sgd", "mse")
            model.grow(0.5, method="random")
        paths.append(tmp_path_factory.mktemp(name) / "model.keras")
        model.save(paths[-1])
    return [str(path) for path in paths]


@pytest.fixture(scope="module")
def finished(models, data_dir, tmp_path_factory):
    """Folder and returned results of one run."""
    out = tmp_path_factory.mktemp("saliency") / "run"
    argv = ["--models", *models, "--names", *NAMES, "--method", *METHODS, "--steps", "4"]
    return out, run(data_dir, out, *argv)


def run(data_dir, out, *argv):
    sizes = ["--examples", str(EXAMPLES), "--data-dir", str(data_dir)]
    return saliency.main([*sizes, "--out", str(out), *argv])


@pytest.fixture(scope="module")
def split():
    """The test split, normalised without the recipe, and its labels."""
    pixels, labels = (part[20:] for part in images(60))
    statistics = data.STATISTICS["cifar10"]
    return (pixels / 255 - statistics.mean) / statistics.deviation, labels


def probabilities(model, pixels, labels):
    logits = model.predict(pixels, verbose=0).astype("float64")
    return (np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True))[range(len(labels)), labels]


def test_writes_these_files_and_no_others(finished):
    out, results = finished
    assert sorted(path.name for path in out.iterdir()) == RESULTS
    assert json.loads((out / "saliency.json").read_text()) == results
    assert results["format"] == "keras_grow.saliency"
    assert results["configuration"]["names"] == NAMES
    assert results["configuration"]["examples"] == EXAMPLES
    assert results["versions"]["keras_grow"] == keras_grow.__version__


def test_an_entry_for_each_method_and_model(finished):
    _, results = finished
    rows = [(row["method"], row["model"]) for row in results["results"]]
    assert rows == [(method, name) for method in METHODS for name in NAMES]
    for row in results["results"]:
        assert (row["layer"], row["positions"]) == ("second_relu", [8, 8])
        assert 0 <= row["empty_maps"] <= EXAMPLES
        for name in ("coverage", "deletion", "insertion", "probability", "accuracy"):
            assert 0 <= row[name]["mean"] <= 1
            assert row[name]["error"] >= 0


def test_numbers_are_those_of_the_models_maps(finished, models, split):
    _, results = finished
    pixels, labels = (each[:EXAMPLES] for each in split)
    row = results["results"][1]
    model = keras.models.load_model(models[1])
    maps = saliency_maps(model, pixels, labels, "gradcam")
    covered = [np.mean(each >= 0.5) for each in maps]
    assert row["coverage"]["mean"] == pytest.approx(np.mean(covered), abs=1e-4)
    assert row["coverage"]["error"] == pytest.approx(np.std(covered, ddof=1) / 12**0.5, abs=1e-4)
    assert row["empty_maps"] == sum(each.max() == 0 for each in maps)
    mean = probabilities(model, pixels, labels).mean()
    assert row["probability"]["mean"] == pytest.approx(mean, abs=1e-5)
    right = model.predict(pixels, verbose=0).argmax(axis=-1) == labels
    assert row["accuracy"]["mean"] == np.mean(right)


def test_gain_is_over_the_map_of_the_image_before(finished, models, split):
    _, results = finished
    pixels, labels = (each[:EXAMPLES] for each in split)
    model = keras.models.load_model(models[1])
    maps = saliency_maps(model, pixels, labels, "gradcam")

    def deletion(maps):
        kept = [ranks(maps)[..., None] >= deleted for deleted in (0, 256, 512, 768, 1024)]
        curve = [probabilities(model, each * pixels, labels) for each in kept]
        return trapezoid(curve, dx=1 / 4, axis=0)

    gains = deletion(maps[[-1, *range(EXAMPLES - 1)]]) - deletion(maps)
    row = results["results"][1]
    assert row["deletion_gain"]["mean"] == pytest.approx(gains.mean(), abs=1e-5)
    assert row["deletion_gain"]["error"] == pytest.approx(gains.std(ddof=1) / 12**0.5, abs=1e-5)
    assert abs(gains).max() > 1e-3


def test_curves_run_from_the_image_to_the_mean_colour_and_from_its_blur(
    models, data_dir, split, tmp_path, capsys
):
    results = run(data_dir, tmp_path, "--models", models[0], "--layer", "1", "--steps", "1")
    (row,) = results["results"]
    pixels, labels = (each[:EXAMPLES] for each in split)
    model = keras.models.load_model(models[0])
    intact, blank, blur = (
        probabilities(model, each, labels)
        for each in (pixels, 0 * pixels, gaussian_filter(pixels, (0, 4, 4, 0), mode="nearest"))
    )
    # Of one step, whatever the order of the pixels, the area is the mean of the two ends.
    for name, end in (("deletion", blank), ("insertion", blur)):
        assert row[name]["mean"] == pytest.approx((intact + end).mean() / 2, abs=1e-5)
        assert row[f"{name}_gain"]["mean"] == pytest.approx(0, abs=1e-6)
    assert (row["layer"], row["positions"]) == ("first_relu", [16, 16])
    assert row["model"] == Path(models[0]).parent.name  # where there are no --names
    assert f"gradcam.png are in {tmp_path}" in capsys.readouterr().out


def test_comparison_is_the_difference_on_the_same_images(finished):
    _, results = finished
    first, second = results["results"][:2]
    for name in ("coverage", "deletion", "insertion"):
        compared = second["compared_with_the_first"][name]
        assert compared["mean"] == pytest.approx(second[name]["mean"] - first[name]["mean"])
        assert first["compared_with_the_first"][name] == {"mean": 0, "error": 0}
        apart = np.hypot(first[name]["error"], second[name]["error"])
        assert 0 < compared["error"] < 2 * apart


def test_figures_have_a_panel_for_each_class_and_model(models, data_dir, split):
    args = saliency.parse(["--models", *models, "--names", *NAMES, "--data-dir", str(data_dir)])
    test = saliency.load_images(args)
    loaded = saliency.load_models(args, test)
    figure = saliency.draw(loaded, test, "gradcam", args)
    pixels, labels = split
    np.testing.assert_allclose(test.pixels, pixels, atol=1e-5)
    assert len(figure.axes) == 3 * 10 + 1
    assert [axes.get_title() for axes in figure.axes[:10]] == data.CLASSES["cifar10"]
    labels_of_rows = [axes.get_ylabel().replace("\n", " ") for axes in figure.axes[0:30:10]]
    assert labels_of_rows == ["input", *NAMES]
    # The first image of its class, from black to white: the same picture but for the scale.
    shown = figure.axes[3].images[0].get_array()[..., 0]
    want = pixels[list(labels).index(3)][..., 0]
    assert np.corrcoef(np.ravel(shown), np.ravel(want))[0, 1] == pytest.approx(1)


def test_figures_are_a_page_wide_and_not_blank(finished):
    from matplotlib.image import imread

    out, _ = finished
    for method in METHODS:
        pixels = imread(out / f"{method}.png")[..., :3]
        assert pixels.shape[1] == 7 * 150
        assert pixels.std() > 0.05


def test_the_table_has_what_the_file_has(finished):
    _, results = finished
    args = argparse.Namespace(examples=EXAMPLES, threshold=0.5, names=NAMES)
    lines = saliency.table(results["results"], args).splitlines()
    assert lines[0].startswith("Mean and standard error over 12 test images")
    assert len({line.count("|") for line in lines[2:]}) == 1  # as many cells in every row
    assert len(lines) == 4 + 2 * 3
    cells = [cell.strip() for cell in lines[5].split("|")][1:-1]
    row = results["results"][1]
    mean, error = 100 * row["coverage"]["mean"], 100 * row["coverage"]["error"]
    assert cells[:3] == ["Grad-CAM", "grown + penalty", f"{mean:.1f} ± {error:.1f}"]
    assert cells[3] == f"{row['deletion']['mean']:.3f} ± {row['deletion']['error']:.3f}"


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--models", "nothing.keras"], "there is no file nothing.keras"),
        (["--names", "a"], "--names must have one name a model, all different"),
        (["--names", "a", "a"], "all different. Received: 2 models, names ['a', 'a']"),
        (["--examples", "1"], "--examples must be at least 2"),
        (["--threshold", "1.5"], "--threshold must be at most 1"),
        (["--method", "lime"], "invalid choice: 'lime'"),
    ],
)
def test_bad_arguments(models, argv, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        saliency.parse(["--models", *models, "--out", str(tmp_path), *argv])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def damaged(path, whole):
    path.write_bytes(whole.read_bytes()[:200])


def without_convolutions(path, whole):
    inputs = keras.Input((32, 32, 3))
    keras.Model(inputs, keras.layers.Dense(10)(keras.layers.Flatten()(inputs))).save(path)


@pytest.mark.parametrize(
    "make, argv, message",
    [
        (damaged, [], "can't be loaded as a Keras model"),
        (without_convolutions, [], "needs a Conv2D layer"),
        (lambda path, _: network(classes=3).save(path), [], "10 classes.*and 3 outputs"),
        (lambda path, _: network(size=16).save(path), [], r"inputs of shape \(16, 16, 3\)"),
        (lambda path, _: network().save(path), ["--layer", "conv7"], "no such `layer`.*'conv7'"),
        (lambda path, _: network().save(path), ["--layer", "3"], "1 'first', 2 'second'"),
    ],
)
def test_models_that_do_not_fit(make, argv, message, models, data_dir, tmp_path):
    path = tmp_path / "bad" / "model.keras"
    path.parent.mkdir()
    make(path, Path(models[0]))
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=message):
        run(data_dir, out, "--models", models[0], str(path), "--names", "good", "bad", *argv)
    assert not out.exists()


def test_results_are_never_overwritten(finished, models, capsys):
    out, _ = finished
    before = {path: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(SystemExit):
        saliency.main(["--models", *models, "--out", str(out)])
    assert "already holds saliency.json, gradcam.png: name another" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in out.iterdir()} == before
