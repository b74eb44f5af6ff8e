"""The benchmarks run, in the tiniest setting, and their ratios are those of their medians."""

import json
import statistics
import subprocess
import sys

import keras
import numpy as np
import pytest
from benchmark_scripts import BENCHMARKS, benchmark

import keras_grow

pytestmark = pytest.mark.long

TINY = ["--batch-size", "4", "--steps", "2"]
measure, throughput, growth, one_growth, long_run, sweep, teacher, how_wide = map(
    benchmark, "measure throughput growth one_growth long_run sweep teacher how_wide".split()
)


def cells(printed):
    """Returns the rows of the printed tables, each a dictionary from column to cell."""
    rows, head = [], None
    for line in printed.splitlines():
        row = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            head = None
        elif head is None:
            head = row
        elif set("".join(row)) != {"-"}:
            rows.append(dict(zip(head, row, strict=True)))
    return rows


def in_this_process(monkeypatch):
    """Lets `growth` run `one_growth` here: a process takes seconds to start."""

    def run(command, **_):
        assert command[:2] == [sys.executable, str(BENCHMARKS / "one_growth.py")]
        one_growth.main(command[2:])

    monkeypatch.setattr(subprocess, "run", run)


def tiny(width):
    """A network that is traced faster than a VGG16."""
    x = inputs = keras.Input((32, 32, 3))
    for name in ("conv1", "conv2"):
        x = keras_grow.layers.GrowableConv2D(width, 3, strides=4, name=name)(x)
        x = keras_grow.layers.GrowableBatchNormalization(name=f"{name}_bn")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras_grow.GrowableModel(inputs, keras.layers.Dense(10, name="head")(x))


@pytest.fixture(autouse=True)
def _tiny_network(monkeypatch):
    monkeypatch.setitem(measure.MODELS, "tiny", tiny)


@pytest.fixture
def no_torch(monkeypatch):
    monkeypatch.setattr(throughput, "torch_is_installed", lambda: False)


def test_arms_take_turns():
    taken = []
    arms = {name: lambda name=name: taken.append(name) for name in "abc"}
    seconds = measure.interleave(arms, 3)
    assert "".join(taken) == "abcbcacab"
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3, "c": 3}


def test_ratio():
    ratio = measure.ratio([2.0, 4.0, 9.0], [1.0, 4.0, 3.0])
    assert ratio == {"of_medians": 4 / 3, "min": 1.0, "max": 3.0}


@pytest.mark.parametrize("text", ["vgg16", "vgg16:0", "resnet:4", "vgg16:wide"])
def test_models_are_checked(text, capsys):
    with pytest.raises(SystemExit):
        throughput.main(["--models", text])
    assert f"Received: {text!r}" in capsys.readouterr().err


def test_throughput(tmp_path, capsys, no_torch):
    out = tmp_path / "throughput.json"
    arguments = ["--models", "tiny:4", *TINY, "--rounds", "2", "--out", str(out)]
    results = throughput.main(arguments)
    assert json.loads(out.read_text()) == results
    assert set(results) == {"benchmark", "configuration", "machine", "rows"}
    assert {"cpu", "cores", "versions", "date"} <= set(results["machine"])
    (row,) = results["rows"]
    assert set(row) == {"model", "width", "parameters", "images_per_second", "ratios"}
    assert set(row["images_per_second"]) == {"plain", "off", "armed", "parted"}
    for speed in row["images_per_second"].values():
        assert len(speed["values"]) == 2
        assert speed["median"] == statistics.median(speed["values"]) > 0
    medians = {label: speed["median"] for label, speed in row["images_per_second"].items()}
    assert row["ratios"]["off/plain"]["of_medians"] == medians["off"] / medians["plain"]
    assert row["ratios"]["armed/off"]["of_medians"] == medians["armed"] / medians["off"]
    printed = capsys.readouterr().out
    assert "PyTorch is not installed" in printed
    (line,) = cells(printed)
    quotient = float(line["off img/s"]) / float(line["plain img/s"])
    assert float(line["off/plain"].split()[0]) == pytest.approx(quotient, abs=0.02)


def test_the_arms_are_the_same_network(no_torch):
    args = throughput.parse(["--models", "mobilenet:4", *TINY])
    arms = throughput.make_arms("mobilenet", 4, args)
    x, _ = measure.images(3)
    outputs = [arm.model.predict(x, verbose=0) for arm in arms.values()]
    for label in ("armed", "parted"):
        assert arms[label].model.penalty_window.epochs_left > 0
    assert arms["off"].model.penalty_window is None
    for output in outputs[1:]:
        assert output == pytest.approx(outputs[0], rel=1e-4, abs=1e-5)


