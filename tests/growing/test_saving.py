"""Saving and loading, before, between and after growths."""

import copy
import json
import pickle
import subprocess
import sys

import keras
import numpy as np
import pytest
from networks import batch, mlp, plain_cnn
from problems import eager
from quick_methods import METHODS
from states import arrays_of, assert_same_arrays, weights_and_slots

from keras_grow import GrowableModel, GrowthCallback, SimilarityPenalty, models
from keras_grow.core import keras_private
from keras_grow.methods import Net2Wider

X = np.random.default_rng(0).normal(size=(24, 5)).astype("float32")
Y = np.random.default_rng(1).normal(size=(24, 2)).astype("float32")


def compiled(model=None):
    return eager(model or mlp(), optimizer=keras.optimizers.Adam(0.01))


def train(model, method, until, start=0):
    callback = GrowthCallback(
        0.3, every=1, method=method, penalty=SimilarityPenalty(epochs=2), verbose=0
    )
    model.fit(X, Y, batch_size=8, shuffle=False, epochs=until, initial_epoch=start, verbose=0,
              callbacks=[callback])  # fmt: skip
    return model


def run_of(model):
    """What a run has in common with another that took more seconds."""
    events = [{**e.to_dict(), "seconds_choosing": 0, "seconds_widening": 0}
              for e in model.growth_history]  # fmt: skip
    return events, model.penalty_window and model.penalty_window.get_config()


@pytest.mark.filterwarnings("ignore:`GrowthCallback` grows nothing in this `fit`")
@pytest.mark.parametrize("method", ["net2wider", "firefly"])
@pytest.mark.quick(1)
def test_training_goes_on_as_if_nothing_had_been_saved(method, tmp_path):
    """Saved before the first growth, and after it, within the window of the penalty."""
    keras.utils.set_random_seed(3)
    whole = compiled()
    for epoch in range(3):
        train(whole, METHODS[method](seed=1), until=epoch + 1, start=epoch)
        whole.save(tmp_path / f"{epoch + 1}.keras")
    expected = weights_and_slots(whole), run_of(whole)
    for saved_at in (1, 2):
        keras.utils.set_random_seed(4)
        again = keras.models.load_model(tmp_path / f"{saved_at}.keras")
        assert len(again.growth_history) == saved_at - 1
        train(again, METHODS[method](seed=1), until=3, start=saved_at)
        assert_same_arrays(expected[0], weights_and_slots(again))
        assert expected[1] == run_of(again)


@pytest.mark.tensorflow
def test_a_data_set_is_read_where_nothing_has_passed_by_yet():
    """A loaded model that grows before its first epoch has seen no batch."""
    model = compiled()
    tf = pytest.importorskip("tensorflow")
    batches = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8)
    callback = GrowthCallback(
        0.3, every=1, method=METHODS["firefly"](seed=1), penalty=None, verbose=0
    )
    again = {"epochs": 2, "initial_epoch": 1, "verbose": 0, "callbacks": [callback]}
    model.fit(batches, **again, shuffle=False)
    assert len(model.growth_history) == 1

    def generate():
        yield from batches

    with pytest.raises(ValueError, match="of a generator, none before the first epoch"):
        compiled().fit(generate(), **again, shuffle=False)


def grown(model=None):
    model = compiled(model)
    model.fit(batch(model), np.zeros((8, model.output_shape[-1])), verbose=0)
    model.grow(0.5, Net2Wider(seed=1))
    return model


@pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
def test_weights_are_loaded_into_a_model_of_the_same_widths(suffix, tmp_path):
    model, path = grown(), tmp_path / f"m{suffix}"
    model.save_weights(path) if suffix == ".weights.h5" else model.save(path)
    twin = compiled(GrowableModel.from_config(model.get_config()))
    twin.optimizer.build(twin.trainable_variables)
    twin.load_weights(path)
    assert_same_arrays(weights_and_slots(model), weights_and_slots(twin))
    twin.fit(X, Y, verbose=0)


