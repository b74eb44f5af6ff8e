"""Steps of candidates within their balls, on arrays of two channels' weights each."""

import numpy as np
import pytest

from keras_grow.core.index_maps import AxisChannels, Segment
from keras_grow.methods.firefly.frank_wolfe import CandidateBalls

# Channel 0 has rows 0 and 2 of the first array (as behind a Flatten), channel 1 the others.
AXES = {
    "flat": AxisChannels(-2, (Segment("a", 2), Segment(None, 3), Segment("a", 2)), "input"),
    "plain": AxisChannels(-1, (Segment("a", 2),), "output"),
}
RADII = np.array([0.5, 2.0])


def arrays(seed):
    rng = np.random.default_rng(seed)
    return {
        "flat": rng.normal(size=(4, 3)).astype("float32"),
        "plain": rng.normal(size=(5, 2)).astype("float32"),
    }


def weights_of(arrays, channel):
    return np.r_[arrays["flat"][channel::2].ravel(), arrays["plain"][:, channel]]


def test_each_candidate_is_scaled_to_its_radius_over_all_arrays():
    before = arrays(0)
    after = CandidateBalls("a", AXES, RADII).on_surface(before)
    for channel, radius in enumerate(RADII):
        old = weights_of(before, channel)
        expected = old * radius / np.linalg.norm(old)
        np.testing.assert_allclose(weights_of(after, channel), expected, rtol=1e-5)


def test_products_are_by_candidate():
    first, second = arrays(0), arrays(1)
    expected = [weights_of(first, c) @ weights_of(second, c) for c in (0, 1)]
    found = CandidateBalls("a", AXES, RADII).products(first, second)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_steps_reach_the_minimum_of_a_linear_function_and_stay_within():
    balls, gradients = CandidateBalls("a", AXES, RADII), arrays(1)
    now = balls.on_surface(arrays(0))
    for step in range(200):
        now = balls.step(now, gradients, 2 / (step + 3))
        norms = [np.linalg.norm(weights_of(now, c)) for c in (0, 1)]
        assert np.all(norms <= RADII * 1.0001)
    for channel, radius in enumerate(RADII):
        gradient = weights_of(gradients, channel)
        lowest = -radius * np.linalg.norm(gradient)
        assert weights_of(now, channel) @ gradient == pytest.approx(lowest, rel=1e-3)


def test_nothing_has_no_direction():
    nothing = {path: np.zeros_like(array) for path, array in arrays(0).items()}
    after = CandidateBalls("a", AXES, RADII).on_surface(nothing)
    assert not any(np.any(array) for array in after.values())
