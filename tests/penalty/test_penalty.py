"""The penalty, Eq. 5: its value, its gradient, and that both stay finite."""

import keras
import numpy as np
import pytest
from penalties import (
    AXES,
    SHAPES,
    TYPES,
    assert_finite,
    finite_differences,
    in_float32,
    random_kernels,
    reference_drift,
    reference_loss,
    reference_similarity,
    value_and_gradients,
)

from keras_grow.penalty.similarity import mean_similarity, weight_drift
from keras_grow.penalty.similarity_penalty import PenaltyTerms, SimilarityPenalty


def random_sums(kernels, seed=1):
    factors = np.random.default_rng(seed).uniform(0.5, 2.0, len(kernels))
    return np.array([k.sum() for k in kernels]) * factors


@pytest.mark.parametrize(
    "penalty",
    [
        SimilarityPenalty(),
        SimilarityPenalty(weight=0.3, weight_sum=0.2, form="signed"),
        SimilarityPenalty(weight=0.0, weight_sum=0.5),
        SimilarityPenalty(weight=2.0, weight_sum=0.0),
    ],
    ids=repr,
)
def test_value_and_gradient_of_the_penalty(penalty):
    kernels = random_kernels(SHAPES)
    sums = random_sums(kernels)
    weights = (penalty.weight, penalty.weight_sum, penalty.form)
    value, gradients = value_and_gradients(lambda k: penalty(k, AXES, sums).loss, kernels)
    np.testing.assert_allclose(value, reference_loss(kernels, AXES, sums, *weights), rtol=1e-5)
    for layer, gradient in enumerate(gradients):

        def loss(moved, layer=layer):
            changed = [*kernels[:layer], moved, *kernels[layer + 1 :]]
            return reference_loss(changed, AXES, sums, *weights)

        expected = finite_differences(loss, kernels[layer])
        np.testing.assert_allclose(gradient, expected, atol=2e-6)


def test_layers_together_are_the_mean_of_layers_one_by_one():
    kernels = random_kernels(SHAPES)
    sums = random_sums(kernels)
    penalty = SimilarityPenalty(weight_sum=0.1)

    def together(tensors):
        return penalty(tensors, AXES, sums).loss

    def one_by_one(tensors):
        each = [penalty([t], [a], [s]).loss for t, a, s in zip(tensors, AXES, sums, strict=True)]
        return sum(each) / len(each)

    value, gradients = value_and_gradients(together, kernels)
    expected, expected_gradients = value_and_gradients(one_by_one, kernels)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(gradient, expected_gradient, atol=1e-7)


def test_terms_are_means_over_the_layers_and_sums_are_in_their_order():
    kernels = random_kernels(SHAPES)
    sums = random_sums(kernels)
    terms = SimilarityPenalty(weight=0.0, weight_sum=0.0)(kernels, AXES, sums)
    assert isinstance(terms, PenaltyTerms)
    assert float(terms.loss) == 0.0
    similarity = [reference_similarity(k, a) for k, a in zip(kernels, AXES, strict=True)]
    np.testing.assert_allclose(terms.similarity, np.mean(similarity), rtol=1e-5)
    drift = [reference_drift(k, s, "absolute") for k, s in zip(kernels, sums, strict=True)]
    np.testing.assert_allclose(terms.drift, np.mean(drift), rtol=1e-5)
    np.testing.assert_allclose(terms.sums, [k.sum() for k in kernels], rtol=1e-5)
    assert keras.backend.standardize_dtype(terms.sums.dtype) == "float32"


def test_remembered_sums_and_references_are_constants_for_the_gradient():
    (kernel,) = random_kernels([(3, 4)])
    penalty, reference = SimilarityPenalty(), np.array([2.0])

    def loss(tensors):
        return penalty([kernel], [-1], tensors[0]).loss + 0 * keras.ops.sum(tensors[0])

    def sums(tensors):
        terms = penalty(tensors, [-1], reference)
        return keras.ops.sum(terms.sums) + 0 * keras.ops.sum(tensors[0])

    for function, array in ((loss, reference), (sums, kernel)):
        _, (gradient,) = value_and_gradients(function, [array])
        np.testing.assert_array_equal(gradient, np.zeros_like(array))


