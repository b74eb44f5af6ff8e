"""Whatever `fit` trains on: a growth that scores neurons leaves its batches as they are."""

import keras
import numpy as np
import pytest
from networks import mlp

from keras_grow import GrowthCallback, GrowthMethod, methods

X = np.arange(40, dtype="float32").reshape(20, 2)
Y = np.arange(20, dtype="float32").reshape(20, 1)


class Seen(GrowthMethod):
    """Keeps what it is given to score neurons on."""

    name = "seen"
    needs_data = True

    def choose(self, graph, budget, rng, data=None):
        self.batches = data.batches(3, np.random.default_rng(0))
        return methods.Net2Wider(seed=1).choose(graph, budget, rng)


class Pages(keras.utils.PyDataset):
    length = 5

    @property
    def num_batches(self):
        return self.length

    def __getitem__(self, index):
        start = index % 5 * 4
        return X[start : start + 4], Y[start : start + 4]


class Endless(Pages):
    length = None


def torch_loader():
    torch = pytest.importorskip("torch")
    data = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y))
    return torch.utils.data.DataLoader(data, batch_size=6)


def grain_dataset():
    grain = pytest.importorskip("grain")
    return grain.MapDataset.source(list(zip(X, Y, strict=True))).batch(6)


def tf_dataset(change=lambda data: data):
    tf = pytest.importorskip("tensorflow")
    return change(tf.data.Dataset.from_tensor_slices((X, Y)).batch(6))


def unknown_length():
    return tf_dataset(lambda data: data.filter(lambda x, y: True))


def data_frame():
    pandas = pytest.importorskip("pandas")
    return pandas.DataFrame(X, columns=["a", "b"])


def series():
    return pytest.importorskip("pandas").Series(Y[:, 0])


def generator():
    while True:
        for start in range(0, 20, 4):
            yield X[start : start + 4], Y[start : start + 4]


def sparse_matrix():
    return pytest.importorskip("scipy.sparse").coo_matrix(X)


def sparse_tensor():
    tf = pytest.importorskip("tensorflow")
    return tf.sparse.from_dense(X)


ARRAYS = {"batch_size": 6}
STEPS = {"steps_per_epoch": 3}
KINDS = {
    "arrays": (lambda: (X, Y), ARRAYS),
    "tensors": (lambda: (keras.ops.convert_to_tensor(X), keras.ops.convert_to_tensor(Y)), ARRAYS),
    "data frame": (lambda: (data_frame(), series()), ARRAYS),
    "sparse matrix": (lambda: (sparse_matrix(), Y), ARRAYS),
    "sparse tensor": (lambda: (sparse_tensor(), Y), ARRAYS),
    "data set": (lambda: (tf_dataset(),), {}),
    "data set in pieces": (lambda: (tf_dataset(lambda data: data.repeat()),), STEPS),
    "data set of unknown length": (lambda: (unknown_length(),), {}),
    "py data set": (lambda: (Pages(),), {}),
    "py data set of workers": (lambda: (Pages(workers=2, use_multiprocessing=False),), {}),
    "endless py data set": (lambda: (Endless(),), STEPS),
    "generator": (lambda: (generator(),), STEPS),
    "torch": (lambda: (torch_loader(),), {}),
    "grain": (lambda: (grain_dataset(),), {}),
}


class Count(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.counts = [*getattr(self, "counts", []), 0]

    def on_train_batch_end(self, batch, logs=None):
        self.counts[-1] += 1


def batches_of_each_epoch(kind, *callbacks):
    make, arguments = KINDS[kind]
    model = mlp(inputs=2, outputs=1)
    model.compile("sgd", "mse", run_eagerly=keras.config.backend() == "tensorflow")
    count = Count()
    # Plain Keras warns where the last epoch of a data set of unknown length has ended.
    model.fit(*make(), **arguments, shuffle=False, epochs=3, verbose=0,
              callbacks=[*callbacks, count])  # fmt: skip
    return count.counts


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.quick(1)
def test_every_epoch_has_the_batches_that_keras_would_train_on(kind):
    if kind.startswith(("data set", "sparse tensor")) and keras.config.backend() != "tensorflow":
        pytest.skip("TensorFlow's alone")
    method = Seen(seed=1)
    growth = GrowthCallback(0.5, every=1, method=method, penalty=None, verbose=0)
    assert batches_of_each_epoch(kind, growth) == batches_of_each_epoch(kind)
    for x, y, _ in method.batches:  # examples, with the targets that are theirs
        np.testing.assert_array_equal(np.asarray(x)[:, 0] / 2, np.asarray(y)[:, 0])


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"generator", "endless py data set"}))
def test_what_a_user_may_hand_over_to_grow(kind):
    if kind.startswith(("data set", "sparse tensor")) and keras.config.backend() != "tensorflow":
        pytest.skip("TensorFlow's alone")
    data = KINDS[kind][0]()
    model = mlp(inputs=2, outputs=1)
    model.compile("sgd", "mse")
    method = Seen(seed=1)
    model.grow(0.5, method, data=data if len(data) > 1 else data[0])
    for x, y, _ in method.batches:
        np.testing.assert_array_equal(np.asarray(x)[:, 0] / 2, np.asarray(y)[:, 0])
