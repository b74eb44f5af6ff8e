"""The similarity penalty, against NumPy in float64 and finite differences."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from penalties import (
    AXES,
    SHAPES,
    TYPES,
    assert_finite,
    cosine,
    finite_differences,
    in_float32,
    random_kernels,
    reference_similarity,
    rows_of,
    value_and_gradients,
)

from keras_grow.penalty.similarity import (
    mean_similarity,
    neuron_rows,
    similarity_map,
    weight_drift,
)
from keras_grow.penalty.similarity_penalty import SimilarityPenalty

# --- Eq. 1 and 2 ---


@pytest.mark.parametrize(("shape", "axis"), list(zip(SHAPES, AXES, strict=True)))
def test_neuron_rows_hold_the_weights_of_one_neuron_each(shape, axis):
    kernel = random_kernels([shape])[0].astype("float32")
    np.testing.assert_array_equal(neuron_rows(kernel, axis), rows_of(kernel, axis))


@pytest.mark.parametrize(("shape", "axis"), list(zip(SHAPES, AXES, strict=True)))
def test_map_and_mean_pair_by_pair(shape, axis):
    (kernel,) = random_kernels([shape])
    rows = rows_of(kernel, axis)
    expected = [[cosine(a, b) for b in rows] for a in rows]
    np.testing.assert_allclose(similarity_map(kernel, axis), expected, atol=1e-6)
    expected = reference_similarity(kernel, axis)
    np.testing.assert_allclose(mean_similarity(kernel, axis), expected, atol=1e-6)


@pytest.mark.parametrize(("shape", "axis"), list(zip(SHAPES, AXES, strict=True)))
def test_gradient_of_the_mean(shape, axis):
    (kernel,) = random_kernels([shape])
    _, (gradient,) = value_and_gradients(lambda k: mean_similarity(k[0], axis), [kernel])
    expected = finite_differences(lambda k: reference_similarity(k, axis), kernel)
    np.testing.assert_allclose(gradient, expected, atol=1e-5)


def test_arrays_tensors_and_variables_are_accepted():
    (kernel,) = random_kernels([(3, 3, 2, 4)])
    expected = reference_similarity(kernel)
    tensor = keras.ops.convert_to_tensor(kernel, "float32")
    for same in (kernel, kernel.astype("float32"), kernel.tolist(), tensor, keras.Variable(kernel)):
        value = mean_similarity(same)
        assert keras.backend.standardize_dtype(value.dtype) == "float32"
        np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_a_zero_row_is_similar_to_nothing_and_pulls_nothing():
    kernel = np.array([[1.0, 0.0, 2.0], [1.0, 0.0, 1.0]])
    np.testing.assert_array_equal(similarity_map(kernel)[1], [0.0, 0.0, 0.0])
    _, (gradient,) = value_and_gradients(lambda k: mean_similarity(k[0]), [kernel])
    assert_finite(gradient)
    np.testing.assert_array_equal(gradient[:, 1], [0.0, 0.0])


@pytest.mark.parametrize("axis", [2, -3, 7])
def test_an_axis_that_the_kernel_lacks(axis):
    with pytest.raises(ValueError, match=r"`axis` must be an axis of the kernel.*Received: axis="):
        mean_similarity(np.ones((3, 2)), axis)


kernels = hnp.arrays(
    "float32",
    hnp.array_shapes(min_dims=1, max_dims=4, max_side=5),
    elements=st.floats(-1e6, 1e6, width=32),
)
# Whole numbers: no row is so small that it counts as zero once it is scaled.
whole_kernels = hnp.arrays(
    "float32", hnp.array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.integers(-5, 5)
)


@given(kernels)
def test_the_mean_lies_between_0_and_1(kernel):
    assert 0 <= float(mean_similarity(kernel)) <= 1
    cosines = np.abs(similarity_map(kernel))
    assert (cosines <= 1 + 1e-5).all()
    terms = SimilarityPenalty()([kernel], [-1], [1.0])
    assert 0 <= float(terms.similarity) <= 1


@given(whole_kernels, st.data())
def test_scale_sign_and_order_of_the_neurons_do_not_matter(kernel, data):
    neurons = kernel.shape[-1]
    factors = st.sampled_from([1e-6, 0.3, 1.0, -2.0, 1e4])
    scale = data.draw(st.lists(factors, min_size=neurons, max_size=neurons))
    order = data.draw(st.permutations(range(neurons)))
    changed = (kernel * np.array(scale, "float32"))[:, order]
    np.testing.assert_allclose(mean_similarity(changed), mean_similarity(kernel), atol=1e-5)
    expected = np.abs(np.asarray(similarity_map(kernel)))[order][:, order]
    np.testing.assert_allclose(np.abs(similarity_map(changed)), expected, atol=1e-5)


@given(st.integers(2, 8))
def test_orthogonal_neurons_give_0_and_parallel_ones_1(neurons):
    orthogonal, _ = np.linalg.qr(np.random.default_rng(neurons).normal(size=(neurons, neurons)))
    assert float(mean_similarity(orthogonal)) < 1e-6
    parallel = np.outer(np.arange(1, 4), (-1.0) ** np.arange(neurons))
    assert float(mean_similarity(parallel)) == pytest.approx(1, abs=1e-6)


# --- Eq. 4 ---


@pytest.mark.parametrize(
    ("current", "previous", "signed"),
    [
        (2.0, 1.0, np.log(2)),
        (1.0, 2.0, -np.log(2)),
        (-3.0, 1.0, np.log(3)),
        (3.0, -1.0, np.log(3)),
        (5.0, 5.0, 0.0),
        (-5.0, 5.0, 0.0),
        (0.0, 0.0, 0.0),
        (0.05, -0.02, 0.0),  # both below the floor of 0.1001
        (0.0, 10.01, -np.log(100)),
        (10.01, 0.0, np.log(100)),
        (1e30, 1e-30, np.log(1e30 / 0.1001)),
    ],
)
def test_drift_of_a_sum(current, previous, signed):
    value = weight_drift(current, previous, 100.0, form="signed")
    np.testing.assert_allclose(value, signed, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(weight_drift(current, previous, 100.0), abs(signed), 1e-5, 1e-6)


@pytest.mark.parametrize("form", ["absolute", "signed"])
@pytest.mark.parametrize("dtype", TYPES)
def test_drift_is_finite_while_a_sum_crosses_zero(form, dtype):
    near_zero = np.concatenate([np.linspace(-0.5, 0.5, 101), [-0.0, 1e-7, -1e-7, 6e4, -6e4]])
    grid = np.meshgrid(near_zero, [-1e-7, 0.0, 2.0], [0.0, 1e-7, 60.0])
    current, previous, scale = (keras.ops.cast(part.ravel(), dtype) for part in grid)

    def total(tensors):
        return keras.ops.sum(weight_drift(tensors[0], previous, scale, form))

    _, (gradient,) = value_and_gradients(total, [current], dtype)
    assert_finite(weight_drift(current, previous, scale, form), gradient)
    floor = 1e-3 * in_float32(scale) + 1e-4
    assert (np.abs(in_float32(gradient)) <= 1.01 / floor).all()


def test_only_the_current_sum_has_a_gradient():
    sums = [2.0, 1.0, 3.0]

    def drift(tensors):
        return weight_drift(*tensors) + 0 * sum(tensors)

    _, gradients = value_and_gradients(drift, sums)
    assert [float(gradient) for gradient in gradients] == pytest.approx([0.5, 0, 0])


def test_the_signed_form_has_a_gradient_where_nothing_changed():
    """It has no kink there."""
    value, (gradient,) = value_and_gradients(
        lambda tensors: keras.ops.sum(weight_drift(tensors[0], 4.0, 9.0, "signed")), [4.0]
    )
    assert float(value) == 0 and float(gradient) == pytest.approx(0.25)


@pytest.mark.parametrize("rounding", [-2e-7, 0.0, 2e-7])
def test_no_drift_and_no_gradient_where_nothing_changed(rounding):
    """However the sums are rounded: XLA, for one, compiles the one of a step."""
    kernels = random_kernels(SHAPES)
    penalty = SimilarityPenalty(weight=0.0, weight_sum=1.0)
    sums = keras.ops.convert_to_numpy(penalty(kernels, AXES, np.ones(len(kernels))).sums)
    sums = sums + rounding * np.array([np.abs(kernel).sum() for kernel in kernels])
    value, gradients = value_and_gradients(lambda k: penalty(k, AXES, sums).loss, kernels)
    assert float(value) == 0.0
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, np.zeros_like(gradient))
