"""Index maps against an axis written out position by position."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from keras_grow.core.index_maps import (
    Segment,
    along,
    channel_numbers,
    fresh_positions,
    gather_index,
    group_positions,
    positions_by_channel,
    run_of,
    scale_vector,
)
from keras_grow.core.widening import Widening

WIDTHS = {"a": 3, "b": 2}
segments_of_a = st.lists(
    st.tuples(st.sampled_from(["a", "b", None]), st.integers(1, 3)), max_size=4
).map(lambda rest: tuple(Segment(g, WIDTHS.get(g, 2), r if g else 1) for g, r in [("a", 2), *rest]))


@st.composite
def widening_of_a(draw):
    sources = draw(st.lists(st.integers(-1, 2), min_size=1, max_size=6))
    return Widening("a", sources, draw(st.permutations(range(len(sources)))))


def positions(segments, widths):
    """Lists (group, segment, channel, number within the channel) of every position."""
    return [
        (s.group, number, channel, i)
        for number, s in enumerate(segments)
        for channel in range(widths.get(s.group, s.width))
        for i in range(s.repeat)
    ]


@given(segments_of_a, widening_of_a())
def test_the_maps_of_a_widened_axis(segments, widening):
    before = positions(segments, {})
    after = positions(segments, {"a": widening.width})
    index = gather_index(segments, {"a": widening})
    scale = scale_vector(segments, {"a": widening})
    assert len(index) == len(scale) == len(after)
    for (group, number, channel, i), source, factor in zip(after, index, scale, strict=True):
        grows = group == "a"
        channel_before = widening.sources[channel] if grows else channel
        expected = before.index((group, number, channel_before, i)) if channel_before >= 0 else -1
        assert source == expected
        assert factor == (widening.outgoing_scale[channel] if grows else 1)


@given(segments_of_a, widening_of_a())
def test_the_run_of_a_group(segments, widening):
    after = positions(segments, {"a": widening.width})
    run = [p for p in after if p[0] == "a"]
    where = group_positions(segments, {"a": widening}, "a")
    assert [after[i] for i in where] == run
    numbers = channel_numbers(segments, "a", widening.width)
    assert numbers.tolist() == [channel for _, _, channel, _ in run]
    by_channel = positions_by_channel(segments, "a", widening.width)
    for channel, row in enumerate(by_channel):
        assert row.tolist() == [i for i, p in enumerate(run) if p[2] == channel]
    fresh = [i for i, p in enumerate(run) if widening.sources[p[2]] < 0]
    assert fresh_positions(segments, widening).tolist() == fresh
    alone = run_of(segments, "a", widening.width)
    assert len(positions(alone, {})) == len(run)


def test_along():
    assert along(np.arange(3), 1, 3).shape == (1, 3, 1)
    assert along(np.arange(3), -1, 2).tolist() == [[0, 1, 2]]
