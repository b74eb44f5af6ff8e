"""Batches for scoring: the training data, without disturbing training."""

import keras
import numpy as np
import pytest
from networks import mlp
from problems import compiled, cross_entropy, eager

from keras_grow import GrowthCallback, methods
from keras_grow.methods.scoring_data import KEPT_BATCHES, DrawnData, PassingData, as_scoring_data

X = np.arange(40, dtype="float32").reshape(20, 2)
Y = np.arange(20) % 3


def rng():
    return np.random.default_rng(0)


def rows_of(batches):
    return np.concatenate([np.asarray(x)[:, 0] for x, *_ in batches])


class Seen(methods.GrowthMethod):
    """Notes the batches that it is given, and copies the first neuron of each group."""

    name = "seen"
    needs_data = True

    def choose(self, graph, budget, rng, data=None):
        self.batches = data.batches(3, np.random.default_rng(0))
        return methods.Net2Wider(seed=1).choose(graph, budget, rng)


def test_arrays_are_drawn_without_replacement():
    rows = rows_of(DrawnData(X, Y, batch_size=5).batches(4, rng()))
    assert sorted(rows) == list(range(0, 40, 2))
    rows = rows_of(DrawnData(X, Y, batch_size=5).batches(6, rng()))
    assert len(rows) == 30 and set(rows) == set(range(0, 40, 2))


def test_examples_of_the_validation_split_are_never_drawn():
    rows = rows_of(DrawnData(X, Y, batch_size=5, validation_split=0.25).batches(9, rng()))
    assert set(rows) == set(range(0, 30, 2))


def test_targets_and_weights_belong_to_their_examples():
    data = DrawnData(X, Y, np.arange(20.0), class_weight={0: 1.0, 1: 2.0, 2: 3.0}, batch_size=7)
    for x, y, weight in data.batches(3, rng()):
        numbers = x[:, 0] / 2
        np.testing.assert_array_equal(y, numbers % 3)
        np.testing.assert_allclose(weight, numbers * (1 + numbers % 3))


def test_class_weights_of_one_hot_targets():
    data = DrawnData(X, np.eye(3)[Y], class_weight={1: 2.0}, batch_size=20)
    ((_, y, weight),) = data.batches(1, rng())
    np.testing.assert_allclose(weight, np.where(y[:, 1] == 1, 2.0, 1.0))


@pytest.mark.parametrize("data", [(X, Y), [(X[:4], Y[:4]), (X[4:8], Y[4:8])]], ids=[0, 1])
def test_what_a_user_may_hand_over(data):
    """More kinds are in `test_data_kinds.py`."""
    for x, y, weight in as_scoring_data(data).batches(2, rng()):
        assert len(x) == len(y) and weight is None


def test_what_a_user_may_not_hand_over():
    with pytest.raises(TypeError, match="`data` must be a tuple"):
        as_scoring_data(3)
    with pytest.raises(ValueError, match="no data to score neurons on"):
        as_scoring_data([]).batches(2, rng())


def network():
    return eager(mlp(inputs=2, outputs=3), cross_entropy(), keras.optimizers.SGD(0.01))


def shuffled():
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(20, seed=5).batch(4)


def fit(method, make_data, epochs=3, **kwargs):
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
    model = network()
    callback = GrowthCallback(0.5, every=1, method=method, penalty=None, verbose=0)
    data = make_data()
    arguments = {"x": data[0], "y": data[1], "batch_size": 4} if isinstance(data, tuple) else {
        "x": data, "shuffle": False
    }  # fmt: skip
    model.fit(**arguments, epochs=epochs, callbacks=[callback], verbose=0, **kwargs)
    return model.get_weights()


@pytest.mark.parametrize("make_data", [shuffled, lambda: (X, Y)], ids=["dataset", "arrays"])
@pytest.mark.quick(1)
def test_scoring_does_not_disturb_training(make_data):
    """The same growths, with and without drawing batches: the same weights to the last bit."""
    with_data, without = fit(Seen(seed=1), make_data), fit(methods.Net2Wider(seed=1), make_data)
    for a, b in zip(with_data, without, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_generator_is_kept_as_it_passes_by():
    def generate():
        for i in range(1000):
            yield X[i % 5 * 4 : i % 5 * 4 + 4], Y[i % 5 * 4 : i % 5 * 4 + 4]

    method = Seen(seed=1)
    fit(method, generate, epochs=2, steps_per_epoch=5)
    assert len(method.batches) == 3
    # The latest three in a row; Keras reads a batch ahead of training.
    np.testing.assert_array_equal(np.diff(rows_of(method.batches)) % 40, 2)


def test_only_the_latest_batches_are_kept():
    data = PassingData((X[:1] + i, Y[:1]) for i in range(100))
    for step, _ in enumerate(data.stream.get_numpy_iterator()):
        data.step_done(step)
    batches = data.batches(1000, rng())
    assert len(batches) == KEPT_BATCHES and float(batches[-1][0][0, 0]) == 99


@pytest.mark.parametrize("ends", [[0, 1, 2, 3, 4, 5, 0, 1, 2], [2, 5, 2]], ids=str)
def test_what_is_read_ahead_of_training_is_not_kept(ends):
    """How far data is read ahead is a matter of timing, and growths must not depend on it."""
    data = PassingData((X[:1] + i, Y[:1]) for i in range(12))
    list(data.stream.get_numpy_iterator())
    for batch in ends:
        data.step_done(batch)
    np.testing.assert_array_equal(rows_of(data.batches(1000, rng())), range(9))


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.quick(1)
def test_growths_see_all_and_only_what_was_trained_on(steps):
    """Also of a generator, of which Keras reads as much ahead as there is time for."""
    method = Seen(seed=1)
    model = compiled(network(), steps_per_execution=steps)
    batches = ((X[:4] + i, np.zeros((4, 3))) for i in range(1000))
    callback = GrowthCallback(0.5, every=1, method=method, penalty=None, verbose=0)
    model.fit(batches, epochs=2, steps_per_epoch=6, shuffle=False, callbacks=[callback], verbose=0)
    np.testing.assert_array_equal(rows_of(method.batches)[::4], [3, 4, 5])


def test_an_indexed_data_set():
    class Pages(keras.utils.PyDataset):
        def __len__(self):
            return 5

        def __getitem__(self, index):
            return X[index * 4 : index * 4 + 4], Y[index * 4 : index * 4 + 4]

    method = Seen(seed=1)
    fit(method, Pages, epochs=2)
    assert len(method.batches) == 3


def test_the_data_is_let_go_after_fit():
    model = network()
    callback = GrowthCallback(0.5, every=1, method=Seen(seed=1), verbose=0)
    model.fit(X, Y, epochs=2, callbacks=[callback], verbose=0)
    assert model.fit_context is None
