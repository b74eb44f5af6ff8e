"""Curvature: how the loss bends when neurons are split, and in which direction it bends most.

The splitting matrices are never formed: all that the eigensolver asks for is their products with
vectors, those of all neurons of a layer at once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_grow.backend import compiled, vjp
from keras_grow.channels.graph import ChannelGraph
from keras_grow.channels.layer_table import acts_as
from keras_grow.core import keras_private
from keras_grow.core.index_maps import along, holds_once

# A kink has no second derivative. It counts as that of a softplus with this beta (Liu, Wu and
# Wang, 2019), whose bend has the area of the kink.
BETA = 3.0
# Eigenvalues are zero, and directions exhausted, within this fraction of the largest value:
# products come in float32.
ROUNDING = 1e-5


class Kink(NamedTuple):
    """A jump of an activation's slope.

    Attributes:
        place: The input where the slope jumps.
        jump: By how much; one number, or one per channel.
    """

    place: float
    jump: Any


def _relu(f: Any) -> list[Kink]:
    """`ReLU` has a slope to the left and a ceiling; the function and the operation have not."""
    start, ceiling = getattr(f, "threshold", 0.0), getattr(f, "max_value", None)
    first = Kink(start, 1 - getattr(f, "negative_slope", 0.0))
    return [first] if ceiling is None else [first, Kink(ceiling, -1)]


_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805

# Name, in small letters without underscores -> its kinks. What isn't here is smooth.
_KINKS: dict[str, Callable[[Any], list[Kink]]] = {
    "relu": _relu,
    "relu6": lambda f: [Kink(0, 1), Kink(6, -1)],
    "leakyrelu": lambda f: [Kink(0, 1 - getattr(f, "negative_slope", 0.2))],
    "prelu": lambda f: [Kink(0, 1 - keras.ops.convert_to_tensor(f.alpha))],
    "elu": lambda f: [Kink(0, 1 - getattr(f, "alpha", 1.0))],
    "selu": lambda f: [Kink(0, _SELU_SCALE * (1 - _SELU_ALPHA))],
    "abs": lambda f: [Kink(0, 2)],
    "hardtanh": lambda f: [Kink(-1, 1), Kink(1, -1)],
    "hardsigmoid": lambda f: [Kink(-3, 1 / 6), Kink(3, -1 / 6)],
    "hardsilu": lambda f: [Kink(-3, -1 / 2), Kink(3, -1 / 2)],
    "softshrink": lambda f: [Kink(-0.5, -1), Kink(0.5, 1)],
    "sparsesigmoid": lambda f: [Kink(-1, 1 / 2), Kink(1, -1 / 2)],
}

# TensorFlow differentiates these once only; the same function, which it differentiates twice.
_REWRITTEN: dict[str, Callable] = {"softsign": lambda u: u / (1 + keras.ops.abs(u))}


def kinks_of(activation: Any) -> list[Kink]:
    """Returns where the slope of an activation jumps.

    Args:
        activation: A function of `keras.activations`, an activation layer or a `keras.ops`
            operation.

    Example:

    >>> import keras
    >>> from keras_grow.methods.splitting.curvature import kinks_of
    >>> kinks_of(keras.activations.relu)
    [Kink(place=0.0, jump=1.0)]
    >>> kinks_of(keras.activations.tanh)
    []
    """
    function, name = _named(activation)
    return _KINKS[name](function) if name in _KINKS else []


def _named(activation: Any) -> tuple[Any, str]:
    """Returns what an activation applies, and its name as in the tables."""
    function = getattr(activation, "activation", activation)  # what `Activation` applies
    name = getattr(function, "__name__", type(function).__name__)
    return function, name.replace("_", "").lower()


def second_derivative(activation: Callable, inputs: Any) -> Any:
    """Computes the second derivative of an elementwise activation, entry by entry.

    Automatic differentiation, and where the slope jumps, the bend of a softplus with beta = 3,
    `beta * s * (1 - s)` with `s = sigmoid(beta * u)`, times the jump.

    Args:
        activation: A function or layer that acts on each entry alone.
        inputs: Tensor of any shape.

    Returns:
        Tensor of the shape of `inputs`.

    Example:

    >>> import keras
    >>> from keras_grow.methods.splitting.curvature import second_derivative
    >>> second_derivative(keras.activations.relu, [0.0, 10.0]).numpy().tolist()
    [0.75, 0.0]
    """
    inputs = keras.ops.convert_to_tensor(inputs)
    smooth = _REWRITTEN.get(_named(activation)[1], activation)
    bend = _derivative(lambda u: _derivative(smooth, u), inputs)
    for place, jump in kinks_of(activation):
        s = keras.ops.sigmoid(BETA * (inputs - place))
        bend = bend + jump * (BETA * s * (1 - s))
    return bend


def _derivative(function: Callable, inputs: Any) -> Any:
    """Returns the derivative of a function that acts on each entry alone."""
    outputs, pullback = vjp(function, [inputs])
    return pullback(keras.ops.ones_like(outputs))[0]


class Factors(NamedTuple):
    """What the splitting matrices of a layer's neurons are made of.

    S is the sum of `weight * x x^T` over examples and positions.

    Attributes:
        inputs: The inputs x of the layer.
        weight: dL/da * sigma''(u) * b^2, for each of its outputs.
    """

    inputs: Any
    weight: Any


@dataclass(frozen=True)
class ScorableLayer:
    """A layer whose neurons can be scored, with their activation.

    Attributes:
        layer: The dense layer, convolution or EinsumDense that produces the neurons.
        inputs: What comes into the layer, symbolically.
        before: What comes into the activation; `None` if it is the layer's own.
        after: What comes out of the activation.
        activation: The activation.
        norms: The batch normalisations between layer and activation.
        axis: The axis of the neurons in the kernel, counted from the end.
    """

    layer: Any
    inputs: keras.KerasTensor
    before: keras.KerasTensor | None
    after: keras.KerasTensor
    activation: Callable
    norms: tuple[keras.layers.BatchNormalization, ...] = ()
    axis: int = -1

    @property
    def neurons(self) -> int:
        """Number of neurons."""
        return self.layer.kernel.shape[self.axis]

    @property
    def dimension(self) -> int:
        """Number of weights of a neuron."""
        return int(np.prod(self.layer.kernel.shape)) // self.neurons

    def as_kernel(self, vectors: np.ndarray) -> np.ndarray:
        """Returns vectors of shape `(neurons, dimension)` as a kernel."""
        shape = list(self.layer.kernel.shape)
        neurons = shape.pop(self.axis)
        return np.moveaxis(vectors.T.reshape(*shape, neurons), -1, self.axis)

    def as_vectors(self, kernel: np.ndarray) -> np.ndarray:
        """Returns a kernel as vectors of shape `(neurons, dimension)`."""
        return np.moveaxis(kernel, self.axis, -1).reshape(-1, self.neurons).T

    def scale(self) -> Any:
        """Returns what the normalisations multiply each channel by, shaped to multiply outputs."""
        scale = 1.0
        for norm in self.norms:
            factor = keras.ops.rsqrt(norm.moving_variance + norm.epsilon)
            if norm.scale:
                factor = factor * norm.gamma
            scale = scale * along(factor, norm.axis, len(self.after.shape))
        return scale

    def project(self, inputs: Any, kernel: Any) -> Any:
        """Multiplies inputs with a kernel as the layer does, without bias."""
        if hasattr(self.layer, "convolution_op"):
            return self.layer.convolution_op(inputs, kernel)
        if hasattr(self.layer, "equation"):
            return keras.ops.einsum(self.layer.equation, inputs, kernel)
        return keras.ops.matmul(inputs, kernel)

    def preactivation(self, inputs: Any) -> Any:
        """Computes what comes into the layer's own activation."""
        outputs = self.project(inputs, keras.ops.convert_to_tensor(self.layer.kernel))
        bias = self.layer.bias
        if bias is None:
            return outputs
        if getattr(self.layer, "data_format", None) == "channels_first":
            bias = keras.ops.reshape(bias, (-1, *[1] * (len(outputs.shape) - 2)))
        return outputs + bias

    def factors(self, values: Mapping[int, Any], gradient: Any) -> Factors:
        """Computes what the splitting matrices of the neurons are made of.

        Args:
            values: `id` of symbolic tensors -> their values.
            gradient: dL/da, the gradient of the loss with respect to what comes out.
        """
        inputs = values[id(self.inputs)]
        u = self.preactivation(inputs) if self.before is None else values[id(self.before)]
        weight = gradient * second_derivative(self.activation, u) * self.scale() ** 2
        return Factors(keras.ops.cast(inputs, "float32"), keras.ops.cast(weight, "float32"))

    def product(self, factors: Factors, kernel: Any) -> Any:
        """Multiplies the splitting matrix of each neuron with a vector, on a part of the data.

        S v is the gradient with respect to the kernel of the layer's linear operation, where the
        kernel holds the vectors, one per neuron, and the gradient that comes in is the weight
        times the output.
        """
        inputs, weight = factors
        outputs, pullback = vjp(lambda kernel: self.project(inputs, kernel), [kernel])
        return pullback(weight * outputs)[0]


