"""The state of Keras's own callbacks goes on: a run equals one that was never stopped."""

from functools import partial

import keras
import numpy as np
import pytest
from resumable import (
    EPOCHS,
    SIZE,
    StopAt,
    Stopped,
    X,
    Y,
    assert_equal,
    copying,
    eager,
    end_of,
    train,
)
from states import assert_same_arrays

from keras_grow import At, GrowthBackup
from keras_grow.callbacks.backup import keras_callbacks
from keras_grow.callbacks.backup.file import read_backup, write_backup

pytestmark = pytest.mark.long


def data():
    return {"x": X, "y": Y, "batch_size": SIZE, "shuffle": False}


def uphill():
    """The first epoch is the best."""
    return eager(keras.optimizers.SGD(-0.01))


def run(folder, make, stop_at=None, **arguments):
    """Trains with callbacks of Keras; returns them and what `train` returns."""
    callbacks = make()
    stops = [] if stop_at is None else [stop_at]
    given = {"data": data, "growth": partial(copying, At([1, 3])), **arguments}
    return callbacks, *train(folder, stops, before=callbacks, **given)


def assert_goes_on(folder, make, stop_at, **arguments):
    """Compares a run that was stopped with one that wasn't: callbacks, model and logs."""
    expected, whole, history = run(None, make, **{**arguments, "backup": {}})
    with pytest.raises(Stopped):
        run(folder, make, stop_at, **arguments)
    callbacks, model, after = run(folder, make, **arguments)
    assert_equal(end_of(whole), end_of(model))
    assert after.history == history.history and after.epoch == history.epoch
    assert model.growth_history == [] or model.widths == whole.widths
    return list(zip(expected, callbacks, strict=True)), model


def stopping(**arguments):
    return [keras.callbacks.EarlyStopping("loss", restore_best_weights=True, **arguments)]


@pytest.mark.parametrize("epoch", [1, 2])
def test_early_stopping_keeps_its_patience_and_its_best_weights(tmp_path, epoch):
    """Those from before a growth too: at the end the model goes back to their width."""
    make = partial(stopping, patience=2)
    pairs, model = assert_goes_on(tmp_path, make, StopAt(epoch), model=uphill)
    for expected, callback in pairs:
        assert callback.best == expected.best and callback.wait == expected.wait == 2
        assert callback.best_epoch == 0 and callback.stopped_epoch == 2
        assert_same_arrays(expected.best_weights, callback.best_weights)
    assert model.growth_history == [] and model.widths == {"a": 4, "b": 5}


def test_a_run_that_early_stopping_has_ended_is_at_its_end(tmp_path):
    make = partial(stopping, patience=1)
    _, model, history = run(tmp_path, make, model=uphill)
    assert len(history.epoch) == 2
    _, again, after = run(tmp_path, make, model=uphill)
    assert_equal(end_of(model), end_of(again))
    assert after.history == history.history
    _, _, longer = run(tmp_path, partial(stopping, patience=2), model=uphill)
    assert len(longer.epoch) == 3  # more patience counts from where the run goes on


def plateaus():
    make = keras.callbacks.ReduceLROnPlateau
    return [make("loss", patience=1, factor=0.5, cooldown=1, min_delta=10.0)]


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_plateaus_keep_their_counters(tmp_path, epoch):
    ((expected, callback),), model = assert_goes_on(tmp_path, plateaus, StopAt(epoch))
    for name in ("best", "wait", "cooldown_counter"):
        assert getattr(callback, name) == getattr(expected, name)
    assert float(model.optimizer.learning_rate) < 0.05


def test_checkpoints_keep_their_best(tmp_path):
    def make(folder):
        path = tmp_path / folder / "{epoch}.keras"
        path.parent.mkdir(exist_ok=True)
        best = keras.callbacks.ModelCheckpoint(path, "loss", save_best_only=True)
        return [best, keras.callbacks.ModelCheckpoint(str(path)[:-6] + ".step.keras", save_freq=4)]

    backup = {"save_freq": 1}
    run(None, partial(make, "whole"), model=uphill)
    with pytest.raises(Stopped):
        run(tmp_path, partial(make, "again"), StopAt(1, 1), model=uphill, backup=backup)
    run(tmp_path, partial(make, "again"), model=uphill, backup=backup)
    names = [{p.name for p in (tmp_path / folder).iterdir()} for folder in ("whole", "again")]
    assert names[0] == names[1] and "1.keras" in names[0] and "2.keras" not in names[0]


def test_averages_that_are_in_the_model_are_taken_out_again(tmp_path):
    def build():
        return eager(keras.optimizers.SGD(0.05, use_ema=True, ema_momentum=0.9))

    def make():
        return [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)]

    assert_goes_on(tmp_path, make, StopAt(2), model=build)


def test_a_backup_without_them_is_gone_on_from(tmp_path):
    """As version 0.1 wrote it: Keras's callbacks start anew."""
    run(tmp_path, partial(stopping, patience=9), epochs=2)
    path = tmp_path / "latest.backup"
    content, arrays = read_backup(path)
    del content["callbacks of keras"], arrays["callbacks of keras"]
    for event in content["growth"]["history"]:
        del event["sources"], event["outgoing_scale"]
    write_backup(path, content, arrays)
    (callback,), model, _ = run(tmp_path, partial(stopping, patience=9))
    assert callback.best_epoch >= 2 and len(model.history.epoch) == EPOCHS


def test_a_callback_that_watches_something_else_starts_anew(tmp_path):
    run(tmp_path, partial(stopping, patience=9), epochs=2)
    accuracy = partial(keras.callbacks.EarlyStopping, "accuracy", patience=9)
    (callback,), *_ = run(tmp_path, lambda: [accuracy()])
    assert callback.best <= 1 and callback.wait <= 2
    with pytest.raises(ValueError, match=r"its callbacks differ: 1 `EarlyStopping` \(monitor='a"):
        run(tmp_path, lambda: [accuracy(), accuracy()], epochs=5)


def test_it_warns_where_it_comes_before_them(tmp_path):
    callbacks = [copying(), GrowthBackup(tmp_path), *stopping()]
    with pytest.warns(UserWarning, match="comes before `EarlyStopping` in `callbacks`"):
        eager().fit(X, Y, callbacks=callbacks, epochs=2, verbose=0)


def test_keras_own_backup_beside_a_growth_is_warned_of(tmp_path):
    def fit(epochs):
        backup = keras.callbacks.BackupAndRestore(tmp_path, delete_checkpoint=False)
        model = eager()
        with pytest.warns(UserWarning, match="Use `keras_grow.GrowthBackup"):
            model.fit(X, Y, epochs=epochs, callbacks=[copying(At([1])), backup], verbose=0)
        return model

    assert fit(2).growth_history
    with pytest.raises(ValueError, match=r"with `keras_grow.GrowthBackup` in place of"):
        fit(3)


def test_numbers_of_numpy_are_written_and_read_back(tmp_path):
    callback, again = (keras.callbacks.EarlyStopping("loss") for _ in range(2))
    callback.best = np.float32(0.1)
    memories, _ = keras_callbacks.capture([callback])
    write_backup(tmp_path / "some.backup", {"memories": memories}, {})
    keras_callbacks.restore([again], read_backup(tmp_path / "some.backup")[0]["memories"], [])
    assert np.float32(again.best) == callback.best
