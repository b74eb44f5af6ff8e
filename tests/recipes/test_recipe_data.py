import numpy as np
import pytest
import tensorflow as tf
from small_cifar import images, recipe, write_tfds

data = recipe("data")

TRAIN, TEST = 100, 30


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        yield write_tfds(tmp_path_factory.mktemp("cifar10"), "cifar10", TRAIN, TEST, patch)


def batches(dataset):
    return [(x.numpy(), y.numpy()) for x, y in dataset]


def stacked(dataset):
    return tuple(np.concatenate(parts) for parts in zip(*batches(dataset), strict=True))


def normalised(pixels, name="cifar10"):
    """The textbook formula, in double precision."""
    statistics = data.STATISTICS[name]
    return (pixels / 255 - np.array(statistics.mean)) / np.array(statistics.deviation)


def sorted_rows(array):
    flat = np.round(np.asarray(array, "float64").reshape(len(array), -1), 3)
    return flat[np.lexsort(flat.T)]


def test_shapes_types_and_sizes(data_dir):
    loaded = data.load("cifar10", 32, data_dir)
    assert (loaded.classes, loaded.input_shape) == (10, (32, 32, 3))
    assert (loaded.train_examples, loaded.steps_per_epoch) == (TRAIN, 4)
    assert loaded.validation is None
    for dataset, sizes in ((loaded.train, [32, 32, 32, 4]), (loaded.test, [30])):
        assert len(dataset) == len(sizes)
        assert dataset.element_spec == (
            tf.TensorSpec((None, 32, 32, 3), tf.float32),
            tf.TensorSpec((None,), tf.int64),
        )
        assert [x.shape for x, _ in dataset] == [(n, 32, 32, 3) for n in sizes]


def test_test_split_is_the_stored_images_normalised(data_dir):
    x, y = stacked(data.load("cifar10", 7, data_dir).test)
    pixels, labels = images(TRAIN + TEST)
    np.testing.assert_allclose(
        sorted_rows(x), sorted_rows(normalised(pixels[TRAIN:])), atol=2e-3, rtol=0
    )
    assert sorted(y) == sorted(labels[TRAIN:])
    again, _ = stacked(data.load("cifar10", 30, data_dir, seed=9).test)
    np.testing.assert_array_equal(x, again)  # in order


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_statistics_normalise(name):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    got = data.normaliser(data.STATISTICS[name])(pixels)
    np.testing.assert_allclose(got, normalised(pixels, name), rtol=1e-5, atol=1e-5)


def test_published_statistics_of_cifar10():
    statistics = data.STATISTICS["cifar10"]
    assert statistics.mean == (0.49140, 0.48216, 0.44653)
    assert statistics.deviation == (0.24703, 0.24349, 0.26159)


def slow_crop(image, top, left, flip):
    """One image, pixel by pixel."""
    out = np.zeros_like(image)
    height, width, _ = image.shape
    for row in range(height):
        for column in range(width):
            source = row + top - data.PAD, (width - 1 - column if flip else column)
            source = source[0], source[1] + left - data.PAD
            if 0 <= source[0] < height and 0 <= source[1] < width:
                out[row, column] = image[source]
    return out


def test_crop_and_flip_match_a_slow_reference():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (18, 8, 6, 3), np.uint8)
    top, left = rng.permuted(np.tile(np.arange(9), (2, 2)), axis=1).astype("int32")
    flips = np.arange(18) % 2 == 0
    padded = np.pad(pixels, ((0, 0), (4, 4), (4, 4), (0, 0)))
    got = data.crop_and_flip(padded, top, left, flips, (8, 6))
    want = [slow_crop(*case) for case in zip(pixels, top, left, flips, strict=True)]
    np.testing.assert_array_equal(got, want)


def test_draws_cover_every_crop_evenly():
    top, left, flips = (d.numpy() for d in data.draw_crops(9_000, 3))
    for corner in (top, left):
        assert np.bincount(corner, minlength=9).min() > 850
        assert set(corner) == set(range(9))
    assert 0.45 < flips.mean() < 0.55
    assert abs(np.corrcoef([top, left, flips])[np.triu_indices(3, 1)]).max() < 0.05


