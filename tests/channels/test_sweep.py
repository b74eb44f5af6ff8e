"""Models that people build grow: the sweep of `benchmarks/sweep.py`, with what must hold."""

import pytest
from benchmark_scripts import benchmark

pytest.importorskip("tensorflow", reason="the benchmarks describe the machine by it")

zoo, sweep = benchmark("zoo"), benchmark("sweep")

# Of all trainable parameters. Why less: docs/results.md, "What grows".
LESS = {
    "text transformer, normalised sums": 0.69,
    "MLP-Mixer": 0.82,
    "ConvNeXt block": 0.58,
}


def is_as_if_built_so(model):
    """Checks that all that a model says of its widths is true of its weights."""
    plain = model.to_keras()
    fresh = type(plain).from_config(plain.get_config())
    assert [v.shape for v in fresh.weights] == [v.shape for v in plain.weights]


def check(name, build, methods, share, exact_to=1e-4, by=0.1):
    row = sweep.sweep(name, build, methods, by, is_as_if_built_so)
    assert row.growable >= share
    assert row.exactness < exact_to
    assert max(row.saved, row.plain) < 1e-5
    assert row.steps == dict.fromkeys(methods, "yes")


@pytest.mark.parametrize("name", zoo.MODELS)
@pytest.mark.quick(3)
def test_a_model_grows_exactly(name):
    check(name, zoo.MODELS[name], ["random"], LESS.get(name, 0.95))


@pytest.mark.slow
@pytest.mark.parametrize("name", sweep.APPLICATIONS)
def test_an_application_grows_exactly(name):
    share = 0.93 if name == "ConvNeXtTiny" else 0.99
    check(name, lambda: sweep.application(name), ["random"], share, by=0.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.MODELS)
def test_every_method_grows_a_model(name):
    check(name, zoo.MODELS[name], ["firefly", "gradmax", "splitting"], LESS.get(name, 0.95))
