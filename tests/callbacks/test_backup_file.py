"""A backup that can't be gone on from is refused, and a file holds what it was given."""

from functools import partial

import keras
import numpy as np
import problems
import pytest
from networks import mlp
from resumable import X, Y, assert_equal, copying, eager, end_of, train
from states import arrays_of

from keras_grow import At, GrowableModel, OnPlateau, Schedule
from keras_grow.callbacks.backup.file import read_backup, write_backup


@pytest.fixture(scope="module")
def backup(tmp_path_factory):
    """The bytes of a backup after two epochs."""
    folder = tmp_path_factory.mktemp("backup")
    train(folder, growth=lambda: copying(At([1])), epochs=2)
    return (folder / "latest.backup").read_bytes()


def refused(folder, content, match, model=None, growth=None):
    """Checks that a `fit` names the file, and changes nothing of the model."""
    (folder / "latest.backup").write_bytes(content)
    model = model or eager()
    model.optimizer.build(model.trainable_variables)
    before = end_of(model)
    with pytest.raises(ValueError, match=match) as caught:
        train(folder, model=lambda: model, growth=growth or copying, data=lambda: {"x": X, "y": Y})
    assert str(folder / "latest.backup") in str(caught.value)
    assert_equal(before, end_of(model))
    assert (folder / "latest.backup").read_bytes() == content


def test_a_damaged_backup(tmp_path, backup):
    refused(tmp_path, backup[: len(backup) // 2], "damaged or cut short")
    refused(tmp_path, backup[:-1], "damaged or cut short")
    refused(tmp_path, backup[:30], "damaged or cut short")
    refused(tmp_path, b"", "is not a backup of `keras_grow.GrowthBackup`")
    path = tmp_path / "latest.backup"
    rng = np.random.default_rng(0)
    for position in [*range(90), *rng.integers(0, len(backup), 60)]:  # all of the first line
        damaged = bytearray(backup)
        damaged[position] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=str(path)):
            read_backup(path)


def test_a_foreign_file(tmp_path, backup):
    model = eager()
    model.save(tmp_path / "model.keras")
    refused(tmp_path, (tmp_path / "model.keras").read_bytes(), "is not a backup of")
    refused(tmp_path, backup.replace(b"keras_grow backup 1", b"keras_grow backup 7"), "version=7")


def test_another_network_or_optimizer(tmp_path, backup):
    refused(
        tmp_path, backup, "its layers differ: .* in the backup", model=problems.eager(mlp(inputs=3))
    )
    other = eager()
    other = GrowableModel(other.inputs, keras.layers.Dense(7)(other.layers[-2].output))
    refused(tmp_path, backup, r"its weights differ: \(\(6, 3\), 'float32'\)", problems.eager(other))
    refused(tmp_path, backup, "its optimizers differ", eager("adam"))
    refused(tmp_path, backup, "its slots differ: 9 in the backup, 2 in this run", eager("sgd"))


def test_another_kind_of_schedule(tmp_path, backup):
    plateau = partial(copying, OnPlateau("loss"))
    refused(tmp_path, backup, "grew by a schedule of the kind `At`", growth=plateau)


def test_a_schedule_whose_state_is_unknown_is_refused_at_the_start(tmp_path):
    class Remembering(Schedule):
        def due(self, epoch):
            return False

        def observe(self, epoch, logs):
            self.loss = logs["loss"]

    with pytest.raises(NotImplementedError, match="Remembering overrides `observe` or `grown`"):
        train(tmp_path, growth=lambda: copying(Remembering()))


def test_arrays_of_every_kind_survive_a_file(tmp_path):
    path = tmp_path / "some.backup"
    kinds = ("float16", "bfloat16", "float32", "float64", "int8", "uint32", "int64", "bool")
    arrays = arrays_of(keras.ops.cast([[0, 1], [2, 3]], kind) for kind in kinds)
    arrays += [np.float32(3.5).reshape(()), np.zeros((0, 3)), arrays[1][0, 1]]
    write_backup(path, {"a": [1, None, {"b": float("inf")}]}, {"some": arrays, "none": []})
    content, back = read_backup(path)
    assert content == {"a": [1, None, {"b": float("inf")}]} and back["none"] == []
    for before, after in zip(arrays, back["some"], strict=True):
        assert before.dtype == after.dtype and before.shape == after.shape
        np.testing.assert_array_equal(before, after)
    with pytest.raises(ValueError, match="A backup holds numbers only"):
        write_backup(path, {}, {"some": [np.array(["text"])]})
