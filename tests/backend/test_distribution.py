"""Training and growing on more than one device."""

import json
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from keras_grow import Widening
from keras_grow.growing.agreement import packed, unpacked

pytestmark = pytest.mark.long

HERE = Path(__file__).parents[1] / "helpers"
REST = ("net2wider", "random", "splitting")


@pytest.fixture(
    scope="module",
    params=[("firefly",), pytest.param(REST, marks=pytest.mark.slow)],
    ids="-".join,
)
def two_devices(request):
    """What `two_devices.py` compared of some methods, in one process for all tests."""
    command = [sys.executable, str(HERE / "two_devices.py"), *request.param]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


@pytest.mark.tensorflow
def test_two_devices_train_as_one_does(two_devices):
    for method in two_devices.keys() - {"saved"}:
        result = two_devices[method]
        one, two = result["widths"]
        assert one == two and sum(one.values()) > 8  # it has grown
        assert result["largest_difference"] < 1e-4  # weights, slots, the penalty's state
        one, two = result["logs"]
        assert set(one) == set(two) >= {"loss", "params", "similarity", "weight_drift"}
        for name, values in one.items():
            assert two[name] == pytest.approx(values, rel=1e-4, abs=1e-5), (method, name)
        assert one["weight_drift"][0] > 0 and one["weight_drift"][-1] > 0  # penalties were armed


@pytest.mark.tensorflow
def test_the_copies_on_both_devices_are_equal(two_devices):
    for result in two_devices.values():
        assert set(result["mirrored"]) == {2}
        assert all(result["copies_equal"])


@pytest.mark.tensorflow
@pytest.mark.parametrize("two_devices", [REST], indirect=True, ids="-".join)
@pytest.mark.slow
def test_a_model_is_saved_and_goes_on_under_the_strategy(two_devices):
    saved = two_devices["saved"]
    assert max(saved["outputs_apart"]) < 1e-5
    assert len(set(saved["epochs_left"])) == 1
    before, after = saved["widths"]
    assert sum(after.values()) > sum(before.values())


def free_ports(count):
    """Ports of this machine that nothing listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("localhost", 0))
        return [str(each.getsockname()[1]) for each in sockets]


@pytest.fixture(scope="module")
def two_workers():
    """What each of two worker processes ended up with."""
    ports = free_ports(2)
    processes = [
        subprocess.Popen(
            [sys.executable, str(HERE / "two_workers.py"), str(index), *ports],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=900) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, errors
    return [json.loads(printed.splitlines()[-1]) for printed, _ in outputs]


@pytest.mark.tensorflow
@pytest.mark.slow
@pytest.mark.parametrize("method", ["net2wider", "firefly"])
def test_two_workers_end_up_alike(two_workers, method):
    first, second = (worker[method] for worker in two_workers)
    assert sum(first["widths"].values()) > 8  # it has grown
    assert first == second  # logs, evaluation, predictions, weights and slots, to the last bit


@pytest.mark.tensorflow
@pytest.mark.slow
def test_two_workers_train_as_one_process_does(two_workers):
    first, second = two_workers
    together, alone = first["net2wider"], first["alone"]
    for one, two in zip(alone["values"], together["values"], strict=True):
        assert np.asarray(two) == pytest.approx(np.asarray(one), rel=1e-4, abs=1e-5)
    for name, values in alone["logs"].items():
        assert together["logs"][name] == pytest.approx(values, rel=1e-4, abs=1e-5), name
    assert together["loss"] == pytest.approx(alone["loss"], rel=1e-4)
    assert second["alone"]["values"] != alone["values"]  # its own choice would have been another


def test_widenings_travel_whole():
    added = np.arange(6.0).reshape(2, 3)
    widening = Widening(
        "conv1", [0, 1, -1], [0.5, 1, 1], {"conv1/kernel": added}, {"a/b/c": added}, unhelpful=1
    )
    copies = unpacked(packed([widening, Widening("dense", [0, 0])]))
    assert [copy.group for copy in copies] == ["conv1", "dense"]
    copy = copies[0]
    assert copy.sources.tolist() == [0, 1, -1] and copy.outgoing_scale.tolist() == [0.5, 1, 1]
    assert copy.unhelpful == 1
    for side, path in (("incoming", "conv1/kernel"), ("outgoing", "a/b/c")):
        assert list(getattr(copy, side)) == [path]
        assert np.array_equal(getattr(copy, side)[path], added)
    assert unpacked(packed([])) == []
