"""The similarity penalty, against NumPy in float64 and finite differences."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from keras_grow.similarity import (
    PenaltyTerms,
    SimilarityPenalty,
    mean_similarity,
    neuron_rows,
    similarity_map,
    weight_drift,
)

# Interleaved, so that the layers of equal shape aren't neighbours; the depthwise kernel (axis -2)
# has as many rows and columns as a dense one.
SHAPES = [(3, 3, 2, 4), (6, 5), (3, 3, 2, 4), (3, 3, 4, 1), (9, 4), (6, 5), (4, 1), (3, 3, 4, 2)]
AXES = [-1, -1, -1, -2, -1, 1, -1, -2]
TYPES = ["float32", "float16", "bfloat16"]


def random_kernels(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(loc=0.1, size=shape) for shape in shapes]


def rows_of(kernel, axis):
    return [np.take(kernel, i, axis).ravel() for i in range(kernel.shape[axis])]


def cosine(a, b):
    norms = np.sqrt(np.dot(a, a) * np.dot(b, b))
    return np.dot(a, b) / norms if norms else 0.0


def reference_similarity(kernel, axis=-1):
    """Eq. 2, pair by pair."""
    rows = rows_of(kernel, axis)
    pairs = [(i, j) for i in range(len(rows)) for j in range(len(rows)) if i != j]
    return sum(abs(cosine(rows[i], rows[j])) for i, j in pairs) / max(len(pairs), 1)


def reference_drift(kernel, previous_sum, form):
    """Eq. 4, without a guard."""
    drift = np.log(abs(kernel.sum() / previous_sum))
    return abs(drift) if form == "absolute" else drift


def reference_loss(kernels, axes, sums, weight, weight_sum, form):
    similarity = np.mean([reference_similarity(k, a) for k, a in zip(kernels, axes, strict=True)])
    drift = np.mean([reference_drift(k, s, form) for k, s in zip(kernels, sums, strict=True)])
    return weight * similarity + weight_sum * drift


def finite_differences(function, array, step=1e-6):
    """The gradient of a function of one float64 array."""
    gradient = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        values = []
        for sign in (1, -1):
            moved = array.copy()
            moved[index] += sign * step
            values.append(function(moved))
        gradient[index] = (values[0] - values[1]) / (2 * step)
    return gradient


def value_and_gradients(function, arrays, dtype="float32"):
    tensors = [tf.constant(array, dtype) for array in arrays]
    with tf.GradientTape() as tape:
        for tensor in tensors:
            tape.watch(tensor)
        value = function(tensors)
    return value, tape.gradient(value, tensors)


def assert_finite(*tensors):
    for tensor in tensors:
        assert np.isfinite(tf.cast(tensor, "float32").numpy()).all()


# --- Eq. 1 and 2 ---


@pytest.mark.parametrize(("shape", "axis"), list(zip(SHAPES, AXES, strict=True)))
def test_neuron_rows_hold_the_weights_of_one_neuron_each(shape, axis):
    (kernel,) = random_kernels([shape])
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
    tensor = tf.constant(kernel, "float32")
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
    expected = np.abs(similarity_map(kernel).numpy())[order][:, order]
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
    current, previous, scale = (tf.constant(part.ravel(), dtype) for part in grid)
    with tf.GradientTape() as tape:
        tape.watch(current)
        drift = weight_drift(current, previous, scale, form)
    gradient = tape.gradient(drift, current)
    assert_finite(drift, gradient)
    floor = 1e-3 * tf.cast(scale, "float32").numpy() + 1e-4
    assert (np.abs(tf.cast(gradient, "float32")) <= 1.01 / floor).all()


def test_only_the_current_sum_has_a_gradient():
    sums = [tf.constant(value) for value in (2.0, 1.0, 3.0)]
    with tf.GradientTape() as tape:
        tape.watch(sums)
        drift = weight_drift(*sums)
    gradients = tape.gradient(drift, sums)
    assert float(gradients[0]) == pytest.approx(0.5)
    assert gradients[1:] == [None, None]


def test_no_drift_and_no_gradient_where_nothing_changed():
    kernels = random_kernels(SHAPES)
    penalty = SimilarityPenalty(weight=0.0, weight_sum=1.0)
    sums = penalty(kernels, AXES, np.ones(len(kernels))).sums
    value, gradients = value_and_gradients(lambda k: penalty(k, AXES, sums).loss, kernels)
    assert float(value) == 0.0
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, np.zeros_like(gradient))


# --- the penalty ---


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
    kernel, reference = tf.constant(kernel), tf.constant([2.0])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([kernel, reference])
        terms = SimilarityPenalty()([kernel], [-1], reference)
    assert tape.gradient(terms.sums, kernel) is None
    assert tape.gradient(terms.loss, reference) is None


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
        assert {gradient.dtype.name for gradient in gradients} == {dtype}
    for kernel in kernels:
        value, gradients = value_and_gradients(lambda k: mean_similarity(k[0]), [kernel], dtype)
        assert_finite(value, *gradients)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_kernels_give_what_their_rounded_values_give(dtype):
    kernels = [tf.cast(k, dtype) for k in random_kernels(SHAPES)]
    rounded = [tf.cast(k, "float64").numpy() for k in kernels]
    sums = random_sums(rounded)
    terms = SimilarityPenalty()(kernels, AXES, sums)
    expected = reference_loss(rounded, AXES, sums, 1.0, 0.01, "absolute")
    np.testing.assert_allclose(terms.loss, expected, rtol=1e-4)


def test_one_neuron_has_no_similarity():
    terms = SimilarityPenalty(weight_sum=0.0)([np.full((3, 1), 0.7)], [-1], [2.1])
    assert float(terms.similarity) == 0.0
    assert float(mean_similarity(np.full((3, 1), 0.7))) == 0.0


@pytest.mark.parametrize("jit_compile", [False, True])
def test_compiled_and_behind_a_condition_it_is_the_same(jit_compile):
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
    for _ in range(100):
        with tf.GradientTape() as tape:
            terms = penalty([variable], [-1], start.sums)
        optimizer.apply(tape.gradient(terms.loss, [variable.value]), [variable])
    assert float(terms.similarity) < 0.6 * float(start.similarity)
    assert float(terms.drift) < 0.02


def test_serialization_round_trip():
    penalty = SimilarityPenalty(np.float32(0.5), 0.2, np.int64(7), "signed", "growth")
    config = keras.saving.serialize_keras_object(penalty)
    assert config["registered_name"] == "keras_grow>SimilarityPenalty"
    again = keras.saving.deserialize_keras_object(config)
    assert again == penalty == SimilarityPenalty.from_config(penalty.get_config())
    assert {type(value) for value in again.get_config().values()} == {float, int, str}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"weight": -0.1}, ValueError, "`weight` must be.*Received: weight=-0.1"),
        ({"weight": float("nan")}, ValueError, "`weight` must be.*Received: weight=nan"),
        ({"weight": float("inf")}, ValueError, "`weight` must be.*Received: weight=inf"),
        ({"weight": "1"}, TypeError, "`weight` must be a number. Received: weight='1'"),
        ({"weight": None}, TypeError, "`weight` must be a number"),
        ({"weight": True}, TypeError, "`weight` must be a number"),
        ({"weight_sum": -1}, ValueError, "`weight_sum` must be.*Received: weight_sum=-1"),
        ({"weight_sum": float("nan")}, ValueError, "`weight_sum` must be"),
        ({"weight_sum": [0.1]}, TypeError, "`weight_sum` must be a number"),
        ({"epochs": 0}, ValueError, "`epochs` must be a positive integer. Received: epochs=0"),
        ({"epochs": -3}, ValueError, "`epochs` must be a positive integer"),
        ({"epochs": 1.5}, TypeError, "`epochs` must be a positive integer"),
        ({"epochs": True}, TypeError, "`epochs` must be a positive integer"),
        ({"epochs": "15"}, TypeError, "`epochs` must be a positive integer"),
        ({"form": "squared"}, ValueError, r"`form` must be one of .*absolute.*Received: form='sq"),
        ({"form": None}, ValueError, "`form` must be one of"),
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
