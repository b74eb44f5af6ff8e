"""Images as batches, on TensorFlow and on JAX alike, and where they come from."""

import argparse
from pathlib import Path

import keras
import numpy as np
import pytest
from small_cifar import images, recipe, write_npz, write_tfds

data = recipe("data")

TRAIN, TEST = 100, 30
PLAIN = (np.ones(3, "float32"), np.zeros(3, "float32"))  # scale and offset that change nothing


@pytest.fixture(params=["tf_batches", "jax_batches"])
def batches(request):
    """The function that makes batches, of either backend; both work under any Keras backend."""
    pytest.importorskip({"tf_batches": "tensorflow", "jax_batches": "jax"}[request.param])
    return recipe(request.param).batches


@pytest.fixture(scope="module")
def npz(tmp_path_factory):
    return write_npz(tmp_path_factory.mktemp("npz"), "cifar10", TRAIN, TEST)


def arguments(path, **given):
    defaults = {"dataset": "cifar10", "batch_size": 32, "seed": 0}
    sizes = {"train_examples": None, "validation_examples": 0}
    return argparse.Namespace(data=Path(path), **{**defaults, **sizes, **given})


def split(count, start=0):
    pixels, labels = images(start + count)
    return data.Split(pixels[start:], labels[start:].astype("int32"))


def epoch(made, callbacks=(), number=0):
    """The batches of an epoch, as `fit` comes to them."""
    for callback in callbacks:
        callback.on_epoch_begin(number)
    every = made if not hasattr(made, "begin_epoch") else (made[i] for i in range(len(made)))
    return [(np.asarray(x), np.asarray(y)) for x, y in every]


def stacked(made, callbacks=(), number=0):
    parts = zip(*epoch(made, callbacks, number), strict=True)
    return tuple(np.concatenate(part) for part in parts)


def normalised(pixels, name="cifar10"):
    """The textbook formula, in double precision."""
    mean, deviation = data.STATISTICS[name]
    return (pixels / 255 - np.array(mean)) / np.array(deviation)


def sorted_rows(array):
    flat = np.round(np.asarray(array, "float64").reshape(len(array), -1), 3)
    return flat[np.lexsort(flat.T)]


def test_shapes_types_and_sizes(batches):
    made, _ = batches(split(TRAIN), 32, PLAIN, 0, True)
    assert len(made) == 4
    found = epoch(made)
    assert [x.shape for x, _ in found] == [(n, 32, 32, 3) for n in (32, 32, 32, 4)]
    assert [(x.dtype, y.dtype) for x, y in found] == [("float32", "int32")] * 4


def test_plain_batches_are_the_images_in_order_normalised(batches):
    made, callbacks = batches(split(TEST), 7, data.scale_and_offset("cifar10"))
    assert callbacks == []
    x, y = stacked(made)
    pixels, labels = images(TEST)
    np.testing.assert_allclose(x, normalised(pixels), atol=1e-4)
    np.testing.assert_array_equal(y, labels)


def test_published_statistics():
    assert data.STATISTICS["cifar10"].mean == (0.49140, 0.48216, 0.44653)
    assert data.STATISTICS["cifar10"].deviation == (0.24703, 0.24349, 0.26159)
    assert [len(names) for names in data.CLASSES.values()] == [10, 100]
    assert data.CLASSES["cifar100"] == sorted(set(data.CLASSES["cifar100"]))


