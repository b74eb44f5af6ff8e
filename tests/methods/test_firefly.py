"""Firefly: what is committed is what was scored, within the step, and it helps."""

import keras
import numpy as np
import pytest
from networks import NETWORKS, batch, build, mlp, randomise, relative_change

from keras_grow import GrowableModel
from keras_grow.channels.budget import plan_budget
from keras_grow.channels.graph import find_groups
from keras_grow.growing.resizing import widen_model
from keras_grow.layers import GrowableDense
from keras_grow.methods import Firefly, Splitting
from keras_grow.methods.firefly.candidates import CandidateNetwork
from keras_grow.methods.scoring_data import DrawnData

QUICK = {"train_batches": 3, "score_batches": 2, "seed": 1}


def problem(name, examples=32):
    model = randomise(NETWORKS[name]())
    model.compile(keras.optimizers.SGD(0.01), "mse")
    x = batch(model, examples)
    y = np.random.default_rng(2).normal(size=(examples, model.output_shape[-1]))
    return model, x, y.astype("float32")


def twin_of(model):
    twin = GrowableModel.from_config(model.get_config())
    twin.set_weights(model.get_weights())
    twin.compile(keras.optimizers.SGD(0.01), "mse")
    return twin


def candidates_of(model, data, pool=2):
    """The network with all candidates on, with steps that are not small."""
    graph = find_groups(model)
    pools = dict.fromkeys(graph.growable, pool)
    network = CandidateNetwork(graph, pools, np.random.default_rng(0))
    network.measure_statistics(data)
    return network


@pytest.mark.parametrize("name", ["plain", "depthwise", "dense"])
def test_what_is_committed_is_what_was_scored(name):
    """With every candidate taken, the grown model is the candidate network."""
    model, x, y = problem(name)
    network = candidates_of(model, (x, y, None))
    for kinds in network.trained.values():
        for path, direction in kinds["directions"].items():
            kinds["directions"][path] = 0.1 * direction
    expected = keras.ops.convert_to_numpy(network.outputs(x))
    everything = {group: (range(g.width), range(2)) for group, g in network.groups.items()}
    widenings = network.select(everything, dict.fromkeys(everything, 0))
    widen_model(model, find_groups(model), widenings)
    np.testing.assert_allclose(model(x, training=False), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.quick(1)
def test_the_step_is_bounded_and_vanishes_with_epsilon(name):
    model, x, y = problem(name)
    before = model(x, training=False).numpy()
    changes = []
    for epsilon in (1e-2, 1e-3, 1e-4):
        twin = twin_of(model)
        twin.grow(0.5, Firefly(epsilon=epsilon, split=epsilon, **QUICK), data=(x, y))
        changes.append(relative_change(before, twin(x, training=False).numpy()))
    assert changes[2] < 0.2 * changes[1] < 0.06 * changes[0] + 1e-6
    assert changes[2] < 100 * 1e-4


@pytest.mark.quick(1)
@pytest.mark.parametrize("name", ["mlp", "plain", "residual"])
def test_the_loss_falls_by_the_step(name):
    model, x, y = problem(name)
    before = model.evaluate(x, y, verbose=0)
    event = model.grow(0.5, Firefly(epsilon=1e-2, **QUICK), data=(x, y))
    assert model.evaluate(x, y, verbose=0) < before
    assert event.unhelpful == 0


@pytest.mark.parametrize("kind", ["directions", "incoming", "outgoing"])
@pytest.mark.quick(1)
def test_gradients_are_the_derivatives_of_switching_candidates_on(kind):
    """Against a finite difference of the loss of the candidate network.

    Group b feeds a Flatten: a fresh neuron's outgoing weights lie at several positions.
    """
    model, x, y = problem("plain")
    data = (x, y, None)
    network = candidates_of(model, data)
    ((path, weights),) = network.trained["b"][kind].items()
    candidate = np.zeros_like(weights)
    if kind == "outgoing":
        candidate[::2] = weights[::2]
    else:
        candidate[..., 1] = weights[..., 1]
    gradient = network.gradients(data)["b"][kind][path]
    h, losses = 1e-2, []
    for factor in (h, -h):
        network.trained["b"][kind][path] = weights + np.float32(factor) * candidate
        losses.append(network.loss(data))
    difference = (losses[0] - losses[1]) / (2 * h)
    assert np.sum(gradient * candidate) == pytest.approx(difference, rel=0.05, abs=1e-3)


def test_the_loss_falls_as_the_gradient_at_the_committed_step_says():
    """The derivative of the loss by the step of the splits and fresh neurons that are committed."""
    model, x, y = problem("residual")
    before = model.evaluate(x, y, verbose=0)
    falls = []
    for step in (2e-3, 4e-3):
        twin = twin_of(model)
        twin.grow(0.5, Firefly(epsilon=step, split=1e-6, **QUICK), data=(x, y))
        falls.append(before - twin.evaluate(x, y, verbose=0))
    assert 0 < falls[0] < falls[1] == pytest.approx(2 * falls[0], rel=0.2)


def test_budgets_pools_and_ceilings_are_kept():
    model, x, y = problem("plain")
    event = model.grow(0.5, Firefly(**QUICK), data=(x, y))
    assert event.neurons_after == 15 + 7
    model, x, y = problem("plain")
    event = model.grow(0.6, Firefly(pools=[["a"], ["b", "c"]], **QUICK), data=(x, y))
    assert event.widths_after["a"] - 4 == 2 and event.neurons_after == 15 + 9
    model, x, y = problem("plain")
    event = model.grow(0.6, Firefly(**QUICK), data=(x, y), max_widths={"c": 7}, max_params=800)
    assert event.widths_after["c"] <= 7 and event.parameters_after <= 800


def test_what_does_not_help_is_counted():
    """At a minimum of the loss not all of them help, and the budget is filled all the same."""
    model = mlp()
    model.compile(keras.optimizers.SGD(0.01), "mse")
    x = batch(model, 32)
    y = model.predict(x, verbose=0)
    event = model.grow(1.5, Firefly(**QUICK), data=(x, y))
    assert event.neurons_after == 7 + 10
    assert event.unhelpful > 0 and f"({event.unhelpful} without a helping score)" in str(event)


def test_nan_is_not_grown_on():
    model, x, y = problem("plain")
    weights = model.get_weights()
    with pytest.raises(ValueError, match="scores of the candidates are not finite"):
        model.grow(0.5, Firefly(**QUICK), data=(x * np.nan, y))
    for a, b in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_same_seed_chooses_the_same():
    model, x, y = problem("depthwise")
    a, b = twin_of(model), twin_of(model)
    a.grow(0.5, Firefly(**QUICK), data=(x, y))
    np.random.seed(9)
    keras.utils.set_random_seed(9)
    b.grow(0.5, Firefly(**QUICK), data=(x, y))
    for one, other in zip(a.get_weights(), b.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.long
@pytest.mark.parametrize("method", [Firefly, Splitting])
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_chooses_as_float32_does(policy, method):
    def grown(policy):
        keras.utils.set_random_seed(3)
        keras.config.set_dtype_policy(policy)
        try:
            model, x, y = problem("depthwise")
        finally:
            keras.config.set_dtype_policy("float32")
        return model.grow(0.5, method(seed=1), data=(x, y)).widths_after

    assert grown(policy) == grown("float32")


def test_operations_and_branches_are_scored_too():
    steps = [("conv", 0, 1), ("multiply", 0, 0), ("concat", 1, 0), ("depthwise", 3, 1)]
    model = randomise(build((steps, "flatten")))
    model.compile(keras.optimizers.SGD(0.01), "mse")
    x = batch(model, 32)
    before = model.evaluate(x, np.ones((32, 2)), verbose=0)
    model.grow(0.5, Firefly(epsilon=1e-2, **QUICK), data=(x, np.ones((32, 2))))
    assert model.evaluate(x, np.ones((32, 2)), verbose=0) < before


def student(seed, hidden=3):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8,))
    x = GrowableDense(hidden, activation="relu", name="one")(inputs)
    x = GrowableDense(hidden, activation="relu", name="two")(x)
    model = GrowableModel(inputs, keras.layers.Dense(1, name="head")(x))
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "mse")
    return model