@pytest.mark.quick(2)
@pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
@pytest.mark.parametrize("into", ["wider", "narrower"])
def test_weights_of_other_widths_are_refused_and_nothing_is_loaded(into, suffix, tmp_path):
    wide, narrow, path = grown(), compiled(), tmp_path / f"m{suffix}"
    narrow.fit(X, Y, verbose=0)
    source, target = (narrow, wide) if into == "wider" else (wide, narrow)
    source.save_weights(path) if suffix == ".weights.h5" else source.save(path)
    names = ["hidden0", "hidden1"]
    widths = ", ".join(f"'{n}' {source.widths[n]} .here {target.widths[n]}." for n in names)
    before = weights_and_slots(target)
    with pytest.raises(ValueError, match=f"other widths: {widths}. Build the model with"):
        target.load_weights(path)
    assert_same_arrays(before, weights_and_slots(target))
    target.fit(X, Y, verbose=0)


@pytest.mark.long
def test_a_network_of_the_package_takes_the_widths_of_the_file(tmp_path):
    model = models.MobileNetV1(width=4, input_shape=(16, 16, 3))
    model.compile("sgd", "mse")
    model.grow(0.5, "random")
    model.save_weights(tmp_path / "m.weights.h5")
    fresh = models.MobileNetV1(width=4, input_shape=(16, 16, 3))
    with pytest.raises(ValueError, match=r"'stem' 6 \(here 4\), 'block1_pointwise' 6 \(here 4\)"):
        fresh.load_weights(tmp_path / "m.weights.h5")
    again = models.MobileNetV1(widths=model.widths, input_shape=(16, 16, 3))
    again.load_weights(tmp_path / "m.weights.h5")
    assert_same_arrays(arrays_of(model.variables), arrays_of(again.variables))


def test_what_differs_in_other_ways_is_said_by_keras(tmp_path):
    model = grown()
    with pytest.raises(FileNotFoundError):
        model.load_weights(tmp_path / "nowhere.weights.h5")
    plain_cnn().save_weights(tmp_path / "other.weights.h5")
    before = weights_and_slots(model)
    with pytest.raises(ValueError, match="could not be loaded"):
        model.load_weights(tmp_path / "other.weights.h5")
    assert_same_arrays(before, weights_and_slots(model))


@pytest.mark.filterwarnings("ignore:Skipping nested container")  # Keras's own remark
def test_layers_of_other_widths_can_be_skipped(tmp_path):
    narrow, wide = mlp(), mlp(hidden=(6, 4))
    narrow.get_layer("head").bias.assign([7.0, 8.0])
    narrow.save_weights(tmp_path / "m.weights.h5")
    before = np.asarray(wide.get_layer("hidden0").kernel)
    with pytest.warns(UserWarning, match="could not be loaded"):
        wide.load_weights(tmp_path / "m.weights.h5", skip_mismatch=True)
    np.testing.assert_array_equal(before, np.asarray(wide.get_layer("hidden0").kernel))


def test_weights_of_a_width_that_a_model_never_had_are_refused():
    model = grown()
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"`hidden0/kernel` is of shape \(5, 6\), not \(5, 7\)"):
        model.set_weights(mlp(hidden=(7, 4)).get_weights())
    assert_same_arrays(before, model.get_weights())


@pytest.mark.long
def test_checkpoints_of_weights_alone(tmp_path):
    model = compiled()
    callbacks = [
        GrowthCallback(0.3, every=1, method="random", penalty=None, verbose=0),
        keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.weights.h5", save_weights_only=True),
        keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", "loss", save_best_only=True),
    ]
    model.fit(X, Y, epochs=3, verbose=0, callbacks=callbacks)
    model.load_weights(tmp_path / "3.weights.h5")
    with pytest.raises(ValueError, match=r"'hidden0' 5 \(here 6\), 'hidden1' 4 \(here 5\)"):
        model.load_weights(tmp_path / "2.weights.h5")
    assert keras.models.load_model(tmp_path / "best.keras").neurons in (7, 9, 11)