def test_training_images_are_crops_of_the_stored_ones(batches):
    x, y = stacked(*batches(split(TRAIN), 32, data.scale_and_offset("cifar10"), 0, True))
    pixels, labels = images(TRAIN)
    padded = np.pad(pixels, ((0, 0), (4, 4), (4, 4), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (32, 32), axis=(1, 2))
    windows = np.moveaxis(windows, 3, -1)  # image, top, left, row, column, channel
    for image, label in list(zip(x, y, strict=True))[:20]:
        crops = normalised(windows[labels == label])
        distances = [
            abs(crops - side).max(axis=(-3, -2, -1)).min() for side in (image, image[:, ::-1])
        ]
        assert min(distances) < 1e-4


def test_every_crop_and_flip_is_as_likely(batches):
    """Of images whose pixels say where they are, a pixel says how its image was cropped."""
    place = np.stack([*np.mgrid[1:33, 1:33], np.ones((32, 32))], -1).astype("uint8")
    many = data.Split(np.tile(place, (9000, 1, 1, 1)), np.zeros(9000, "int32"))
    x, _ = stacked(*batches(many, 3000, PLAIN, 0, True))
    middle = x[:, 14:18, 14:18]
    flips = middle[:, 0, 0, 1] > middle[:, 0, 1, 1]
    top = middle[:, 0, 0, 0] - 15 + 4
    left = np.where(flips, middle[:, 0, 3, 1], middle[:, 0, 0, 1]) - 15 + 4
    for corner in (top, left):
        assert np.bincount(corner.astype(int), minlength=9).min() > 850
        assert set(corner) == set(range(9))
    assert 0.45 < flips.mean() < 0.55
    assert abs(np.corrcoef([top, left, flips])[np.triu_indices(3, 1)]).max() < 0.05
    for image in x[:50]:  # what lies beyond an image's border is black
        assert ((image[..., 2] == 1) == (image[..., 0] > 0)).all()


def test_every_example_comes_once_an_epoch_in_a_new_order(batches):
    made, callbacks = batches(split(TRAIN), 32, PLAIN, 0)
    first, second = (stacked(made, callbacks, number) for number in (0, 1))
    want = sorted_rows(images(TRAIN)[0])
    for x, _ in (first, second):
        np.testing.assert_array_equal(sorted_rows(x), want)
    assert not np.array_equal(first[1], second[1])


def test_crops_differ_between_epochs(batches):
    made, callbacks = batches(split(TRAIN), TRAIN, PLAIN, 0, True)
    first, second = (sorted_rows(stacked(made, callbacks, number)[0]) for number in (0, 1))
    assert not np.array_equal(first, second)


def test_the_same_seed_gives_the_same_epochs(batches):
    one, again, other = (batches(split(TRAIN), 32, PLAIN, seed, True) for seed in (3, 3, 4))
    for number in range(2):
        first, second, third = (epoch(*each, number) for each in (one, again, other))
        for (x1, y1), (x2, y2) in zip(first, second, strict=True):
            np.testing.assert_array_equal(x1, x2)
            np.testing.assert_array_equal(y1, y2)
        assert not np.array_equal(first[0][0], third[0][0])


def test_an_epoch_on_jax_can_be_entered_anywhere():
    """What a run that goes on relies on: the epoch's number is all that its batches depend on."""
    pytest.importorskip("jax")
    made, (callback,) = recipe("jax_batches").batches(split(TRAIN), 32, PLAIN, 0, True)
    callback.on_epoch_begin(5)
    want = np.asarray(made[2][0])
    made[0], made[2]
    callback.on_epoch_begin(6)
    assert not np.array_equal(made[2][0], want)
    callback.on_epoch_begin(5)
    np.testing.assert_array_equal(made[2][0], want)


def test_a_file_and_a_folder_with_it_are_read_alike(npz):
    for path in (npz, npz.parent):
        train, test = data.read("cifar10", path)
        pixels, labels = images(TRAIN + TEST)
        np.testing.assert_array_equal(train.images, pixels[:TRAIN])
        np.testing.assert_array_equal(test.labels, labels[TRAIN:])


def test_subset_and_held_out_examples_are_disjoint(npz):
    args = arguments(npz, train_examples=60, validation_examples=40)
    loaded = data.load(args, augment=False)
    assert (loaded.train_examples, loaded.steps_per_epoch, loaded.classes) == (60, 2, 10)
    x = np.concatenate([stacked(loaded.train)[0], stacked(loaded.validation)[0]])
    want = sorted_rows(normalised(images(TRAIN)[0]))
    np.testing.assert_allclose(sorted_rows(x), want, atol=2e-3, rtol=0)
    rest = data.load(arguments(npz, validation_examples=40))
    assert rest.train_examples == 60
    assert data.load(arguments(npz)).validation is None


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_tfds_has_the_same_images_in_its_own_order(name, tmp_path, monkeypatch):
    pytest.importorskip("tensorflow_datasets")
    folder = write_tfds(tmp_path, name, TRAIN, TEST, monkeypatch)
    train, test = data.read(name, folder)
    pixels, labels = images(TRAIN + TEST)
    assert (len(train.labels), len(test.labels)) == (TRAIN, TEST)
    np.testing.assert_array_equal(sorted_rows(test.images), sorted_rows(pixels[TRAIN:]))
    factor = 11 if name == "cifar100" else 1
    assert sorted(test.labels) == sorted(factor * labels[TRAIN:])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"train_examples": TRAIN + 1}, "--train-examples must be at most 100"),
        ({"train_examples": 61, "validation_examples": 40}, "at most 60"),
        ({"validation_examples": TRAIN}, "--validation-examples must leave some of the 100"),
    ],
)
def test_more_images_than_there_are(npz, given, message):
    with pytest.raises(ValueError, match=message) as caught:
        data.load(arguments(npz, **given))
    assert "Received: " in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no file"),
        ({}, "must hold x_train, y_train, x_test and y_test"),
        ({"x_train": np.zeros((2, 32, 32, 3))}, "must hold uint8 images .* Received: float64"),
        ({"y_train": np.zeros(3)}, "and 3 labels"),
        ({"y_train": np.array([0, 10])}, "isn't cifar10: its labels go from 0 to 10"),
    ],
)
def test_files_that_are_no_images(tmp_path, content, message):
    file = tmp_path / "cifar10.npz"
    if content is not None:
        good = {f"x_{s}": np.zeros((2, 32, 32, 3), "uint8") for s in ("train", "test")}
        good |= {f"y_{s}": np.zeros(2) for s in ("train", "test")}
        np.savez(file, **(good | content if content else {}))
    with pytest.raises(data.DataError, match=message) as caught:
        data.read("cifar10", file)
    assert str(file) in str(caught.value)


