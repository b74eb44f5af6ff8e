"""Eq. 2, 4 and 5 pair by pair in NumPy, and what compares with it."""

import keras
import numpy as np

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


def reference_measure(kernel, axis, measure):
    """What the pairs of a kernel cost on average, by another way than the package's."""
    rows = rows_of(kernel, axis)
    pairs = [(i, j) for i in range(len(rows)) for j in range(len(rows)) if i != j]
    cosines = np.array([cosine(rows[i], rows[j]) for i, j in pairs] or [0.0])
    costs = {
        "cosine": lambda c: np.abs(c),
        "energy": lambda c: -np.log((1.001 - c**2) / 1.001),
        # The acute angle between the neurons, as part of a right one.
        "angle": lambda c: 1 - np.arccos(np.abs(c) / np.sqrt(1.001)) / (np.pi / 2),
    }
    return np.mean(costs[measure](cosines))


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
    tensors = [keras.ops.convert_to_tensor(array, dtype) for array in arrays]
    if keras.config.backend() == "jax":
        import jax

        return jax.value_and_grad(function)(tensors)
    import tensorflow as tf

    with tf.GradientTape() as tape:
        for tensor in tensors:
            tape.watch(tensor)
        value = function(tensors)
    return value, tape.gradient(value, tensors, unconnected_gradients="zero")


def assert_finite(*tensors):
    for tensor in tensors:
        assert np.isfinite(in_float32(tensor)).all()


def in_float32(tensor):
    return keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float32"))
