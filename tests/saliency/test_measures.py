"""The numbers beside a saliency map, against cases worked out by hand."""

import numpy as np
import pytest

from keras_grow import saliency


def test_estimate():
    # Deviations -2, 0, 2: variance 8 / 2 = 4, standard error 2 / sqrt(3).
    assert saliency.estimate([1, 3, 5]) == pytest.approx((3, 2 / np.sqrt(3)))
    mean, error = saliency.estimate([7])
    assert mean == 7
    assert np.isnan(error)


def test_coverage_counts_pixels_at_or_above_the_threshold():
    maps = np.array([[[1.0, 0.5], [0.49, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    np.testing.assert_array_equal(saliency.coverage(maps), [0.5, 0])
    np.testing.assert_array_equal(saliency.coverage(maps, 0.4), [0.75, 0])
    np.testing.assert_array_equal(saliency.coverage(maps, 1.0), [0.25, 0])


@pytest.mark.parametrize("threshold", [0, -0.1, 1.1, float("nan")])
def test_bad_threshold(threshold):
    with pytest.raises(ValueError, match=r"above 0 and at most 1\. Received: threshold="):
        saliency.coverage(np.zeros((1, 2, 2)), threshold)


def test_ranks_fall_with_the_map():
    maps = np.random.default_rng(0).permutation(24).reshape(2, 3, 4)
    rank = saliency.ranks(maps)
    for of_map, of_rank in zip(maps, rank, strict=True):
        by_hand = [(of_map > value).sum() for value in of_map.ravel()]
        np.testing.assert_array_equal(of_rank.ravel(), by_hand)


def test_ties_are_ranked_in_a_drawn_order_that_is_the_same_for_every_map():
    maps = np.zeros((2, 4, 5))
    maps[:, 1, 2] = 1.0
    rank = saliency.ranks(maps)
    assert rank[0, 1, 2] == 0
    assert sorted(rank[0].ravel()) == list(range(20))
    np.testing.assert_array_equal(rank[0], rank[1])
    np.testing.assert_array_equal(rank, saliency.ranks(maps))
    in_rows = np.argsort(np.r_[1:8, 0, 8:20])
    assert not np.array_equal(rank[0].ravel(), in_rows)
    assert not np.array_equal(rank, saliency.ranks(maps, seed=1))


def test_replaced_takes_the_first_pixels_by_rank_in_all_channels():
    start, finish = np.zeros((1, 2, 2, 3)), np.arange(1.0, 13).reshape(1, 2, 2, 3)
    rank = np.array([[[3, 0], [1, 2]]])
    got = saliency.replaced(start, finish, rank, 2)
    np.testing.assert_array_equal(got[0, 0, 0], [0, 0, 0])
    np.testing.assert_array_equal(got[0, 0, 1], [4, 5, 6])
    np.testing.assert_array_equal(got[0, 1, 0], [7, 8, 9])
    np.testing.assert_array_equal(got[0, 1, 1], [0, 0, 0])


def first_pixel_decides(images):
    """A model that sees the upper left pixel and nothing else, as the probability of class 1."""
    seen = images[:, 0, 0, 0]
    return np.stack([1 - seen, seen], axis=1)


def case(best):
    """Two images of ones, whose maps put the decisive pixel first or last of four."""
    right, wrong = [[4, 3], [2, 1]], [[1, 4], [3, 2]]
    maps = np.array([right, wrong] if best else [wrong, right], dtype=float)
    return np.ones((2, 2, 2, 1)), np.zeros((2, 2, 2, 1)), maps


def test_deletion_is_early_where_the_map_is_right():
    images, blank, maps = case(best=True)
    curve = saliency.probability_curve(first_pixel_decides, images, blank, maps, [1, 1], 4)
    np.testing.assert_array_equal(curve, [[1, 0, 0, 0, 0], [1, 1, 1, 1, 0]])
    np.testing.assert_allclose(saliency.area(curve), [0.125, 0.875])


def test_insertion_is_the_way_back():
    images, blank, maps = case(best=True)
    curve = saliency.probability_curve(first_pixel_decides, blank, images, maps, [1, 0], 4)
    np.testing.assert_array_equal(curve, [[0, 1, 1, 1, 1], [1, 1, 1, 1, 0]])


def test_steps_that_do_not_divide_the_pixels():
    images, blank, maps = case(best=False)
    seen = []

    def probabilities(batch):
        seen.append(int(batch[0].sum()))
        return first_pixel_decides(batch)

    saliency.probability_curve(probabilities, blank, images, maps, [1, 1], 3)
    assert seen == [0, 1, 3, 4]  # of 4 pixels: 0, 1.33, 2.67 and 4, rounded


def test_area_of_a_line_is_its_middle():
    np.testing.assert_allclose(saliency.area([[0, 0.5, 1], [1, 1, 1]]), [0.5, 1])


def test_blur_keeps_the_mean_and_spreads_a_point():
    images = np.zeros((1, 21, 21, 2))
    images[0, 10, 10] = [1.0, 2.0]
    got = saliency.blurred(images, sigma=2.0)
    np.testing.assert_allclose(got.sum((0, 1, 2)), [1, 2], rtol=1e-3)
    # Of a normal density in the plane: 1 / (2 pi sigma^2) at its middle.
    assert got[0, 10, 10, 0] == pytest.approx(1 / (2 * np.pi * 4), rel=0.01)
    variance = (got[0, :, :, 0].sum(0) * (np.arange(21) - 10) ** 2).sum()
    assert variance == pytest.approx(4, rel=0.02)