def test_the_legacy_format_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"in the `.keras` format.*Received: filepath=.*m\.h5"):
        grown().save(tmp_path / "m.h5")


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies(duplicate):
    model = grown()
    twin = duplicate(model)
    assert twin.growth_history == model.growth_history
    twin.grow(0.5, "random")
    assert twin.neurons > model.neurons
    np.testing.assert_array_equal(model(X), duplicate(model)(X))


def lite_outputs(converter, x):
    import tensorflow as tf

    interpreter = tf.lite.Interpreter(model_content=converter.convert())
    (given,), (returned,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(given["index"], x.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(given["index"], x)
    interpreter.invoke()
    return interpreter.get_tensor(returned["index"])


@pytest.mark.long
@pytest.mark.tensorflow
@pytest.mark.filterwarnings("ignore")  # TensorFlow announces that its Lite interpreter moves
def test_a_grown_model_is_exported(tmp_path):
    """With the optimizer that has grown with it, and in the middle of its training."""
    tf = pytest.importorskip("tensorflow")
    model = grown(plain_cnn())
    x = batch(model)
    model.fit(x, np.zeros((8, 3)), verbose=0)
    expected = model.predict(x, verbose=0)
    model.export(tmp_path / "saved", verbose=False)
    saved = tf.saved_model.load(tmp_path / "saved")
    np.testing.assert_allclose(saved.serve(x), expected, atol=1e-5)
    for converter in (
        tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "saved")),
        tf.lite.TFLiteConverter.from_keras_model(model),
    ):
        np.testing.assert_allclose(lite_outputs(converter, x), expected, atol=1e-5)
    model.grow(0.5, "random")
    model.fit(x, np.zeros((8, 3)), verbose=0)


def test_the_index_of_an_optimizer_is_replaced_and_can_be_put_back():
    """What the export above needs, and what a failed growth does."""
    optimizer = grown().optimizer
    before = keras_private.keys_of(optimizer)
    assert set(before) >= {"_trainable_variables_indices"}
    keras_private.rekey(optimizer)
    assert optimizer._trainable_variables_indices is not before["_trainable_variables_indices"]
    optimizer._trainable_variables_indices = {}
    keras_private.put_back_keys(optimizer, before)
    assert dict(optimizer._trainable_variables_indices) == dict(
        before["_trainable_variables_indices"]
    )


ELSEWHERE = """
import sys, json, keras, numpy as np
folder = sys.argv[1]
plain = keras.models.load_model(folder + "/plain.keras")  # before keras_grow is imported
import keras_grow
model = keras.models.load_model(folder + "/m.keras")
x, y = np.load(folder + "/x.npy"), np.load(folder + "/y.npy")
facts = {"type": type(model).__name__, "plain": type(plain).__name__, "widths": model.widths,
         "events": len(model.growth_history), "left": model.penalty_window.epochs_left,
         "outputs": model.predict(x, verbose=0).tolist(), "rate": None}
facts["rate"] = float(model.optimizer.learning_rate)
callback = keras_grow.GrowthCallback(0.3, every=1, method="net2wider", verbose=0)
model.fit(x, y, epochs=4, initial_epoch=3, verbose=0, callbacks=[callback])
print(json.dumps({**facts, "after": len(model.growth_history)}))
"""


@pytest.mark.long
def test_another_process_needs_the_import_and_nothing_else(tmp_path):
    from keras_grow.schedules import HoldThenCosine

    optimizer = keras.optimizers.SGD(HoldThenCosine(0.01, 100), momentum=0.9)
    model = train(eager(mlp(), optimizer=optimizer), "net2wider", until=3)
    model.save(tmp_path / "m.keras")
    model.to_keras().save(tmp_path / "plain.keras")
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y)
    command = [sys.executable, "-c", ELSEWHERE, str(tmp_path)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    facts = json.loads(output.splitlines()[-1])
    assert (facts["type"], facts["plain"]) == ("GrowableModel", "Functional")
    assert facts["widths"] == model.widths and facts["left"] == model.penalty_window.epochs_left
    assert facts["rate"] == pytest.approx(0.01)
    assert (facts["events"], facts["after"]) == (2, 3)
    np.testing.assert_allclose(facts["outputs"], model.predict(X, verbose=0), atol=1e-6)