def test_one_data_set_does_not_pass_for_the_other(npz):
    with pytest.raises(data.DataError, match=r"isn't cifar100: its labels go from 0 to 9$"):
        data.read("cifar100", npz)


def test_a_damaged_file_is_named(npz, tmp_path):
    (tmp_path / "cifar10.npz").write_bytes(npz.read_bytes()[:300])
    with pytest.raises(data.DataError, match=r"cifar10\.npz must hold"):
        data.read("cifar10", tmp_path)


def test_without_tfds_keras_downloads(monkeypatch):
    monkeypatch.setattr(data.importlib.util, "find_spec", lambda name: None)
    pixels, labels = images(20)
    arrays = (pixels[:15], labels[:15, None]), (pixels[15:], labels[15:, None])
    monkeypatch.setattr(keras.datasets.cifar10, "load_data", lambda: arrays)
    train, test = data.read("cifar10")
    np.testing.assert_array_equal(train.labels, labels[:15])
    np.testing.assert_array_equal(test.images, pixels[15:])

    def no_network():
        raise OSError("Name or service not known")

    monkeypatch.setattr(keras.datasets.cifar10, "load_data", no_network)
    with pytest.raises(data.DataError, match=r"not known[\s\S]*--data cifar10\.npz"):
        data.read("cifar10")


def test_without_data_and_network_the_error_says_what_to_do(tmp_path, monkeypatch):
    pytest.importorskip("tensorflow_datasets")

    def no_network(*args, **kwargs):
        raise OSError("Name or service not known")

    monkeypatch.setattr("requests.head", no_network)
    with pytest.raises(data.DataError) as caught:
        data.read("cifar10", tmp_path / "nothing")
    message = str(caught.value)
    for part in ("'cifar10'", str(tmp_path / "nothing"), "Name or service not known", "--data"):
        assert part in message


def test_a_download_that_fails_says_what_to_do(tmp_path, monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")

    def broken(self, url):
        raise tfds.download.DownloadError("half an archive")

    monkeypatch.setattr("requests.head", lambda *args, **kwargs: None)
    monkeypatch.setattr(tfds.download.DownloadManager, "download_and_extract", broken)
    with pytest.raises(data.DataError, match="half an archive"):
        data.read("cifar10", tmp_path)
