"""Learning-rate schedules, against formulas of their own and Keras's CosineDecay."""

import math

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_grow import schedules
from keras_grow.schedules import CosineRestarts, HoldThenCosine

CosineDecay = keras.optimizers.schedules.CosineDecay
EXAMPLES = [
    CosineRestarts(0.1, [10, 25, 40], 60),
    CosineRestarts(0.1, [], 60),
    HoldThenCosine(0.1, 60, hold=0.4),
]


def cosine(rate, step, steps):
    return rate * math.cos(0.5 * math.pi * min(max(step / steps, 0), 1)) ** 2


@st.composite
def stages(draw):
    total = draw(st.integers(2, 200_000))
    growths = draw(st.sets(st.integers(1, total - 1), max_size=5))
    return total, sorted(growths), draw(st.integers(0, total + 10))


@given(stages())
def test_restarts_begin_a_cosine_at_every_growth(drawn):
    total, growths, step = drawn
    start = max([g for g in growths if g <= step], default=0)
    end = min([g for g in growths if g > step], default=total)
    rate = CosineRestarts(0.3, growths, total)(step)
    assert float(rate) == pytest.approx(cosine(0.3, step - start, end - start), abs=1e-6)


@given(st.integers(1, 200_000), st.integers(0, 200_010))
def test_without_growths_restarts_and_hold_are_the_cosine_of_keras(total, step):
    expected = pytest.approx(float(CosineDecay(0.3, total)(step)), abs=1e-6)
    assert float(CosineRestarts(0.3, [], total)(step)) == expected
    assert float(HoldThenCosine(0.3, total, hold=0)(step)) == expected


@given(st.integers(1, 9), st.integers(0, 1100))
def test_hold_keeps_the_rate_and_then_decays(tenths, step):
    held = 100 * tenths
    rate = HoldThenCosine(0.3, 1000, hold=tenths / 10)(step)
    assert float(rate) == pytest.approx(cosine(0.3, step - held, 1000 - held), abs=1e-6)


def test_a_growth_step_has_the_full_rate_and_the_step_before_a_small_one():
    schedule = CosineRestarts(0.1, [100], 200)
    assert float(schedule(100)) == pytest.approx(0.1)
    assert float(schedule(99)) < 1e-4


@pytest.mark.parametrize("schedule", EXAMPLES)
def test_steps_may_be_tensors_variables_and_arrays(schedule):
    expected = [float(schedule(step)) for step in range(70)]
    np.testing.assert_allclose(schedule(np.arange(70)), expected, atol=1e-7)
    rate = schedule(keras.Variable(7, dtype="int32"))
    assert (rate.shape, rate.dtype) == ((), "float32")


@pytest.mark.tensorflow
@pytest.mark.parametrize("schedule", EXAMPLES)
def test_schedules_are_compiled(schedule):
    tf = pytest.importorskip("tensorflow")
    compiled = tf.function(schedule, jit_compile=True)
    traced = [float(compiled(tf.constant(step, "int64"))) for step in range(70)]
    np.testing.assert_allclose(traced, [float(schedule(step)) for step in range(70)], atol=1e-7)


@pytest.mark.parametrize("schedule", EXAMPLES)
def test_schedules_are_serializable(schedule):
    optimizer = keras.optimizers.SGD(schedule)
    twin = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    loaded = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert loaded.get_config() == schedule.get_config()
    assert float(loaded(33)) == float(schedule(33))
    twin.iterations.assign(33)
    assert float(twin.learning_rate) == float(schedule(33))


def test_a_fit_follows_the_schedule():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(CosineRestarts(0.1, [4], 8)), "mse")
    rates = []
    log = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: rates.append(float(model.optimizer.learning_rate))
    )
    model.fit(np.ones((8, 1)), np.ones((8, 1)), batch_size=1, verbose=0, callbacks=[log])
    np.testing.assert_allclose(rates, [cosine(0.1, i, 4) for i in (0, 1, 2, 3)] * 2, atol=1e-7)


def test_get():
    assert isinstance(schedules.get("cosine", 0.1, 60), CosineDecay)
    assert schedules.get("cosine", 0.1, 60).decay_steps == 60
    restarts = schedules.get("restarts", 0.1, 60, np.array([10, 25, 40]))
    assert restarts.get_config() == EXAMPLES[0].get_config()
    assert schedules.get("hold", 0.1, 60).hold == 0.7
    assert schedules.get("hold", 0.1, 60, [10, 20]).hold == 0.7
    assert float(schedules.get("hold", 0.1, 60, [10, 49])(49)) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (TypeError, "initial_learning_rate.* number", lambda: CosineRestarts("fast", [], 9)),
        (TypeError, "initial_learning_rate.* number", lambda: HoldThenCosine(True, 9)),
        (ValueError, "initial_learning_rate.* positive", lambda: HoldThenCosine(0, 9)),
        (ValueError, "initial_learning_rate.* positive", lambda: HoldThenCosine(-0.1, 9)),
        (ValueError, "initial_learning_rate.* positive", lambda: schedules.get("cosine", -1, 9)),
        (ValueError, "Received: .*nan", lambda: CosineRestarts(math.nan, [], 9)),
        (TypeError, "total_steps.* integer", lambda: CosineRestarts(0.1, [], 9.5)),
        (ValueError, "total_steps.* positive", lambda: HoldThenCosine(0.1, 0)),
        (ValueError, "total_steps.* positive", lambda: schedules.get("cosine", 0.1, -1)),
        (TypeError, "growth_steps.* sequence", lambda: CosineRestarts(0.1, 3, 9)),
        (TypeError, "growth_steps.* sequence", lambda: CosineRestarts(0.1, "3", 9)),
        (TypeError, "growth_steps.* integer", lambda: CosineRestarts(0.1, [3.0], 9)),
        (ValueError, "growth_steps.* positive", lambda: CosineRestarts(0.1, [0, 3], 9)),
        (ValueError, "increase", lambda: CosineRestarts(0.1, [3, 3], 9)),
        (ValueError, "increase", lambda: CosineRestarts(0.1, [5, 3], 9)),
        (ValueError, "below total_steps=9", lambda: CosineRestarts(0.1, [3, 9], 9)),
        (ValueError, "below total_steps=9", lambda: schedules.get("cosine", 0.1, 9, [9])),
        (TypeError, "hold.* number", lambda: HoldThenCosine(0.1, 9, hold="long")),
        (ValueError, "hold.* below 1", lambda: HoldThenCosine(0.1, 9, hold=1)),
        (ValueError, "hold.* at least 0", lambda: HoldThenCosine(0.1, 9, hold=-0.1)),
        (ValueError, "Received: hold=nan", lambda: HoldThenCosine(0.1, 9, hold=math.nan)),
        (ValueError, "'cosine', 'restarts', 'hold'", lambda: schedules.get("step", 0.1, 9)),
    ],
)
def test_bad_arguments(error, message, call):
    with pytest.raises(error, match=message):
        call()
