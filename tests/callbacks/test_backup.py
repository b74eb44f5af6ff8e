"""A run that is stopped and started again ends as one that never stopped, bit for bit."""

import re
import shutil
from functools import cache, partial
from pathlib import Path

import keras
import numpy as np
import problems
import pytest
import resumable
import tensorflow as tf
from networks import mlp
from resumable import (
    EPOCHS,
    SIZE,
    STEPS,
    StopAt,
    Stopped,
    X,
    Y,
    assert_equal,
    assert_goes_on,
    copying,
    eager,
    end_of,
    network,
    stop,
    stopping,
    train,
)

import keras_grow
from keras_grow import At, GrowableModel, GrowthBackup, OnPlateau, SimilarityPenalty
from keras_grow.layers import GrowableDense

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def whole():
    """The run that never stopped."""
    model, history = train(None, growth=copying)
    assert [event.epoch for event in model.growth_history] == [1, 3]
    return end_of(model), history.history


@pytest.mark.parametrize(
    ("kind", "when"),
    [
        ("growing", 5),
        pytest.param("growing", 14, marks=pytest.mark.slow),
        ("half", 3),
        ("whole", 3),
    ],
)
def test_stopped_in_a_growth_or_in_writing(tmp_path, whole, kind, when):
    with pytest.raises(Stopped), stopping(kind, when, stop):
        train(tmp_path, growth=copying)
    model, history = train(tmp_path, growth=copying)
    assert_equal(whole[0], end_of(model))
    assert history.history == whole[1]
    assert history.epoch == list(range(EPOCHS))
    assert [path.name for path in tmp_path.iterdir()] == ["latest.backup"]


def test_stopped_twice_and_run_again_at_the_end(tmp_path, whole):
    for epoch in (1, 2):
        with pytest.raises(Stopped):
            train(tmp_path, [StopAt(epoch)], growth=copying)
    begun = resumable.Begun(tmp_path / "begun.txt")
    train(tmp_path, [begun], growth=copying)
    assert begun.path.read_text().split() == ["2", "3"]
    model, history = train(tmp_path, [begun], growth=copying)
    assert begun.path.read_text().split() == ["2", "3"]
    assert_equal(whole[0], end_of(model))
    assert history.history == whole[1]


def test_more_epochs_than_at_first(tmp_path, whole):
    train(tmp_path, growth=copying, epochs=3)
    model, _ = train(tmp_path, growth=copying)
    assert_equal(whole[0], end_of(model))


@pytest.mark.parametrize(
    ("save_freq", "batch"), [(1, STEPS - 1), pytest.param(2, 1, marks=pytest.mark.slow)]
)
def test_within_an_epoch(tmp_path, batch, save_freq):
    """The running metrics go on too: they decide here when to grow."""

    def plateau():
        return copying(OnPlateau("loss", patience=1, min_delta=10))

    model = assert_goes_on(
        tmp_path, StopAt(1, batch), StopAt(2, 1), growth=plateau, backup={"save_freq": save_freq}
    )
    assert model.growth_history
    assert int(model.optimizer.iterations) == EPOCHS * STEPS


def test_within_an_epoch_with_several_steps_per_execution(tmp_path):
    def build(steps=2):
        return network(steps_per_execution=steps)

    def data():
        return {"x": tf.data.Dataset.from_tensor_slices((X, Y)).batch(6), "shuffle": False}

    arguments = {"epochs": 2, "data": data, "growth": copying, "backup": {"save_freq": 1}}
    stop_at = StopAt(1, 1)
    assert_goes_on(tmp_path, stop_at, model=build, **arguments)
    with pytest.raises(Stopped):
        train(tmp_path / "new", [stop_at], model=build, **arguments)
    with pytest.raises(ValueError, match="steps_per_execution=2, the model has 1"):
        train(tmp_path / "new", model=partial(build, 1), **arguments)


def test_layers_that_draw_from_the_global_seed_generator(tmp_path):
    class Noise(keras.layers.Layer):
        def call(self, inputs):
            return inputs + keras.random.normal(keras.ops.shape(inputs))

    def build():
        model = mlp(inputs=3)
        return problems.eager(GrowableModel(model.inputs, Noise()(model.outputs[0])))

    def data():
        return {"x": X[:, 0, 0, :1] * np.ones((1, 3)), "y": X[:, 1, 1], "batch_size": SIZE}

    assert_goes_on(tmp_path, StopAt(3), model=build, data=data, growth=copying)


def float16():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = eager(keras.optimizers.SGD(0.01, momentum=0.9))
    finally:
        keras.config.set_dtype_policy(before)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    return model