def test_training_images_are_crops_of_the_stored_ones(data_dir):
    x, y = stacked(data.load("cifar10", 32, data_dir).train)
    pixels, labels = images(TRAIN)
    padded = np.pad(pixels, ((0, 0), (4, 4), (4, 4), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (32, 32), axis=(1, 2))
    windows = np.moveaxis(windows, 3, -1)[:, :, :, :, :, :]  # image, top, left, row, column, c
    for image, label in list(zip(x, y, strict=True))[:20]:
        crops = normalised(windows[labels == label])
        distances = [
            abs(crops - side).max(axis=(-3, -2, -1)).min() for side in (image, image[:, ::-1])
        ]
        assert min(distances) < 1e-4


def test_every_example_comes_once_an_epoch_in_a_new_order(data_dir):
    train = data.load("cifar10", 32, data_dir, augment=False).train
    first, second = stacked(train), stacked(train)
    want = sorted_rows(normalised(images(TRAIN)[0]))
    for x, _ in (first, second):
        np.testing.assert_allclose(sorted_rows(x), want, atol=2e-3, rtol=0)
    assert not np.array_equal(first[1], second[1])


def test_crops_differ_between_epochs_and_batches(data_dir):
    train = data.load("cifar10", TRAIN, data_dir).train
    assert not np.array_equal(sorted_rows(stacked(train)[0]), sorted_rows(stacked(train)[0]))
    draws = [data.draw_crops(50, draw)[0].numpy() for draw in (0, 1)]
    assert not np.array_equal(*draws)


def test_the_same_seed_gives_the_same_epochs(data_dir):
    one, same, other = (data.load("cifar10", 32, data_dir, seed=s).train for s in (3, 3, 4))
    for _ in range(2):
        first, second, third = batches(one), batches(same), batches(other)
        for (x1, y1), (x2, y2) in zip(first, second, strict=True):
            np.testing.assert_array_equal(x1, x2)
            np.testing.assert_array_equal(y1, y2)
        assert not np.array_equal(first[0][0], third[0][0])


def test_subset_and_held_out_examples_are_disjoint(data_dir):
    loaded = data.load(
        "cifar10", 32, data_dir, train_examples=60, validation_examples=40, augment=False
    )
    assert (loaded.train_examples, loaded.steps_per_epoch) == (60, 2)
    x = np.concatenate([stacked(loaded.train)[0], stacked(loaded.validation)[0]])
    np.testing.assert_allclose(
        sorted_rows(x), sorted_rows(normalised(images(TRAIN)[0])), atol=2e-3, rtol=0
    )
    rest = data.load("cifar10", 32, data_dir, validation_examples=40)
    assert rest.train_examples == 60


def test_cifar100_takes_the_same_path(tmp_path, monkeypatch):
    folder = write_tfds(tmp_path, "cifar100", 40, 20, monkeypatch)
    loaded = data.load("cifar100", 16, folder)
    assert loaded.classes == 100
    x, y = stacked(loaded.test)
    pixels, labels = images(60)
    assert sorted(y) == sorted(10 * labels[40:])
    np.testing.assert_allclose(
        sorted_rows(x), sorted_rows(normalised(pixels[40:], "cifar100")), atol=2e-3, rtol=0
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "mnist"}, "`name` must be one of"),
        ({"batch_size": 0}, "`batch_size` must be an integer of at least 1"),
        ({"seed": -1}, "`seed` must be an integer of at least 0"),
        ({"train_examples": 0}, "`train_examples` must be an integer of at least 1"),
        ({"train_examples": 2.5}, "`train_examples` must be an integer"),
        ({"train_examples": TRAIN + 1}, "`train_examples` must be at most 100"),
        ({"train_examples": 61, "validation_examples": 40}, "at most 60"),
        ({"validation_examples": TRAIN}, "`validation_examples` must leave some of the 100"),
        ({"validation_examples": -1}, "`validation_examples` must be an integer of at least 0"),
    ],
)
def test_bad_arguments(data_dir, arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        data.load(**{"name": "cifar10", "data_dir": data_dir, **arguments})
    assert "Received: " in str(caught.value)


def test_without_data_and_network_the_error_says_what_to_do(tmp_path, monkeypatch):
    def no_network(*args, **kwargs):
        raise OSError("Name or service not known")

    monkeypatch.setattr("requests.head", no_network)
    with pytest.raises(data.DataError) as caught:
        data.load("cifar10", data_dir=tmp_path / "nothing")
    message = str(caught.value)
    for part in ("'cifar10'", str(tmp_path / "nothing"), "Name or service not known", "--data-dir"):
        assert part in message


def test_a_download_that_fails_says_what_to_do(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    def broken(self, url):
        raise tfds.download.DownloadError("half an archive")

    monkeypatch.setattr("requests.head", lambda *args, **kwargs: None)
    monkeypatch.setattr(tfds.download.DownloadManager, "download_and_extract", broken)
    with pytest.raises(data.DataError, match="half an archive"):
        data.load("cifar10", data_dir=tmp_path)
