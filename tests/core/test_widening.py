"""The laws of a widening, on random arrays."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_grow.core.index_maps import MEAN, AxisChannels, Segment
from keras_grow.core.widening import PARAMETER, Exponents, Widening, by_group, widen_array

WIDTHS = {"a": 3, "b": 2}


def identity(group, width):
    return Widening(group, np.arange(width))


def compose(first, second):
    """The widening that does `first`, then `second`; neither adds anything."""
    copied = second.sources >= 0
    sources = np.where(copied, first.sources[second.sources], -1)
    scale = np.where(copied, first.outgoing_scale[second.sources], 1)
    return Widening(first.group, sources, second.outgoing_scale * scale)


@st.composite
def maps(draw):
    """A map of channels of two groups and of fixed positions, repeated and interleaved."""
    names = draw(st.lists(st.sampled_from(["a", "b", None]), min_size=1, max_size=4))
    return tuple(
        Segment(name, WIDTHS.get(name, 2), draw(st.integers(1, 3)) if name else 1) for name in names
    )


@st.composite
def widenings(draw, group, width=None, fresh=True):
    width = width or WIDTHS[group]
    sources = draw(st.lists(st.integers(-1 if fresh else 0, width - 1), min_size=1, max_size=6))
    scale = draw(st.lists(st.sampled_from([0.5, 1.0, 2.0]), min_size=len(sources),
                          max_size=len(sources)))  # fmt: skip
    return Widening(group, np.array(sources), np.array(scale))


def array_of(*segments_per_axis):
    shape = [sum(s.width * s.repeat for s in segments) for segments in segments_per_axis]
    return np.random.default_rng(0).normal(size=shape)


def by_brute_force(array, segments, widening, role, fresh=0.0):
    """Widens the last axis entry by entry, with plain Python."""
    columns, offset = [], 0
    for group, width, repeat in segments:
        block = [array[..., offset + i * repeat : offset + (i + 1) * repeat] for i in range(width)]
        offset += width * repeat
        if group == widening.group:
            scales = widening.outgoing_scale if role == "input" else np.ones(widening.width)
            block = [
                np.full(block[0].shape, fresh) if source < 0 else block[source] * scale
                for source, scale in zip(widening.sources, scales, strict=True)
            ]
        columns += block
    return np.concatenate(columns, axis=-1)


@settings(deadline=None)
@given(maps(), widenings("a"), st.sampled_from(["input", "output", "through"]))
def test_one_axis_is_widened_entry_by_entry(segments, widening, role):
    array = array_of((Segment(None, 2),), segments)
    axis = AxisChannels(-1, segments, role, fresh=1.5)
    expected = by_brute_force(array, segments, widening, role, fresh=1.5)
    np.testing.assert_allclose(widen_array(array, [axis], {"a": widening}), expected)


@given(maps(), maps(), st.sampled_from(["a", "b"]))
def test_the_identity_changes_nothing(rows, columns, group):
    array = array_of(rows, columns)
    axes = [AxisChannels(-2, rows, "input"), AxisChannels(-1, columns, "output")]
    same = widen_array(array, axes, {group: identity(group, WIDTHS[group])})
    np.testing.assert_array_equal(same, array)


@given(maps(), maps(), st.data())
def test_two_widenings_are_their_composition(rows, columns, data):
    first = data.draw(widenings("a"))
    second = data.draw(widenings("a", first.width))
    array = array_of(rows, columns)
    axes = [AxisChannels(-2, rows, "input"), AxisChannels(-1, columns, "output")]

    def wider(segments):
        return tuple(s._replace(width=first.width) if s.group == "a" else s for s in segments)

    later = [AxisChannels(-2, wider(rows), "input"), AxisChannels(-1, wider(columns), "output")]
    twice = widen_array(widen_array(array, axes, {"a": first}), later, {"a": second})
    once = widen_array(array, axes, {"a": compose(first, second)})
    np.testing.assert_allclose(once, twice)


@given(maps(), maps(), widenings("a"), widenings("b"), st.randoms(use_true_random=False))
def test_widenings_of_different_groups_commute(rows, columns, a, b, random):
    array = array_of(rows, columns)
    axes = [AxisChannels(-2, rows, "input"), AxisChannels(-1, columns, "output")]
    draw = np.random.default_rng(random.randrange(100)).normal

    def added(widening, segments, other, axis):
        length = sum(widening.width * s.repeat for s in segments if s.group == widening.group)
        shape = [length, array.shape[1]] if axis == 0 else [array.shape[0], length]
        return {"w": draw(size=shape)} if length else {}

    a = Widening(a.group, a.sources, a.outgoing_scale,
                 added(a, columns, rows, 1), added(a, rows, columns, 0))  # fmt: skip

    def then(array, axes, widening):
        new = widen_array(array, axes, {widening.group: widening}, path="w")
        moved = [
            AxisChannels(
                x.axis,
                tuple(
                    s._replace(width=widening.width) if s.group == widening.group else s
                    for s in x.segments
                ),
                x.role,
            )
            for x in axes
        ]
        return new, moved

    together = widen_array(array, axes, {"a": a, "b": b}, path="w")
    a_first, _ = then(*then(array, axes, a), Widening("b", b.sources, b.outgoing_scale))
    np.testing.assert_allclose(together, a_first, atol=1e-12)
    swapped = widen_array(array, axes, {"b": b, "a": a}, path="w")
    np.testing.assert_allclose(together, swapped, atol=1e-12)


@given(widenings("a"), st.permutations(range(3)))
def test_permuting_before_or_after_gives_the_same_network(widening, order):
    """A consumer times a producer does not see in which order the channels stand."""
    segments = (Segment("a", 3),)
    producer, consumer = array_of((Segment(None, 4),), segments), array_of(segments, segments)
    into, out_of = AxisChannels(-1, segments, "output"), AxisChannels(-2, segments, "input")
    inverse = np.argsort(order)
    sources = np.where(widening.sources < 0, -1, inverse[widening.sources])
    permuted = Widening("a", sources, widening.outgoing_scale)
    result = widen_array(producer, [into], {"a": widening}) @ widen_array(
        consumer, [out_of], {"a": widening}
    )
    again = widen_array(producer[:, order], [into], {"a": permuted}) @ widen_array(
        consumer[order], [out_of], {"a": permuted}
    )
    np.testing.assert_allclose(result, again)


def test_the_power_of_the_scale_follows_the_side():
    segments = (Segment("a", 2),)
    widening = Widening("a", [0, 1, 1], [1, 0.5, 0.5])
    ones = np.ones((2, 2))
    axes = [AxisChannels(-2, segments, "input"), AxisChannels(-1, segments, "output")]
    squared = widen_array(ones, axes, {"a": widening}, Exponents(producing=2, consuming=0))
    np.testing.assert_allclose(squared, np.tile([1, 0.25, 0.25], (3, 1)))
    parameter = widen_array(ones, axes, {"a": widening}, PARAMETER)
    np.testing.assert_allclose(parameter, np.tile([[1], [0.5], [0.5]], (1, 3)))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_the_dtype_stays(dtype):
    axis = AxisChannels(-1, (Segment("a", 2),), "input")
    widening = Widening("a", [0, 1, -1], [0.5, 0.5, 1], outgoing={"w": np.ones(3)})
    widened = widen_array(np.ones(2, dtype), [axis], {"a": widening}, path="w")
    assert widened.dtype == dtype
    np.testing.assert_allclose(widened, [1.5, 1.5, 1])


@pytest.mark.parametrize(
    ("sources", "scale", "message"),
    [
        ([], None, "non-empty vector of integers"),
        ([0.5], None, "non-empty vector of integers"),
        ([[0]], None, "non-empty vector of integers"),
        ([0, 1], [1.0], "one entry per entry"),
    ],
)
def test_bad_widenings_are_refused(sources, scale, message):
    with pytest.raises(ValueError, match=message):
        Widening("a", np.array(sources), scale)


def test_a_group_is_widened_once():
    with pytest.raises(ValueError, match="two widenings of group 'a'"):
        by_group([identity("a", 2), identity("a", 2)])


def test_what_is_added_must_fit():
    axis = AxisChannels(-1, (Segment("a", 2),), "output")
    widening = Widening("a", [0, 1, 1], incoming={"w": np.ones(2)})
    with pytest.raises(ValueError, match="must have 3 entries"):
        widen_array(np.ones(2), [axis], {"a": widening}, path="w")


def test_a_fresh_channel_is_the_mean_of_the_others_in_what_is_added_too():
    """Widening both groups at once, and one after the other, give the same kernel."""
    array = np.arange(6.0).reshape(2, 3)
    added = np.zeros((3, 3))
    added[2] = [1, 2, 6]
    a = Widening("a", [0, 1, -1], outgoing={"w": added})
    s = Widening("s", [0, 1, 2, -1])

    def axes(width):
        return [
            AxisChannels(-2, (Segment("a", width),), "input"),
            AxisChannels(-1, (Segment("s", 3),), "output", MEAN),
        ]

    at_once = widen_array(array, axes(2), by_group([a, s]), path="w")
    one_by_one = widen_array(array, axes(2), by_group([a]), path="w")
    one_by_one = widen_array(one_by_one, axes(3), by_group([s]), path="w")
    np.testing.assert_allclose(at_once, one_by_one)
    np.testing.assert_allclose(at_once[:, 3], at_once[:, :3].mean(1))