def products_with(layer: ScorableLayer, factors: Sequence[Factors]) -> Callable:
    """Returns the function that multiplies the splitting matrix of each neuron with a vector.

    Args:
        layer: The layer.
        factors: What the matrices are made of, for parts of the data.

    Returns:
        A function of arrays of shape `(neurons, dimension)`.
    """
    product = compiled(layer.product)

    def products(vectors: np.ndarray) -> np.ndarray:
        kernel = keras.ops.convert_to_tensor(layer.as_kernel(vectors), "float32")
        total = np.zeros(kernel.shape)
        for part in factors:
            total += keras.ops.convert_to_numpy(product(part, kernel))
        return layer.as_vectors(total)

    return products


def find_scorable_layers(network: keras.Model, graph: ChannelGraph) -> dict[str, ScorableLayer]:
    """Finds the groups whose neurons can be scored, each with the layer that produces them.

    Args:
        network: The model of the graph, or a copy of it with layers of the same names.
        graph: The channel groups.

    Returns:
        Name of the group -> its layer.
    """
    calls_of, readers = defaultdict(list), defaultdict(list)
    for call in keras_private.calls_of(network):
        calls_of[call.name].append(call)
        for tensor in call.inputs:
            readers[id(tensor)].append(call)
    layers = {}
    for name, group in graph.growable.items():
        calls = [call for producer in group.producers for call in calls_of[producer]]
        if len(calls) == 1 and acts_as(calls[0].operation) == "linear":
            layer = _follow(calls[0], readers)
            axes = [axis for _, axis in graph.kernels(name, "output")]
            if layer is not None and all(holds_once(a.segments, name) for a in axes):
                layers[name] = replace(layer, axis=axes[0].axis)
    return layers


