"""GrowthCallback within `fit`, in all the ways that `fit` can be called."""

import copy
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import batch, mlp, plain_cnn
from problems import compiled, cross_entropy, eager

from keras_grow import At, Every, GrowthCallback, OnPlateau, SimilarityPenalty

X = np.random.default_rng(0).normal(size=(24, 6, 6, 2)).astype("float32")
Y = np.random.default_rng(1).integers(0, 3, 24)


def network(model=None, optimizer=None):
    return eager(model or plain_cnn(), cross_entropy(), optimizer, metrics=["accuracy"])


def fit(model, callback, epochs=3, **kwargs):
    data = {"x": X, "y": Y, "batch_size": 8, "verbose": 0, **kwargs}
    return model.fit(**data, epochs=epochs, callbacks=[callback])


def growth(rate, *, method="net2wider", **arguments):
    """A callback whose method needs no data, unless a test asks for one that does."""
    return GrowthCallback(rate, method=method, **arguments)


def neurons(model):
    return [event.neurons_after for event in model.growth_history]


def test_it_grows_between_epochs_and_not_after_the_last():
    model = network()
    fit(model, growth(0.2, every=2, verbose=0), epochs=6, steps_per_epoch=1)
    assert [event.epoch for event in model.growth_history] == [2, 4]
    assert neurons(model) == [18, 21]


def test_it_logs_parameters_similarity_and_drift():
    model = network()
    penalty = SimilarityPenalty(epochs=1)
    logs = fit(model, growth(0.4, every=1, penalty=penalty, verbose=0), epochs=3).history
    before = model.growth_history[0].parameters_before
    assert logs["params"] == [before, *(e.parameters_after for e in model.growth_history)]
    assert all(0 < value < 1 for value in logs["similarity"])
    assert logs["weight_drift"][0] == 0
    assert all(value > 0 for value in logs["weight_drift"][1:])


def test_the_penalty_counts_only_within_its_window():
    """A step within it differs from that of plain Keras layers, and one after it doesn't."""
    model = eager(plain_cnn(dropout=0), cross_entropy(), keras.optimizers.SGD(0.05))
    fit(model, growth(0.4, every=2, penalty=SimilarityPenalty(epochs=2), verbose=0), epochs=3)
    for epochs_left in (1, 0):
        assert model.penalty_window.epochs_left == epochs_left
        plain = eager(model.to_keras(), cross_entropy(), keras.optimizers.SGD(0.05))
        for each in (model, plain):
            each.train_on_batch(X[:8], Y[:8])
        pairs = zip(model.get_weights(), plain.get_weights(), strict=True)
        assert all(np.allclose(a, b, atol=1e-6) for a, b in pairs) is (epochs_left == 0)
        model.penalty_window.end_epoch()


@pytest.mark.long
def test_the_penalty_lowers_the_similarity():
    ends = {}
    for weight in (0.0, 5.0):
        keras.utils.set_random_seed(4)
        model = network(optimizer=keras.optimizers.SGD(0.1, momentum=0.9))
        penalty = SimilarityPenalty(weight=weight, weight_sum=0.0, epochs=20)
        callback = growth(0.6, every=1, method="net2wider", penalty=penalty, verbose=0)
        callback.schedule = At([1])
        ends[weight] = fit(model, callback, epochs=6).history["similarity"][-1]
    assert ends[5.0] < ends[0.0] - 0.05


@pytest.mark.parametrize("settings", [{}, {"steps_per_execution": 2}], ids=str)
@pytest.mark.quick(1)
def test_a_traced_step(settings):
    """Compared with an eager one, and by XLA, in `test_numerics.py`."""
    model = compiled(plain_cnn(), cross_entropy(), **settings)
    logs = fit(model, growth(0.4, every=1, verbose=0)).history
    assert neurons(model) == [21, 29]
    assert np.all(np.isfinite(logs["loss"]))


@pytest.mark.parametrize(
    "arguments",
    [
        {"validation_data": (X, Y), "sample_weight": np.ones(24)},
        {"validation_split": 0.25, "class_weight": {0: 1.0, 1: 2.0, 2: 0.5}},
    ],
    ids=[0, 1],
)
@pytest.mark.quick(1)
def test_validation_and_weights(arguments):
    """The kinds of data are in `test_data_kinds.py`."""
    model = network()
    fit(model, growth(0.4, every=1, verbose=0), epochs=2, **arguments)
    assert neurons(model) == [21]


def test_the_schedule_of_the_learning_rate_goes_on():
    steps = keras.optimizers.schedules.CosineDecay(0.1, 9)
    model = network(optimizer=keras.optimizers.SGD(steps, momentum=0.9))
    fit(model, growth(0.4, every=1, verbose=0), epochs=3)
    assert int(model.optimizer.iterations) == 9
    assert float(model.optimizer.learning_rate) == pytest.approx(0, abs=1e-8)


def test_ceilings_stop_growth_and_say_so(capsys):
    model = network()
    fit(model, growth(0.4, every=1, max_params=900, verbose=1), epochs=5)
    event = model.growth_history[-1]
    assert event.parameters_after <= 900
    lines = capsys.readouterr().out
    assert "a ceiling allows" in lines
    assert lines.count("growth stops at") == 1 and "max_params=900" in lines


