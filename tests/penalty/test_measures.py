"""What a pair of neurons costs: against NumPy in float64 and finite differences."""

import keras
import numpy as np
import pytest
from penalties import (
    AXES,
    SHAPES,
    TYPES,
    assert_finite,
    finite_differences,
    random_kernels,
    reference_measure,
    value_and_gradients,
)

from keras_grow.penalty.similarity import similarity_map
from keras_grow.penalty.similarity_penalty import SimilarityPenalty

MEASURES = ["cosine", "energy", "angle"]
PARTING = ["energy", "angle"]


def only_similarity(measure, per="pair", weight=1.0):
    return SimilarityPenalty(weight, weight_sum=0.0, measure=measure, per=per)


def loss_of(penalty, axes):
    return lambda kernels: penalty(kernels, axes, np.ones(len(axes))).loss


@pytest.mark.parametrize("per", ["pair", "neuron"])
@pytest.mark.parametrize("measure", MEASURES)
def test_value_and_gradient(measure, per):
    kernels = random_kernels(SHAPES)

    def expected_loss(kernels):
        means = [reference_measure(k, a, measure) for k, a in zip(kernels, AXES, strict=True)]
        neurons = np.array([k.shape[a] for k, a in zip(kernels, AXES, strict=True)])
        room = np.maximum(1 - neurons**2 / [k.size for k in kernels], 0)
        return 3 * (np.mean(means) if per == "pair" else np.dot(means, neurons * room))

    loss = loss_of(only_similarity(measure, per, weight=3.0), AXES)
    value, gradients = value_and_gradients(loss, kernels)
    np.testing.assert_allclose(value, expected_loss(kernels), rtol=1e-5)
    for layer, gradient in enumerate(gradients):

        def moved_loss(moved, layer=layer):
            return expected_loss([*kernels[:layer], moved, *kernels[layer + 1 :]])

        expected = finite_differences(moved_loss, kernels[layer])
        # Beside rounding: what parts equal neurons is seen by others too, at 1e-4 of the gradient.
        scale = np.abs(expected).max()
        np.testing.assert_allclose(gradient, expected, atol=1e-5 + 3e-4 * scale)


@pytest.mark.parametrize("measure", PARTING)
@pytest.mark.parametrize("dtype", TYPES)
def test_finite_where_neurons_are_alike_or_nothing(measure, dtype):
    small = np.random.default_rng(0).normal(size=(3, 3, 2, 4))
    with_zero = small.copy()
    with_zero[..., 1] = 0
    kernels = [np.repeat(small, 2, axis=-1), np.ones((5, 3)), np.zeros((4, 3)), with_zero]
    kernels += [np.ones((4, 1)), np.ones((1, 1)), np.ones((1, 3)), small * 1e-6]
    loss = loss_of(only_similarity(measure, "neuron"), [-1] * len(kernels))
    value, gradients = value_and_gradients(loss, kernels, dtype)
    assert_finite(value, *gradients)
    for dead in (gradients[2], gradients[3][..., 1]):
        assert not np.any(keras.ops.convert_to_numpy(keras.ops.cast(dead, "float32")))


def copies_after(penalty, kernel, steps=100, rate=0.05):
    """Descends the penalty, and returns the greatest |cosine| between two neurons."""
    variable = keras.Variable(kernel)
    optimizer = keras.optimizers.SGD(rate)
    loss = loss_of(penalty, [-1])
    for _ in range(steps):
        optimizer.apply(value_and_gradients(loss, [variable])[1], [variable])
    return np.abs(np.triu(similarity_map(variable), 1)).max()


@pytest.mark.quick(1)
@pytest.mark.parametrize(("measure", "rate"), [("energy", 0.05), ("angle", 0.3)])
def test_equal_neurons_part(measure, rate):
    rng = np.random.default_rng(0)
    twice = np.repeat(rng.normal(size=(18, 4)) / 3, 2, axis=-1)
    assert copies_after(only_similarity(measure, "neuron"), twice, rate=rate) < 0.9
    # Which the paper's measure leaves as they are:
    assert copies_after(only_similarity("cosine", "neuron"), twice, rate=rate) > 0.9999


def test_the_nearer_two_neurons_the_harder_they_part():
    """Up to about two degrees; by the angle as hard at any, and by |cosine| less and less."""
    pulls = {measure: [] for measure in MEASURES}
    for degrees in (40, 10, 4):
        angle = np.deg2rad(degrees)
        pair = np.array([[1.0, np.cos(angle)], [0.0, np.sin(angle)]])
        for measure, found in pulls.items():
            loss = loss_of(only_similarity(measure), [-1])
            _, (gradient,) = value_and_gradients(loss, [pair])
            found.append(float(np.linalg.norm(np.asarray(gradient)[:, 0])))
    assert pulls["energy"][0] < pulls["energy"][1] < pulls["energy"][2]
    assert pulls["angle"] == pytest.approx([pulls["angle"][0]] * 3, rel=0.15)
    assert pulls["cosine"][0] > pulls["cosine"][1] > pulls["cosine"][2]


@pytest.mark.parametrize("measure", MEASURES)
def test_per_neuron_a_weight_pulls_as_much_at_any_depth(measure):
    (kernel,) = random_kernels([(6, 5)])
    alone = loss_of(only_similarity(measure, "neuron"), [-1])
    among = loss_of(only_similarity(measure, "neuron"), [-1] * 4)
    others = random_kernels([(6, 5), (3, 3, 2, 8), (9, 4)], seed=1)
    _, (expected,) = value_and_gradients(alone, [kernel])
    _, gradients = value_and_gradients(among, [kernel, *others])
    np.testing.assert_allclose(gradients[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(4, 4), (3, 8)])
def test_per_neuron_a_layer_without_room_is_left_alone(shape):
    kernels = random_kernels([shape, (9, 4)])
    loss = loss_of(only_similarity("angle", "neuron"), [-1, -1])
    value, (full, roomy) = value_and_gradients(loss, kernels)
    alone = loss_of(only_similarity("angle", "neuron"), [-1])(kernels[1:])
    assert float(value) == pytest.approx(float(alone))
    assert not np.any(keras.ops.convert_to_numpy(full))
    assert np.any(keras.ops.convert_to_numpy(roomy))


def test_a_penalty_of_the_last_version_is_the_papers():
    config = {"weight": 0.5, "weight_sum": 0.2, "epochs": 7, "form": "signed", "reference": "step"}
    penalty = SimilarityPenalty.from_config(config)
    assert (penalty.measure, penalty.per) == ("cosine", "pair")
