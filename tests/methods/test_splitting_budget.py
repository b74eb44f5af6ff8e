"""Which neurons are split: the best, as many as the budget has, and what they become."""

import numpy as np
import pytest
from networks import plain_cnn, randomise
from problems import compiled, generator, problem

from keras_grow.channels.budget import Budget
from keras_grow.core.index_maps import AxisChannels, Segment
from keras_grow.methods.splitting.method import Splits, Splitting, allot, commit


def budget_of(neurons, widths, room=None, affordable=lambda widths: True):
    return Budget(neurons, widths, room or dict.fromkeys(widths, np.inf), affordable)


VALUES = {"a": np.array([-3.0, 1.0, -1.0]), "b": np.array([-2.0, 0.0]), "c": np.full(2, np.inf)}
WIDTHS = {"a": 3, "b": 2, "c": 2}


@pytest.mark.parametrize(
    ("neurons", "a", "b", "c"),
    [
        (1, [1, 0, 0], [0, 0], 0),
        (3, [1, 0, 1], [1, 0], 0),
        (4, [1, 0, 1], [1, 1], 0),
        (5, [1, 1, 1], [1, 1], 0),
        (6, [1, 1, 1], [1, 1], 1),
        (9, [2, 1, 1], [2, 1], 2),
    ],
)
def test_the_most_negative_over_all_groups_are_taken(neurons, a, b, c):
    added = allot(VALUES, budget_of(neurons, WIDTHS), generator())
    assert (added["a"].tolist(), added["b"].tolist(), added["c"].sum()) == (a, b, c)


def test_ceilings_are_honoured():
    room = {"a": 1, "b": np.inf, "c": 0}
    added = allot(VALUES, budget_of(3, WIDTHS, room), generator())
    assert (added["a"].tolist(), added["b"].tolist()) == ([1, 0, 0], [1, 1])
    few = budget_of(9, WIDTHS, affordable=lambda widths: sum(widths.values()) <= 9)
    assert sum(v.sum() for v in allot(VALUES, few, generator()).values()) == 2


@pytest.mark.long
def test_a_model_with_ceilings_grows_up_to_them():
    model = compiled(randomise(plain_cnn()))
    model.grow(1.0, Splitting(seed=1), data=problem(model), max_widths={"a": 5, "b": 5, "c": 99})
    assert model.widths == {"a": 5, "b": 5, "c": 20}
    parameters = model.count_params() + 100
    model.grow(1.0, Splitting(seed=1), data=problem(model), max_params=parameters)
    assert parameters - 30 < sum(np.prod(v.shape) for v in model.trainable_variables) <= parameters


def test_commit_moves_the_copies_apart_and_counts():
    axis = AxisChannels(-1, (Segment("a", 3),), "output")
    splits = Splits(np.array([-1.0, 0.5, -2.0]), {"k": np.eye(2, 3)}, {"k": axis})
    widening = commit("a", splits, np.array([1, 1, 0]), step=0.1)
    assert widening.sources.tolist() == [0, 1, 2, 0, 1]
    np.testing.assert_allclose(widening.outgoing_scale, [0.5, 0.5, 1, 0.5, 0.5])
    expected = np.float32([[0.1, 0, 0, -0.1, 0], [0, 0.1, 0, 0, -0.1]])
    np.testing.assert_allclose(widening.incoming["k"], expected, atol=1e-7)
    assert widening.unhelpful == 1
    thrice = commit("a", splits, np.array([2, 0, 0]), step=0.1)
    np.testing.assert_allclose(thrice.incoming["k"][0], [0.1, 0, 0, 0, -0.1], atol=1e-7)
    np.testing.assert_allclose(thrice.outgoing_scale, [1 / 3, 1, 1, 1 / 3, 1 / 3])
    assert thrice.unhelpful == 1