@pytest.mark.parametrize(
    "build",
    [
        float16,
        lambda: eager(keras.optimizers.Adam(0.01, use_ema=True, gradient_accumulation_steps=2)),
        lambda: eager(keras.optimizers.Adafactor(0.01)),
    ],
    ids=["float16", "ema", "adafactor"],
)
def test_every_kind_of_slot(tmp_path, build):
    assert_goes_on(tmp_path, StopAt(2), model=build, growth=copying, epochs=3)


def test_a_model_that_never_grows(tmp_path):
    model = assert_goes_on(tmp_path, StopAt(1), growth=keras.callbacks.TerminateOnNaN, epochs=2)
    assert not model.growth_history


def test_the_same_model_goes_back_to_a_backup_that_is_narrower(tmp_path, whole):
    """An interrupt in a notebook leaves the model grown; the backup is from before the growth."""
    once = cache(eager)
    with pytest.raises(Stopped):
        train(tmp_path, [StopAt(1)], model=once, growth=copying)
    assert once().neurons > 9
    model, history = train(tmp_path, model=once, growth=copying)
    assert_equal(whole[0], end_of(model))
    assert history.history == whole[1]


def test_an_interrupt_while_steps_are_passed_over(tmp_path):
    with pytest.raises(Stopped):
        train(tmp_path, [StopAt(1, 1)], growth=copying, backup={"save_freq": 1})
    model = eager()
    arguments = {"model": lambda: model, "growth": copying, "backup": {"save_freq": 1}}
    with pytest.raises(Stopped):
        train(tmp_path, [StopAt(1, 0)], **arguments)
    before = model.get_weights()
    model.fit(X, Y, verbose=0)  # trains again
    assert not np.array_equal(before[0], model.get_weights()[0])


def test_the_next_fit_starts_where_it_is_told(tmp_path):
    model, _ = train(tmp_path, growth=copying, epochs=2)
    model, _ = train(tmp_path, growth=copying, epochs=3)
    assert model.fit(X, Y, epochs=1, verbose=0).epoch == [0]


def test_names_that_keras_numbers_may_differ(tmp_path):
    def build():
        inputs = keras.Input((3,))
        x = GrowableDense(4, activation="relu")(inputs)
        return problems.eager(GrowableModel(inputs, keras.layers.Dense(2)(x)))

    def fit(model, epochs):
        backup = GrowthBackup(tmp_path, delete_checkpoint=False, verbose=0)
        callbacks = [copying(every=1), backup]
        x, y = np.ones((4, 3)), np.ones((4, 2))
        return model.fit(x, y, epochs=epochs, callbacks=callbacks, verbose=0)

    first, second = build(), build()
    assert list(first.widths) != list(second.widths)
    fit(first, 2)
    fit(second, 2)
    assert_equal(
        dict(enumerate(first.get_weights())),
        dict(enumerate(second.get_weights())),
    )


class Counting(keras.callbacks.Callback):
    """A callback of the user's own that keeps a state."""

    epochs = 0

    def on_epoch_end(self, epoch, logs=None):
        self.epochs += 1

    def get_state(self):
        return {"epochs": self.epochs}

    def set_state(self, state):
        self.epochs = state["epochs"]


def test_callbacks_of_ones_own(tmp_path):
    with pytest.raises(Stopped):
        train(tmp_path, [StopAt(2)], [Counting()], growth=copying)
    counting = Counting()
    train(tmp_path, [], [counting], growth=copying)
    assert counting.epochs == EPOCHS
    with pytest.raises(ValueError, match="callbacks that keep a state differ"):
        train(tmp_path, growth=copying)


def test_the_seed_of_the_growth_method_goes_on(tmp_path):
    train(tmp_path, growth=copying, epochs=2)
    growth = copying()
    growth.method.seed += 1
    model, _ = train(tmp_path, growth=lambda: growth)
    assert_equal(end_of(model), end_of(train(None, growth=copying)[0]))


def test_settings_count_from_where_the_run_goes_on(tmp_path):
    train(tmp_path, growth=copying, epochs=2)
    model, _ = train(tmp_path, growth=lambda: copying(At([2, 3])))
    assert [event.epoch for event in model.growth_history] == [1, 2, 3]


def test_a_line_says_where_a_run_goes_on(tmp_path, capsys):
    with pytest.raises(Stopped):
        train(tmp_path, [StopAt(1, 1)], growth=copying, backup={"save_freq": 2})
    assert GrowthBackup(tmp_path).epoch == 1
    train(tmp_path, growth=copying, epochs=2, backup={"verbose": 1})
    line = f"GrowthBackup: goes on after 1 epochs and 2 steps, from {tmp_path}/latest.backup"
    assert line in capsys.readouterr().out