@pytest.mark.skipif(not throughput.torch_is_installed(), reason="PyTorch is not installed")
def test_torch_has_the_same_network():
    keras_network = measure.build("vgg16", 4)
    with throughput.TorchArm(4, 4) as arm:
        assert arm.parameters == sum(
            v.shape.num_elements() for v in keras_network.trainable_variables
        )
        arm(2)


@pytest.fixture
def torch_stub(monkeypatch, tmp_path):
    """Puts a process in PyTorch's place that speaks as `pytorch.py` does."""
    script = "import sys\nprint(7, flush=True)\nfor line in sys.stdin: print(0.5, flush=True)\n"
    (tmp_path / "pytorch.py").write_text(script)
    monkeypatch.setattr(throughput, "__file__", str(tmp_path / "throughput.py"))


def test_the_torch_process_takes_turns_and_ends(torch_stub):
    with throughput.TorchArm(4, 4) as arm:
        assert arm.parameters == 7
        arm(2)
        arm()
    assert arm._process.returncode == 0


def test_a_torch_process_that_fails_is_reported(monkeypatch, tmp_path):
    (tmp_path / "pytorch.py").write_text("")
    monkeypatch.setattr(throughput, "__file__", str(tmp_path / "throughput.py"))
    with pytest.raises(RuntimeError, match="PyTorch process has ended"):
        throughput.TorchArm(4, 4)


def test_growth(tmp_path, capsys):
    out = tmp_path / "growth.json"
    arguments = ["--models", "tiny:10", "--methods", "net2wider", "--no-widening"]
    results = growth.main([*arguments, *TINY, "--penalty", "--repeats", "2", "--out", str(out)])
    assert json.loads(out.read_text()) == results
    assert [row["method"] for row in results["growths"]] == ["net2wider"]
    assert results["widening"] is None and results["scaling"] == []
    for row in results["growths"]:
        assert row["neurons"] == [20, 27]  # 35 %
        seconds, runs = row["seconds"], row["runs"]
        assert set(seconds) == set(growth.COSTS)
        for cost, value in seconds.items():
            assert value == statistics.median(run[cost] for run in runs)
        grown = seconds["choosing"] + seconds["widening"]
        assert row["ratios"]["growth/epoch"] == grown / seconds["epoch"]
        assert row["ratios"]["all/epoch"] == (grown + seconds["retracing"]) / seconds["epoch"]
    for line in cells(capsys.readouterr().out):
        quotient = (float(line["choosing s"]) + float(line["widening s"])) / float(line["epoch s"])
        assert float(line["growth/epoch"]) == pytest.approx(quotient, rel=0.2, abs=0.01)


def test_widening_alone(tmp_path, capsys, monkeypatch):
    in_this_process(monkeypatch)
    arguments = ["--models", "--wide", "4", "6", *TINY, "--out", str(tmp_path / "growth.json")]
    row = growth.main(arguments)["widening"]
    assert set(row["widths_after"].values()) == {6}
    assert row["parameters_after"] > row["parameters_before"]
    assert row["peak_after_mib"] >= row["peak_before_mib"] > 0
    assert row["peak_traced_mib"] > 0
    assert "VGG16 4 -> 6 channels" in capsys.readouterr().out


def test_scaling(tmp_path, capsys, monkeypatch):
    in_this_process(monkeypatch)
    arguments = ["--models", "--no-widening", "--scaling", "3", "4", "--scaling-methods", "random"]
    results = growth.main([*arguments, *TINY, "--out", str(tmp_path / "growth.json")])
    assert [row["width"] for row in results["scaling"]] == [3, 4]
    for row in results["scaling"]:
        assert row["choosing/epoch"] == row["seconds_choosing"] / row["epoch"]
        assert row["epoch"] == 391 * row["step_seconds"]
        assert row["peak_after_mib"] > 0
    assert [line["width"] for line in cells(capsys.readouterr().out)] == ["3", "4"]


def test_scoring_data_is_enough_for_every_method():
    batches = one_growth.scoring_data(2).batches(one_growth.BATCHES, np.random.default_rng())
    assert {len(x) for x, _, _ in batches} == {2}


@pytest.mark.slow  # starts a process; what it runs there is quick in this one, above
def test_in_a_process_of_its_own(tmp_path):
    args = growth.parse(["--models", "--wide", "3", "4", *TINY])
    row = growth.alone("vgg16:3", "net2wider", args, "--rate=0.5", "--max-width=4")
    assert set(row["widths_after"].values()) == {4}
    assert row["peak_after_mib"] >= row["peak_before_mib"] > 0


