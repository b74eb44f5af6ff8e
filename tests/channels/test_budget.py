"""Budgets are exact to the neuron."""

import math

import keras
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import NETWORKS, plain_cnn
from problems import problem

from keras_grow import GrowableModel, GrowthCallback, GrowthMethod, Widening, methods, models
from keras_grow.channels.budget import COSTS, apportion, count_parameters, plan_budget
from keras_grow.channels.flops import flops_at
from keras_grow.channels.graph import find_groups
from keras_grow.flops import forward_flops

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
    assert model.grow(0.001, "random", of="parameters") is None
    assert model.grow(0.05, "random", multiple_of=64) is None
    assert model.growth_history == []


def transformer(heads=2, dimension=4, stream=6, hidden=12):
    """A block without normalisation, of which everything grows."""
    inputs = keras.Input((5, 3))
    x = keras.layers.Dense(stream, name="stream")(inputs)
    y = keras.layers.MultiHeadAttention(heads, dimension, name="att")(x, x)
    x = keras.layers.Add()([x, y])
    h = keras.layers.Dense(hidden, "gelu", name="hidden")(x)
    x = keras.layers.Add()([x, keras.layers.Dense(stream, name="back")(h)])
    return GrowableModel(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(x)))


def parameters(model):
    return sum(math.prod(v.shape) for v in model.trainable_variables)


COUNTED = {"parameters": parameters, "flops": forward_flops}
WHOLE = {**NETWORKS, "transformer": transformer}


@pytest.mark.parametrize("name", WHOLE)
def test_flops_are_counted_as_those_of_the_grown_model(name):
    model = WHOLE[name]()
    model.compile("sgd", "mse")
    graph = find_groups(model)
    before = forward_flops(model)
    assert flops_at(graph, {}) == flops_at(graph, model.widths) == before
    widths = {name: width + 1 + i for i, (name, width) in enumerate(model.widths.items())}
    counted = flops_at(graph, widths)
    model.grow(3.0, At(widths))
    assert model.widths == widths
    assert counted == forward_flops(model) > before


class At(GrowthMethod):
    """Takes a model to given widths."""

    name = "at"

    def __init__(self, widths):
        super().__init__(seed=1)
        self.to = widths

    def choose(self, graph, budget, rng, data=None):
        ranges = {name: [*range(width)] for name, width in budget.widths.items()}
        return [Widening(n, r + [-1] * (self.to[n] - len(r))) for n, r in ranges.items()]


@pytest.mark.parametrize("of", COUNTED)
@settings(max_examples=8)
@given(rate=st.floats(0.05, 3))
def test_the_cost_grows_by_the_rate_and_never_by_more(of, rate):
    budget = plan_budget(TRANSFORMER, rate, of=of)
    added = budget.spread()
    fresh = {name.removeprefix("att/"): w + added[name] for name, w in budget.widths.items()}
    count, start = COUNTED[of], COUNTED[of](TRANSFORMER.model)
    assert count(transformer(**fresh)) <= (1 + rate) * start
    if sum(added.values()) < budget.neurons:
        one_more = apportion(sum(added.values()) + 1, budget.widths, budget.room)
        larger = {name: width + one_more[name] for name, width in budget.widths.items()}
        assert COSTS[of](TRANSFORMER, larger) > (1 + rate) * start


TRANSFORMER = find_groups(transformer())


@pytest.mark.parametrize("method", ["random", "firefly", "splitting", "net2wider"])
@pytest.mark.parametrize("of", COUNTED)
@pytest.mark.quick(4)
def test_every_method_comes_near_the_rate(method, of):
    model = plain_cnn()
    model.compile("sgd", "mse", run_eagerly=True)
    count = COUNTED[of]
    start = count(model)
    model.grow(0.5, methods.get(method), data=problem(model), of=of)
    assert 1.4 * start < count(model) <= 1.5 * start


def test_max_flops_is_never_passed():
    model = plain_cnn()
    model.compile("sgd", "mse")
    ceiling = int(1.7 * forward_flops(model))
    model.grow(9.0, "random", max_flops=ceiling)
    assert 0.8 * ceiling < forward_flops(model) <= ceiling


@settings(max_examples=15)
@given(st.floats(0.1, 2), st.sampled_from([2, 4, 8]), st.sampled_from(["neurons", "parameters"]))
def test_widths_become_multiples_within_the_budget(rate, multiple, of):
    plain = plan_budget(TRANSFORMER, rate, of=of)
    budget = plan_budget(TRANSFORMER, rate, of=of, multiple_of=multiple)
    added = budget.spread()
    for name, count in added.items():
        assert not count or (budget.widths[name] + count) % multiple == 0 or name == "att/heads"
        assert count <= plain.spread()[name] + multiple
    widths = {name: width + added[name] for name, width in budget.widths.items()}
    assert sum(added.values()) <= budget.neurons and budget.affordable(widths)


@pytest.mark.parametrize("method", ["random", "firefly", "splitting", "gradmax"])
@pytest.mark.quick(2)
def test_every_method_takes_multiples(method):
    model = plain_cnn()
    model.compile("sgd", "mse", run_eagerly=True)
    before = model.widths
    model.grow(1.0, methods.get(method), data=problem(model), multiple_of=4)
    grown = {name: width for name, width in model.widths.items() if width != before[name]}
    assert grown and all(width % 4 == 0 for width in grown.values())
    assert sum(model.widths.values()) <= 2 * sum(before.values())


def test_a_method_is_held_to_the_budget():
    model = plain_cnn()
    model.compile("sgd", "mse")
    wider = {name: width + 1 for name, width in model.widths.items()}
    with pytest.raises(ValueError, match="may not have the widths"):
        model.grow(1.0, At(wider), max_params=10)
    with pytest.raises(ValueError, match="must be a multiple of 8"):
        model.grow(1.0, At(wider), multiple_of=8)
    with pytest.raises(ValueError, match="no group named 'z'"):
        model.grow(1.0, "random", multiple_of={"z": 8})
    with pytest.raises(ValueError, match="`of` must be one of"):
        model.grow(1.0, "random", of="weights")


def test_the_callback_grows_by_parameters():
    model = plain_cnn()
    model.compile("sgd", "mse", run_eagerly=True)
    x, y = problem(model)
    start = parameters(model)
    callback = GrowthCallback(0.5, every=1, method="random", of="parameters", verbose=0)
    model.fit(x, y, epochs=3, callbacks=[callback], verbose=0)
    first, second = (event.parameters_after for event in model.growth_history)
    assert 1.4 * start < first <= 1.5 * start and 1.3 * first < second <= 1.5 * first
