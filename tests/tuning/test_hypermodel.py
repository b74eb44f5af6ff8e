import importlib
import math
import sys

import keras_tuner
import pytest
from networks import mlp
from problems import compiled
from searches import build, hypermodel

import keras_grow
from keras_grow import tuning


def test_ranges_lists_and_values():
    model = tuning.GrowthHyperModel(
        build,
        weight_sum=(1e-3, 1),
        weight=[0, 0.5],
        penalty_epochs=(2, 9),
        method=["random", "net2wider"],
        rate=(0.2, 0.5),
        every=4,
    )
    hp = keras_tuner.HyperParameters()
    model.build(hp)
    space = {each.name: each for each in hp.space}
    assert list(space) == ["weight_sum", "weight", "penalty_epochs", "method", "rate"]
    assert (space["weight_sum"].min_value, space["weight_sum"].max_value) == (1e-3, 1.0)
    assert [space[name].sampling for name in ("weight_sum", "penalty_epochs", "rate")] == [
        "log",
        "linear",
        "linear",
    ]
    assert (space["penalty_epochs"].min_value, space["penalty_epochs"].max_value) == (2, 9)
    assert space["weight"].values == [0.0, 0.5]
    assert space["method"].values == ["random", "net2wider"]


def test_the_callback_has_the_values():
    model = hypermodel(weight_sum=(1e-3, 1.0), weight=[0.0, 0.5], rate=(0.2, 0.5), every=[2, 3])
    hp = keras_tuner.HyperParameters()
    hp.values = {"weight_sum": 0.25, "weight": 0.5, "rate": 0.3, "every": 3}
    callback = model.growth(hp)
    assert callback.penalty == keras_grow.SimilarityPenalty(0.5, 0.25, 1)
    assert (callback.of, callback.depth) == ("neurons", {})
    assert (callback.rate, callback.method.name) == (0.3, "net2wider")
    assert [epoch for epoch in range(8) if callback.schedule.due(epoch)] == [3, 6]


def test_all_that_a_callback_takes():
    given = {"of": "flops", "depth": {"hidden0": None}}
    limits = {"max_flops": 900, "max_params": 90, "max_widths": {"hidden0": 8}, "multiple_of": 4}
    model = hypermodel(
        measure=["cosine", "energy"], per="neuron", relative=[False, True], **given, **limits
    )
    hp = keras_tuner.HyperParameters()
    hp.values = {"measure": "energy", "relative": True}
    callback = model.growth(hp)
    penalty = callback.penalty
    assert (penalty.measure, penalty.per, penalty.relative) == ("energy", "neuron", True)
    assert (callback.limits, callback.of, callback.depth) == (limits, *given.values())


def test_no_penalty_where_both_weights_are_zero():
    hp = keras_tuner.HyperParameters()
    assert hypermodel(weight=0, weight_sum=0).growth(hp).penalty is None
    assert hypermodel(weight=0, weight_sum=0.1).growth(hp).penalty is not None


def test_each_fit_has_a_schedule_of_its_own():
    schedule = keras_grow.OnPlateau("loss", patience=1, max_growths=1)
    model, hp = hypermodel(every=schedule), keras_tuner.HyperParameters()
    model.growth(hp).schedule.grown(1)
    assert model.growth(hp).schedule.growths_left == 1


def test_build_may_take_the_hyperparameters():
    def build_wide(hp):
        return compiled(mlp(hidden=(hp.Int("units", 6, 8), 3)))

    hp = keras_tuner.HyperParameters()
    model = tuning.GrowthHyperModel(build_wide, weight=1.0, penalty_epochs=1).build(hp)
    assert model.widths["hidden0"] == hp.values["units"] == 6


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"weight_sum": (0, 1)}, ValueError, r"`weight_sum` must be a range above 0.*\(0, 1\)"),
        ({"weight_sum": -1.0}, ValueError, "`weight_sum` must be"),
        ({"weight": (1.0, 0.1)}, ValueError, r"`weight` must be a range \(lowest, highest\)"),
        ({"weight": (1.0, 2.0, 3.0)}, ValueError, "Received: weight="),
        ({"weight": []}, ValueError, "`weight` must list values, each once. Received: weight=.."),
        ({"weight": [0.1, 0.1]}, ValueError, "`weight` must list values, each once"),
        ({"penalty_epochs": (0, 3)}, ValueError, "`epochs` must be a positive integer"),
        ({"penalty_epochs": [1.5]}, TypeError, "`epochs` must be a positive integer"),
        ({"method": ["random", "magic"]}, ValueError, "Unknown growth method"),
        ({"method": ("firefly", "random")}, TypeError, "must be a value or a list of values"),
        ({"relative": (False, True)}, TypeError, "must be a value or a list of values"),
        ({"method": [keras_grow.methods.Random()]}, TypeError, "must list names"),
        ({"rate": (0.1, math.inf)}, ValueError, "`rate` must be a positive number"),
        ({"every": 0}, ValueError, "`every` must be a positive integer"),
        ({"seed": -1}, ValueError, "`seed` must be an integer of at least 0"),
        ({"max_params": 0}, ValueError, "`max_params` must be"),
        ({"max_flops": 0}, ValueError, "`max_flops` must be"),
        ({"of": "layers"}, ValueError, "`of` must be one of"),
        ({"depth": "hidden0"}, TypeError, "`depth` must be a dictionary"),
        ({"measure": ["cosine", "sine"]}, ValueError, "`measure` must be one of"),
    ],
)
def test_bad_arguments(given, error, message):
    with pytest.raises(error, match=message):
        hypermodel(**given)


def test_what_build_must_be_and_return():
    with pytest.raises(TypeError, match="`build` must be a function"):
        tuning.GrowthHyperModel("mlp")
    hp = keras_tuner.HyperParameters()
    plain = tuning.GrowthHyperModel(lambda: mlp().to_keras())
    with pytest.raises(TypeError, match=r"`build` must return a `keras_grow\.GrowableModel`"):
        plain.build(hp)
    with pytest.raises(ValueError, match="`build` must return a compiled model"):
        tuning.GrowthHyperModel(mlp).build(hp)


@pytest.mark.parametrize("missing", ["keras_tuner", "tensorboard"])
def test_without_keras_tuner(monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(sys.modules, "keras_grow.tuning.tuners")
    monkeypatch.delitem(sys.modules, "keras_grow.tuning")
    with pytest.raises(ImportError, match=f"pip install keras-tuner tensorboard.*{missing}"):
        importlib.import_module("keras_grow.tuning")
