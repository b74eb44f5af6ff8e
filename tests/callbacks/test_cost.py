"""What a run costs, compared with sums by hand and with a run that was stopped."""

import itertools

import keras
import numpy as np
import pytest
from networks import mlp
from problems import eager, problem

import keras_grow
from keras_grow import CostMeter, GrowthBackup, GrowthCallback


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on by one second each time it is read."""
    ticks = itertools.count()
    monkeypatch.setattr("time.perf_counter", lambda: float(next(ticks)))


def train(*callbacks, epochs=3, **options):
    model = eager(mlp())
    x, y = problem(model)
    model.fit(x, y, 8, epochs, verbose=0, callbacks=list(callbacks), **options)
    return model


def test_flops_are_those_of_each_width():
    meter = CostMeter(24)
    growth = GrowthCallback(0.5, 1, "random", penalty=None, verbose=0)
    model = train(meter, growth)
    widths = [model.growth_history[0].widths_before]
    widths += [event.widths_after for event in model.growth_history]
    sizes = [[model.input_shape[-1], *width.values(), model.output_shape[-1]] for width in widths]
    want = [sum(3 * 2 * a * b * 24 for a, b in itertools.pairwise(size)) for size in sizes]
    assert meter.flops == want == model.history.history["training_flops"]
    assert meter.totals()["images"] == 72
    assert meter.totals()["training_flops"] == sum(want)


def test_an_epoch_has_its_growth_and_not_its_validation():
    meter = CostMeter(24)
    x, y = problem(mlp())
    model = train(meter, validation_data=(x, y), epochs=2)
    assert meter.seconds == model.history.history["seconds"]
    assert 0 < sum(meter.seconds) < meter.elapsed
    assert meter.elapsed == meter.elapsed  # which ended with training


def test_the_clock_stops_for_validation(clock):
    meter = CostMeter(1)
    meter.set_model(train(epochs=1))
    meter.on_train_begin()
    meter.on_epoch_begin(0)
    meter.on_test_begin()
    for _ in range(10):
        meter.elapsed  # noqa: B018
    logs = {}
    meter.on_epoch_end(0, logs)
    assert logs["seconds"] == 1


def test_the_parts_of_an_interrupted_epoch_are_added_up(clock):
    meter, later = CostMeter(1), CostMeter(1)
    meter.on_train_begin()
    meter.on_epoch_begin(0)
    state = meter.get_state()  # in the middle of the epoch, a second after its begin
    later.on_train_begin()
    later.set_state(state)
    later.set_model(train(epochs=1))
    later.on_epoch_begin(0)
    later.on_epoch_end(0, {})
    assert later.seconds == [state["trained"] + 1] == [2]
    assert later.started == meter.started


def test_a_run_that_goes_on_has_the_cost_of_all_its_parts(tmp_path):
    whole, first, second = CostMeter(24), CostMeter(24), CostMeter(24)
    train(whole)
    train(first, GrowthBackup(tmp_path, delete_checkpoint=False, verbose=0), epochs=2)
    train(second, GrowthBackup(tmp_path, verbose=0))
    assert second.flops == whole.flops
    assert second.seconds[:2] == first.seconds and len(second.seconds) == 3
    assert second.elapsed > sum(second.seconds)


def test_a_second_fit_is_measured_by_itself():
    meter = CostMeter(24)
    train(meter)
    train(meter, epochs=1)
    assert len(meter.seconds) == len(meter.flops) == 1


@pytest.mark.parametrize("examples", [0, -1, 2.5, None])
def test_bad_examples(examples):
    with pytest.raises((TypeError, ValueError), match=r"`examples` must be .*Received: examples="):
        CostMeter(examples)


def test_a_history_can_be_drawn_against_its_cost():
    model = train(CostMeter(24), epochs=3)
    drawn = keras_grow.plots.growth_curve(model.history, x="flops", metric="loss").axes[0]
    positions = drawn.get_lines()[0].get_xdata()
    np.testing.assert_allclose(positions, np.cumsum(model.history.history["training_flops"]))


def test_a_model_that_cannot_be_counted_is_refused_before_it_trains():
    inputs = keras.Input((3, 2))
    outputs = keras.layers.Flatten()(keras.layers.Attention(name="att")([inputs, inputs]))
    model = keras.Model(inputs, keras.layers.Dense(2)(outputs))
    model.compile("sgd", "mse", run_eagerly=True)
    before = model.get_weights()
    with pytest.raises(ValueError, match="`att`"):
        model.fit(np.ones((4, 3, 2)), np.ones((4, 2)), verbose=0, callbacks=[CostMeter(4)])
    assert all(map(np.array_equal, before, model.get_weights()))