def _follow(call: keras_private.Call, readers: Mapping[int, list]) -> ScorableLayer | None:
    """Goes from a producer to its one activation, or gives up."""
    layer, inputs, tensor = call.operation, call.inputs[0], call.outputs[0]
    if layer.activation is not keras.activations.linear:
        return ScorableLayer(layer, inputs, None, tensor, layer.activation)
    norms = []
    while len(readers[id(tensor)]) == 1:
        (reader,) = readers[id(tensor)]
        operation = reader.operation
        if _bends(operation) and len(reader.inputs) == 1:
            return ScorableLayer(layer, inputs, tensor, reader.outputs[0], operation, tuple(norms))
        if acts_as(operation) == "normalisation":
            norms.append(operation)
        elif not (acts_as(operation) == "idle" or _is_linear(operation)):
            return None
        tensor = reader.outputs[0]
    return None


def _is_linear(operation: Any) -> bool:
    """Tells whether an operation is an activation that does nothing."""
    linear = keras.activations.linear
    return isinstance(operation, keras.layers.Activation) and operation.activation is linear


def _bends(operation: Any) -> bool:
    """Tells whether an operation is an activation that does something."""
    return acts_as(operation) == "activation" and not _is_linear(operation)


def smallest_eigenpairs(
    product: Callable[[np.ndarray], np.ndarray],
    count: int,
    dimension: int,
    iterations: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the smallest eigenpair of each of many symmetric matrices by Lanczos iterations.

    Every new direction is made orthogonal to all earlier ones. Where the directions of a matrix
    are exhausted, it goes on from a random one. With as many iterations as dimensions the result
    is exact; with fewer, the eigenvalues are approached from above.

    Args:
        product: Takes vectors of shape `(count, dimension)`, one per matrix, and returns the
            products of each matrix with its vector.
        count: Number of matrices.
        dimension: Their size.
        iterations: The most products.
        rng: The source of the starting vectors.

    Returns:
        Eigenvalues of shape `(count,)`, zero where they are zero but for rounding, and unit
        eigenvectors of shape `(count, dimension)`.

    Example:

    >>> import numpy as np
    >>> from keras_grow.methods.splitting.curvature import smallest_eigenpairs
    >>> matrix = np.diag([3.0, -2.0, 1.0])
    >>> values, vectors = smallest_eigenpairs(
    ...     lambda v: v @ matrix, 1, 3, iterations=3, rng=np.random.default_rng(0))
    >>> round(float(values[0]), 6), abs(vectors[0]).round(6).tolist()
    (-2.0, [0.0, 1.0, 0.0])

    Reference:
        Golub and Van Loan, Matrix Computations, 4th edition, chapter 10.
    """
    steps = min(dimension, iterations)
    basis = np.zeros((steps, count, dimension))
    projected = np.zeros((count, steps, steps))  # the matrices, seen in the basis
    vector = rng.normal(size=(count, dimension))
    for step in range(steps):
        basis[step] = _next_direction(vector, basis[:step], rng)
        vector = np.asarray(product(basis[step]), "float64")
        known = _coefficients(basis[: step + 1], vector)
        projected[:, step, : step + 1] = projected[:, : step + 1, step] = known
    values, vectors = np.linalg.eigh(projected)
    lowest = np.einsum("jcd,cj->cd", basis, vectors[:, :, 0])
    size = np.max(np.abs(values), axis=1)
    zero = np.abs(values[:, 0]) <= ROUNDING * size
    return np.where(zero, 0.0, values[:, 0]), lowest / _norm(lowest)


def _next_direction(vector: np.ndarray, basis: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns the direction of what vectors hold beside a basis, or a random one if nothing."""
    beside = _beside(vector, basis)
    exhausted = _norm(beside) <= ROUNDING * _norm(vector)
    if np.any(exhausted):
        beside = np.where(exhausted, _beside(rng.normal(size=vector.shape), basis), beside)
    return beside / _norm(beside)


def _beside(vector: np.ndarray, basis: np.ndarray) -> np.ndarray:
    for _ in range(2):  # once is not enough where little is left
        vector = vector - np.einsum("jcd,cj->cd", basis, _coefficients(basis, vector))
    return vector


def _coefficients(basis: np.ndarray, vector: np.ndarray) -> np.ndarray:
    return np.einsum("jcd,cd->cj", basis, vector)


def _norm(vector: np.ndarray) -> np.ndarray:
    return np.linalg.norm(vector, axis=1, keepdims=True)