def degenerate_kernels(dtype):
    largest = 3e4 if dtype == "float16" else 1e20
    small = np.random.default_rng(0).normal(size=(3, 3, 2, 4))
    one_zero_row = small.copy()
    one_zero_row[..., 1] = 0
    return [
        np.zeros((3, 3, 2, 4)),
        np.zeros((2, 1)),
        np.full((3, 3, 2, 4), 1e-7),
        small * 1e-6,
        small * 1e-30,
        np.full((5, 4), largest),
        np.array([[largest, 1e-7], [-largest, 0.0]]),
        np.array([[0.5, -0.5], [1.0, -1.0]]),  # its sum is exactly zero
        np.ones((4, 1)),  # one neuron
        np.ones((1, 1)),
        one_zero_row,
        np.repeat(small, 2, axis=-1),  # each neuron twice, as net2wider leaves them
    ]


@pytest.mark.parametrize("form", ["absolute", "signed"])
@pytest.mark.parametrize("dtype", TYPES)
def test_finite_for_degenerate_kernels(dtype, form):
    kernels = degenerate_kernels(dtype)
    axes = [-1] * len(kernels)
    penalty = SimilarityPenalty(weight=1.0, weight_sum=1.0, form=form)
    for sums in ([0.0], [1.0], [-1e-7], [1e30]):

        def loss(tensors, sums=sums):
            return penalty(tensors, axes, sums * len(tensors)).loss

        value, gradients = value_and_gradients(loss, kernels, dtype)
        assert_finite(value, *gradients)
        dtypes = {keras.backend.standardize_dtype(gradient.dtype) for gradient in gradients}
        assert dtypes == {dtype}
    for kernel in kernels:
        value, gradients = value_and_gradients(lambda k: mean_similarity(k[0]), [kernel], dtype)
        assert_finite(value, *gradients)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_kernels_give_what_their_rounded_values_give(dtype):
    kernels = [keras.ops.cast(k, dtype) for k in random_kernels(SHAPES)]
    rounded = [in_float32(k).astype("float64") for k in kernels]
    sums = random_sums(rounded)
    terms = SimilarityPenalty()(kernels, AXES, sums)
    expected = reference_loss(rounded, AXES, sums, 1.0, 0.01, "absolute")
    np.testing.assert_allclose(terms.loss, expected, rtol=1e-4)


def test_one_neuron_has_no_similarity():
    terms = SimilarityPenalty(weight_sum=0.0)([np.full((3, 1), 0.7)], [-1], [2.1])
    assert float(terms.similarity) == 0.0
    assert float(mean_similarity(np.full((3, 1), 0.7))) == 0.0


@pytest.mark.quick(1)
@pytest.mark.tensorflow
@pytest.mark.parametrize("jit_compile", [False, True])
def test_compiled_and_behind_a_condition_it_is_the_same(jit_compile):
    tf = pytest.importorskip("tensorflow")
    arrays = random_kernels(SHAPES)
    sums = random_sums(arrays)
    variables = [keras.Variable(array) for array in arrays]
    penalty = SimilarityPenalty()

    @tf.function(jit_compile=jit_compile)
    def compiled(armed):
        with tf.GradientTape() as tape:
            loss = keras.ops.cond(
                armed, lambda: penalty(variables, AXES, sums).loss, lambda: keras.ops.zeros(())
            )
        return loss, tape.gradient(loss, [v.value for v in variables])

    value, gradients = compiled(tf.constant(True))
    expected, expected_gradients = value_and_gradients(
        lambda k: penalty(k, AXES, sums).loss, arrays
    )
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(gradient, expected_gradient, atol=1e-6)
    value, gradients = compiled(tf.constant(False))
    assert float(value) == 0.0
    assert not any(np.any(gradient) for gradient in gradients)