def test_one_line_a_growth(capsys):
    model = network()
    fit(model, growth(0.35, every=1, method="random"), epochs=2)
    (line,) = capsys.readouterr().out.splitlines()
    event = model.growth_history[0]
    assert line == (
        f"epoch 1: random grew 15 -> 20 neurons, {event.parameters_before:,} -> "
        f"{event.parameters_after:,} parameters, {event.seconds:.1f} s"
    )


def test_other_callbacks_see_the_grown_model(tmp_path):
    model = network()
    path = tmp_path / "{epoch}.keras"
    callbacks = [
        growth(0.4, every=1, verbose=0),
        keras.callbacks.ModelCheckpoint(path),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
    ]
    model.fit(X, Y, epochs=3, verbose=0, callbacks=callbacks)
    widths = [keras.models.load_model(tmp_path / f"{e}.keras").neurons for e in (1, 2, 3)]
    assert widths == [15, 21, 29]
    header = (tmp_path / "log.csv").read_text().splitlines()[0].split(",")
    assert {"params", "similarity", "weight_drift"} <= set(header)


def test_a_loaded_model_goes_on(tmp_path):
    model = network()
    penalty = SimilarityPenalty(weight=0.5, epochs=4)
    fit(model, growth(0.4, every=1, penalty=penalty, verbose=0), epochs=2)
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    assert again.growth_history == model.growth_history and again.widths == model.widths
    assert again.penalty_window.epochs_left == model.penalty_window.epochs_left == 3
    assert again.penalty_window.get_config() == model.penalty_window.get_config()
    np.testing.assert_allclose(model.predict(X, verbose=0), again.predict(X, verbose=0), atol=1e-6)
    for a, b in zip(model.optimizer.variables, again.optimizer.variables, strict=True):
        np.testing.assert_array_equal(a, b)
    fit(again, growth(0.4, every=1, verbose=0), epochs=4, initial_epoch=2)
    assert [event.epoch for event in again.growth_history] == [1, 2, 3]


@pytest.mark.long
def test_a_model_saved_in_the_middle_of_its_epoch_does_not_grow_twice():
    model = network()
    fit(model, growth(0.4, every=1, verbose=0), epochs=2)
    fit(model, growth(0.4, every=1, verbose=0), epochs=2, initial_epoch=1)
    assert [event.epoch for event in model.growth_history] == [1]


def test_it_can_be_copied():
    callback = copy.deepcopy(growth(0.4, every=1, verbose=0))
    model = network()
    fit(model, callback, epochs=2)
    assert neurons(model) == [21]


def test_by_default_it_is_random_with_the_penalty():
    model = network()
    fit(model, GrowthCallback(0.4, every=1, verbose=0), epochs=2)
    (event,) = model.growth_history
    assert event.method == "random" and event.neurons_after == 21
    assert model.penalty_window.penalty == SimilarityPenalty(
        weight=0.05, weight_sum=0.0, measure="angle", per="neuron", relative=True
    )


def test_the_penalty_of_the_paper_by_name():
    model = network()
    fit(model, GrowthCallback(0.4, every=1, penalty="paper", verbose=0), epochs=2)
    assert model.penalty_window.penalty == SimilarityPenalty(weight=1.0, weight_sum=0.01, epochs=15)


def test_growing_at_given_epochs_and_until():
    assert [e for e in range(30) if Every(10, until=20).due(e)] == [10, 20]
    assert [e for e in range(5) if At([1, 3]).due(e)] == [1, 3]


def test_growing_on_a_plateau():
    model = eager(mlp(), optimizer=keras.optimizers.SGD(0.0))
    x = batch(model, 16)
    schedule = OnPlateau("loss", patience=2, min_delta=1e-4, max_growths=2)
    callback = growth(0.5, every=schedule, method="random", penalty=None, verbose=0)
    model.fit(x, np.ones((16, 2)), epochs=10, verbose=0, callbacks=[callback])
    # A rate of 0: the loss never improves but for the first epoch after each growth.
    assert [event.epoch for event in model.growth_history] == [3, 6]


@settings(max_examples=200)  # each takes no time
@given(
    st.lists(st.sampled_from([-0.25, -0.125, 0.0, 0.125, 0.25]), min_size=1, max_size=20),
    st.integers(1, 4),
    st.sampled_from([0.0, 0.125, 0.3]),
    st.sampled_from(["min", "max"]),
)
def test_a_plateau_begins_where_keras_would_stop(changes, patience, min_delta, mode):
    stop = keras.callbacks.EarlyStopping("loss", min_delta, patience, mode=mode)
    stop.set_model(SimpleNamespace(stop_training=False))
    stop.on_train_begin()
    schedule = OnPlateau("loss", patience, min_delta, mode)
    for epoch, value in enumerate(np.cumsum(changes)):
        stop.on_epoch_end(epoch, {"loss": value})
        schedule.observe(epoch + 1, {"loss": value})
        if stop.model.stop_training:
            break
        assert not schedule.due(epoch + 1)
    assert schedule.due(epoch + 1) == stop.model.stop_training


def test_a_plateau_needs_its_quantity():
    model = network()
    with pytest.raises(ValueError, match=r"monitors 'val_loss'.*Logged: .*'loss'"):
        fit(model, growth(0.5, every=OnPlateau(), verbose=0))