def test_long_run(tmp_path, capsys):
    out = tmp_path / "long_run.json"
    arguments = ["--methods", "net2wider", "--growths", "2", "--every", "1", "--out", str(out)]
    results = long_run.main(arguments)
    assert json.loads(out.read_text()) == results
    run = results["runs"]["net2wider"]
    assert [row["growths"] for row in run["rows"]] == [1, 2]
    first, last = run["rows"]
    assert last["parameters"] > first["parameters"]
    assert last["graphs"] == first["graphs"] > 0
    assert run["rise"]["objects"] == last["objects"] - first["objects"]
    assert [line["growths"] for line in cells(capsys.readouterr().out)] == ["1", "2"]


def test_sweep(tmp_path, capsys, monkeypatch):
    def frozen():
        inputs = keras.Input((4,))
        x = keras.layers.Softmax()(keras.layers.Dense(3, name="mixed")(inputs))
        return keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Dense(5)(x)))

    monkeypatch.setitem(sweep.zoo.MODELS, "frozen in part", frozen)
    out = tmp_path / "sweep.json"
    arguments = ["--models", "frozen in part", "--methods", "random", "--out", str(out)]
    (row,) = sweep.main(arguments)["rows"]
    assert json.loads(out.read_text())["rows"] == [row]
    assert row["parameters"] == 15 + 20 + 12
    assert row["growable"] == (20 + 10) / 47  # neither biases of the output nor what is mixed
    assert list(row["reasons"]) == ["`softmax` (Softmax) mixes channels"]
    assert max(row["exactness"], row["saved"], row["plain"]) < 1e-5
    (line,) = cells(capsys.readouterr().out)
    assert (line["can grow"], line["random"]) == ("63.8 %", "yes")


def test_a_sweep_reports_what_fails(monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("no")

    monkeypatch.setattr(sweep.GrowableModel, "grow", fails)
    inputs, outputs = np.ones((2, 16, 2)), np.ones((2, 3))
    step = sweep.grows_in_training(sweep.zoo.MODELS["1-D CNN"](), "random", inputs, outputs)
    assert step == "RuntimeError: no"


def test_a_long_run_needs_two_rows(capsys):
    with pytest.raises(SystemExit):
        long_run.main(["--growths", "30", "--every", "25"])
    assert "Received: 30" in capsys.readouterr().err


def test_students_are_compared_with_random_under_the_same_penalty(capsys, monkeypatch):
    losses = {"random": 1.0, "random/none": 3.0, "firefly": 2.0, "firefly/none": 2.0}
    monkeypatch.setattr(teacher, "loss_after", lambda problem, text, seed, data: losses[text])
    arguments = ["--problems", "relu", "--seeds", "0", "1", "--methods", "firefly", "firefly/none"]
    assert teacher.main(arguments) == {"relu": {name: [x, x] for name, x in losses.items()}}
    lines = cells(capsys.readouterr().out)
    better = {line["method"]: line["better than random"] for line in lines}
    assert (better["firefly"], better["firefly/none"]) == ("0 of 2", "2 of 2")


def test_a_student_learns_and_grows(monkeypatch):
    monkeypatch.setattr(teacher, "PLATEAU", 2)
    monkeypatch.setattr(teacher, "AFTERWARDS", 1)
    problem = teacher.PROBLEMS["relu"]
    data = teacher.examples(problem, 0)
    loss = teacher.loss_after(problem, "firefly split=0.1/none", 0, data)
    assert 0 < loss < np.mean(data[3] ** 2)


def test_a_network_that_grows_on_its_plateau_beside_fixed_widths(capsys):
    options = "--examples 200 --factors 2 --min-delta 9 --epochs 8 --seeds 0"
    found = how_wide.main(options.split())
    (grown,), (fixed,) = found["grown"], found["fixed, 2"]
    # No epoch gains 9: it grows once, after six, from 24 to 32, unless an earlier one was best.
    assert (fixed["width"], grown["width"]) in [(2, 1), (2, 32 / 24)]
    assert grown["flops"] > 1.05 * 8 * 180 * 3 * 2 * (64 * 9 * 8 + 16 * 9 * 8 * 16 + 160)
    # 8 x 8 pixels with 9 weights each, a quarter as many, and the head: thrice, 180 images.
    multiplications = 64 * 9 * 16 + 16 * 9 * 16 * 32 + 320
    assert fixed["flops"] == pytest.approx(8 * 180 * 3 * 2 * multiplications, rel=0.05)
    line = cells(capsys.readouterr().out)[1]
    assert (line[""], line["width"], line["epochs"]) == ("fixed, 2", "2.0", "8")