def test_the_backup_is_deleted_at_the_end_and_nothing_else(tmp_path):
    folder = tmp_path / "backup"
    train(folder, growth=copying, epochs=2, backup={"delete_checkpoint": True})
    assert not folder.exists()
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    train(folder, growth=copying, epochs=2, backup={"delete_checkpoint": True})
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    assert GrowthBackup(folder).epoch == 0


def test_what_a_kill_left_half_written_is_cleared_away(tmp_path):
    (tmp_path / ".partial-abc").mkdir()
    (tmp_path / ".partial-abc" / "latest.backup").write_text("half")
    train(tmp_path, growth=copying, epochs=2)
    assert [path.name for path in tmp_path.iterdir()] == ["latest.backup"]


def test_it_must_come_after_the_growth(tmp_path):
    callbacks = [GrowthBackup(tmp_path), copying()]
    with pytest.raises(ValueError, match="must come after `GrowthCallback`"):
        eager().fit(X, Y, callbacks=callbacks, verbose=0)


def test_arguments(tmp_path):
    for arguments, error, match in [
        ({"backup_dir": 3}, TypeError, "`backup_dir` must be the path of a folder"),
        ({"backup_dir": ""}, ValueError, "`backup_dir` must not be empty"),
        ({"save_freq": "batch"}, ValueError, "`save_freq` must be 'epoch' or"),
        ({"save_freq": 0}, ValueError, "`save_freq` must be a positive integer"),
        ({"save_freq": 1.5}, TypeError, "`save_freq` must be a positive integer"),
    ]:
        with pytest.raises(error, match=match):
            GrowthBackup(**{"backup_dir": tmp_path, **arguments})
    plain = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    plain.compile("sgd", "mse")
    with pytest.raises(TypeError, match=r"needs a `keras_grow.GrowableModel`.*BackupAndRestore"):
        plain.fit(np.ones((1, 2)), np.ones(1), callbacks=[GrowthBackup(tmp_path)], verbose=0)


def test_a_plateau_goes_on():
    first, second = OnPlateau("loss", patience=2, max_growths=2), OnPlateau("loss", patience=2)
    for epoch, loss in enumerate([1.0, 0.5, 0.5]):
        first.observe(epoch, {"loss": loss})
    first.grown(3)
    first.observe(4, {"loss": 0.7})
    second.set_state(first.get_state())
    for schedule in (first, second):
        schedule.observe(5, {"loss": 0.8})
        assert not schedule.due(5)
        schedule.observe(6, {"loss": 0.7})
        assert schedule.due(6)
        schedule.grown(6)
        assert schedule.growths_left == 0


def test_a_window_in_the_middle_of_an_epoch_goes_on():
    model, twin = eager(), eager()
    twin.set_weights(model.get_weights())
    model.arm(SimilarityPenalty(epochs=2))
    for steps in (1, 2):
        model.train_on_batch(X[:8], Y[:8])
        twin.set_growth_state(model.get_growth_state())
        twin.set_weights(model.get_weights())
        assert twin.get_growth_state() == model.get_growth_state()
        assert twin.penalty_window.get_config()["steps"] == steps
    assert twin.penalty_window.end_epoch() == model.penalty_window.end_epoch() != 0


def test_a_saved_model_keeps_the_seed_of_its_dropout(tmp_path):
    model = eager()
    model.fit(X, Y, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_equal(end_of(model), end_of(loaded))
    np.testing.assert_array_equal(model(X, training=True), loaded(X, training=True))


@pytest.mark.filterwarnings("ignore:`GrowthCallback` grows nothing in this `fit`")
def test_the_code_of_the_docs(tmp_path, monkeypatch):
    """Both blocks run, and each goes on where a shorter run of it ended."""
    monkeypatch.chdir(tmp_path)
    text = (Path(resumable.__file__).parents[2] / "docs" / "saving.md").read_text()
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.S):
        block = block.replace("every=10", "every=1, verbose=0").replace(", 32", ", 8")
        block = block.replace('"backup"', '"backup", delete_checkpoint=False, verbose=0')
        shutil.rmtree("backup", ignore_errors=True)
        for epochs in ("1", "2"):
            names = {"keras_grow": keras_grow, "tf": tf, "x": X, "y": Y, "model": eager()}
            names["make_model"] = eager
            exec(block.replace("60", epochs), names)
            assert names["model"].history.epoch == list(range(int(epochs)))
        assert int(names["model"].optimizer.iterations) == 2 * (1 if "make_model" in block else 3)
