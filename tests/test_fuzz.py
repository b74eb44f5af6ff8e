"""Any model, any budget, any order of calls: it works, or it is refused and nothing has changed."""

import math
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from networks import batch, build, random_graphs
from problems import eager
from quick_methods import METHODS
from states import assert_same_arrays, assert_same_state, state_of, weights_and_slots

import keras_grow
from keras_grow import GrowableModel, SimilarityPenalty
from keras_grow.layers import GrowableDense

pytestmark = pytest.mark.long

PACKAGE = str(Path(keras_grow.__file__).parent)


@dataclass(frozen=True)
class Grow:
    """One call of `grow`."""

    rate: object
    method: str
    max_params: object
    max_widths: object


growths = st.builds(
    Grow,
    rate=st.sampled_from([0.05, 0.3, 0.5, 1.0, 1.7, 0, -0.5, math.nan, "half"]),
    method=st.sampled_from([*METHODS, *METHODS, "magic"]),
    max_params=st.sampled_from([None, None, None, 1, 150, 10_000, 2.5]),
    max_widths=st.sampled_from([None, None, None, 1, 5, {"hidden": 4}, {"nowhere": 9}]),
)
orders = st.lists(growths | st.sampled_from(["step", "save", "arm"]), min_size=2, max_size=4)

dense_steps = st.lists(
    st.tuples(st.sampled_from(["dense", "shared", "add", "concat", "bn"]), st.integers(0, 5)),
    min_size=1,
    max_size=5,
)


def build_dense(steps):
    """Dense layers, one of them called wherever it fits, joined by additions and concatenations."""
    inputs = keras.Input((4,))
    pool = [GrowableDense(3, activation="tanh", name="hidden")(inputs)]
    shared = GrowableDense(3, activation="tanh", name="shared")
    for number, (kind, pick) in enumerate(steps):
        x = pool[pick % len(pool)]
        alike = [y for y in pool if y.shape == x.shape]
        if kind == "dense":
            x = GrowableDense(1 + pick % 3, activation="tanh", name=f"n{number}")(x)
        elif kind == "shared":
            fits = [y for y in pool if y.shape[-1] == 3]
            x = shared(fits[pick % len(fits)])
        elif kind == "add":
            x = keras.layers.Add(name=f"n{number}")([x, alike[-1]])
        elif kind == "concat":
            x = keras.layers.Concatenate(name=f"n{number}")([x, pool[-1]])
        else:
            x = keras.layers.BatchNormalization(name=f"n{number}")(x)
        pool.append(x)
    return GrowableModel(inputs, keras.layers.Dense(2, name="head")(pool[-1]))


plans = st.tuples(st.just(build), random_graphs) | st.tuples(st.just(build_dense), dense_steps)


def is_ours(error):
    """Whether an exception is one that this package raises on purpose."""
    innermost = traceback.extract_tb(error.__traceback__)[-1]
    words = innermost.line.split()
    return innermost.filename.startswith(PACKAGE) and words[:1] == ["raise"]


def wanted(model, growth):
    """The most neurons that a growth may add, and whether it must add that many."""
    widths = model.widths
    limits = growth.max_widths if isinstance(growth.max_widths, dict) else {}
    default = growth.max_widths if isinstance(growth.max_widths, int) else math.inf
    room = sum(max(limits.get(name, default) - width, 0) for name, width in widths.items())
    most = min(math.floor(growth.rate * sum(widths.values()) + 1e-9), room)
    return most, growth.max_params is None


def grow(model, growth, data):
    before = state_of(model)
    method = METHODS[growth.method](seed=1) if growth.method in METHODS else growth.method
    try:
        event = model.grow(
            growth.rate,
            method,
            data=data,
            max_params=growth.max_params,
            max_widths=growth.max_widths,
        )
    except (ValueError, TypeError) as error:
        if not is_ours(error):
            raise
        event = None
    else:
        most, exactly = wanted(model, growth) if event is None else (None, None)
        assert event is not None or most == 0 or not exactly
    if event is None:
        assert_same_state(before, state_of(model))
        return
    assert model.widths == event.widths_after
    params = sum(math.prod(v.shape) for v in model.trainable_variables)
    assert params == event.parameters_after
    narrow = GrowableModel.from_config(before["config"])
    most, exactly = wanted(narrow, growth)
    added = event.neurons_after - event.neurons_before
    assert added == most if exactly else 0 < added <= most and params <= growth.max_params


def saved_and_loaded(model):
    with tempfile.TemporaryDirectory() as folder:
        model.save(f"{folder}/m.keras")
        again = keras.models.load_model(f"{folder}/m.keras")
    assert again.growth_history == model.growth_history and again.widths == model.widths
    assert_same_arrays(weights_and_slots(model), weights_and_slots(again))
    return again


def check(plan, order):
    maker, steps = plan
    model = eager(maker(steps), optimizer=keras.optimizers.SGD(0.01, momentum=0.9))
    model.optimizer.build(model.trainable_variables)
    x, y = batch(model, 4), np.ones((4, 2), "float32")
    for call in [*order, "step"]:
        if isinstance(call, Grow):
            grow(model, call, (x, y))
        elif call == "step":
            assert np.isfinite(model.train_on_batch(x, y))
        elif call == "arm" and model.widths:
            model.arm(SimilarityPenalty(epochs=2))
        elif call == "save":
            model = saved_and_loaded(model)
    twin = GrowableModel.from_config(model.get_config())
    twin.set_weights(model.get_weights())
    outputs = np.asarray(model(x))
    assert outputs.shape == (4, 2) and np.all(np.isfinite(outputs))
    np.testing.assert_allclose(outputs, twin(x), atol=1e-5)


@given(plans, orders)
def test_it_works_or_is_refused(plan, order):
    check(plan, order)


@pytest.mark.slow
@settings(
    max_examples=400, derandomize=False, suppress_health_check=list(HealthCheck), deadline=None
)
@given(plans, orders)
def test_it_works_or_is_refused_at_length(plan, order):
    check(plan, order)