def test_descending_it_makes_copied_neurons_differ_and_keeps_their_sum():
    rng = np.random.default_rng(0)
    twice = np.repeat(rng.normal(loc=0.3, size=(9, 4)), 2, axis=-1)
    variable = keras.Variable(twice + 0.01 * rng.normal(size=twice.shape))
    penalty = SimilarityPenalty(weight_sum=0.1, reference="growth")
    start = penalty([variable], [-1], [1.0])
    optimizer = keras.optimizers.SGD(0.2)

    def loss(tensors):
        return penalty(tensors, [-1], start.sums).loss

    for _ in range(100):
        optimizer.apply(value_and_gradients(loss, [variable])[1], [variable])
    terms = penalty([variable], [-1], start.sums)
    assert float(terms.similarity) < 0.6 * float(start.similarity)
    assert float(terms.drift) < 0.02


def test_serialization_round_trip():
    penalty = SimilarityPenalty(
        np.float32(0.5), 0.2, np.int64(7), "signed", "growth", "energy", "neuron", True
    )
    config = keras.saving.serialize_keras_object(penalty)
    assert config["registered_name"] == "keras_grow>SimilarityPenalty"
    again = keras.saving.deserialize_keras_object(config)
    assert again == penalty == SimilarityPenalty.from_config(penalty.get_config())
    assert {type(value) for value in again.get_config().values()} == {float, int, str, bool}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"weight": -0.1}, ValueError, "`weight` must be.*Received: weight=-0.1"),
        ({"weight": float("nan")}, ValueError, "`weight` must be.*Received: weight=nan"),
        ({"weight": float("inf")}, ValueError, "`weight` must be.*Received: weight=inf"),
        ({"weight": "1"}, TypeError, "`weight` must be a finite.*Received: weight='1'"),
        ({"weight": None}, TypeError, "`weight` must be a finite number"),
        ({"weight": True}, TypeError, "`weight` must be a finite number"),
        ({"weight_sum": -1}, ValueError, "`weight_sum` must be.*Received: weight_sum=-1"),
        ({"weight_sum": float("nan")}, ValueError, "`weight_sum` must be"),
        ({"weight_sum": [0.1]}, TypeError, "`weight_sum` must be a finite number"),
        ({"epochs": 0}, ValueError, "`epochs` must be a positive integer. Received: epochs=0"),
        ({"epochs": -3}, ValueError, "`epochs` must be a positive integer"),
        ({"epochs": 1.5}, TypeError, "`epochs` must be a positive integer"),
        ({"epochs": True}, TypeError, "`epochs` must be a positive integer"),
        ({"epochs": "15"}, TypeError, "`epochs` must be a positive integer"),
        ({"form": "squared"}, ValueError, r"`form` must be one of .*absolute.*Received: form='sq"),
        ({"form": None}, ValueError, "`form` must be one of"),
        ({"measure": "dot"}, ValueError, r"`measure` must be one of .*'energy'.*Received: .*'dot'"),
        ({"per": "layer"}, ValueError, "`per` must be one of .*'pair', 'neuron'"),
        ({"relative": 1}, TypeError, "`relative` must be True or False. Received: relative=1"),
        ({"reference": "epoch"}, ValueError, "`reference` must be one of .*'step', 'growth'"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        SimilarityPenalty(**arguments)


def test_bad_calls():
    kernel = np.ones((3, 2))
    with pytest.raises(ValueError, match="`form` must be one of"):
        weight_drift(1.0, 1.0, 1.0, form="relative")
    penalty = SimilarityPenalty()
    with pytest.raises(ValueError, match="`kernels` must hold at least one kernel"):
        penalty([], [], [])
    for axes, sums in (([-1, -1], [1.0]), ([-1], [1.0, 2.0]), ([-1], 1.0)):
        with pytest.raises(ValueError, match="must have one entry per kernel"):
            penalty([kernel], axes, sums)
