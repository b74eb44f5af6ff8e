"""Budgets are exact to the neuron."""

import math

import keras
import pytest
from hypothesis import given
from hypothesis import strategies as st
from networks import NETWORKS, plain_cnn

from keras_grow import models
from keras_grow.channels.budget import apportion, count_parameters, plan_budget
from keras_grow.channels.graph import find_groups

weights = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 500), min_size=1)


@given(weights, st.integers(0, 2000))
def test_shares_sum_to_the_total_and_are_within_one_of_proportion(weights, total):
    shares = apportion(total, weights, dict.fromkeys(weights, float("inf")))
    assert sum(shares.values()) == total
    for name, weight in weights.items():
        assert abs(shares[name] - total * weight / sum(weights.values())) < 1


@given(weights, st.data())
def test_ceilings_hold_and_the_total_is_still_met(weights, data):
    room = {name: data.draw(st.integers(0, 30)) for name in weights}
    total = data.draw(st.integers(0, sum(room.values())))
    shares = apportion(total, weights, room)
    assert sum(shares.values()) == total
    assert all(0 <= shares[name] <= room[name] for name in weights)


def test_four_growths_of_the_papers_network():
    model = models.VGG16(width=16)
    model.compile("sgd", "mse")
    neurons = [model.neurons]
    for _ in range(4):
        model.grow(0.35, "random")
        neurons.append(model.neurons)
    assert neurons == [208, 280, 378, 510, 688]
    assert 300_000 <= model.growth_history[-1].parameters_after <= 345_000


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_are_counted_as_keras_counts_them(name):
    model = NETWORKS[name]()
    model.compile("sgd", "mse")
    graph = find_groups(model)
    event = model.grow(0.6, "random")
    trainable = sum(math.prod(v.shape) for v in model.trainable_variables)
    assert event.parameters_after == trainable == count_parameters(graph, model.widths)


@given(st.integers(80, 900))
def test_max_params_is_never_passed_and_nothing_is_left_over(ceiling):
    graph = find_groups(GROWN)
    widths = {name: group.width for name, group in graph.growable.items()}
    budget = plan_budget(graph, 2.0, max_params=ceiling)
    added = budget.spread()
    after = {name: widths[name] + added[name] for name in widths}
    total = sum(added.values())
    if total:
        assert count_parameters(graph, after) <= ceiling
    if total < budget.neurons:
        one_more = apportion(total + 1, widths, budget.room)
        larger = {name: widths[name] + one_more[name] for name in widths}
        assert count_parameters(graph, larger) > ceiling


GROWN = plain_cnn()


def test_max_widths_holds_for_all_groups_or_for_the_named_ones():
    model = plain_cnn()
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.grow(1.0, "random", max_widths={"a": 5})
    assert model.widths["a"] == 5 and sum(model.widths.values()) == 30
    model.grow(1.0, "random", max_widths=14)
    assert max(model.widths.values()) == 14


def test_nothing_to_add_changes_nothing():
    model = plain_cnn()
    model.compile("sgd", "mse")
    assert model.grow(0.01, "random") is None
    assert model.grow(0.5, "random", max_params=1) is None
    assert model.growth_history == []