@pytest.mark.long
def test_it_beats_random_on_a_teacher_and_its_student():
    """Over five seeds, right after the growth and after the same few epochs."""
    losses = {"random": [], "firefly": []}
    for seed in range(5):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(256, 8)).astype("float32")
        y = np.maximum(x @ rng.normal(size=(8, 12)), 0) @ rng.normal(size=(12, 1)) / 4
        start = student(seed)
        start.fit(x, y, batch_size=32, epochs=15, verbose=0)
        firefly = Firefly(epsilon=0.3, pool=2, seed=seed)
        for name, method in (("random", "random"), ("firefly", firefly)):
            model = student(seed)
            model.set_weights(start.get_weights())
            model.grow(1.0, method, data=DrawnData(x, y, batch_size=64))
            after = model.evaluate(x, y, verbose=0)
            model.fit(x, y, batch_size=32, epochs=3, verbose=0, shuffle=False)
            losses[name].append((after, model.evaluate(x, y, verbose=0)))
    firefly, random = np.mean(losses["firefly"], axis=0), np.mean(losses["random"], axis=0)
    assert firefly[0] < random[0] and firefly[1] < random[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epsilon": 0}, "`epsilon` must be a positive number"),
        ({"epsilon": float("nan")}, "`epsilon` must be a positive number"),
        ({"split": 0}, "`split` must be a positive number"),
        ({"pool": -1}, "`pool` must be a positive number"),
        ({"train_batches": 0}, "`train_batches` must be a positive integer"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Firefly(**arguments)


def test_it_needs_data():
    model, _, _ = problem("mlp")
    with pytest.raises(ValueError, match="'firefly' needs training data"):
        model.grow(0.5, "firefly")
    assert plan_budget(find_groups(model), 0.5).neurons == 3
