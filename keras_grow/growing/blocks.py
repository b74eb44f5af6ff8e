"""Blocks that are the identity at first: of a layer like one that is there, or beside a shortcut.

Each is a small Functional model from a tensor to one of its shape. What a block computes is the
identity whatever comes in, but for two things: activations that leave alone what has been through
them, and a normalisation that is set to the statistics of what comes in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import keras
import numpy as np

from keras_grow.core import keras_private

Branch = Callable[[keras.KerasTensor], keras.KerasTensor]
Moments = Callable[[keras.KerasTensor, int], tuple[np.ndarray, np.ndarray]]

# Applied again, they change nothing.
IDEMPOTENT = tuple(
    getattr(keras.activations, name)
    for name in ("linear", "relu", "relu6", "hard_tanh")
    if hasattr(keras.activations, name)
)
_CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
_WITHOUT_WEIGHTS = (
    keras.layers.Dropout,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D,
)
# The last layer of a branch -> which of its variables are to be zero.
_LAST: dict[type, tuple[str, ...]] = {
    keras.layers.Dense: ("kernel", "bias"),
    keras.layers.EinsumDense: ("kernel", "bias"),
    **dict.fromkeys(_CONVOLUTIONS, ("kernel", "bias")),
    keras.layers.Conv1DTranspose: ("kernel", "bias"),
    keras.layers.Conv2DTranspose: ("kernel", "bias"),
    keras.layers.Conv3DTranspose: ("kernel", "bias"),
    keras.layers.DepthwiseConv1D: ("kernel", "bias"),
    keras.layers.DepthwiseConv2D: ("kernel", "bias"),
    keras.layers.SeparableConv1D: ("pointwise_kernel", "bias"),
    keras.layers.SeparableConv2D: ("pointwise_kernel", "bias"),
    keras.layers.BatchNormalization: ("gamma", "beta"),
    keras.layers.LayerNormalization: ("gamma", "beta"),
    keras.layers.GroupNormalization: ("gamma", "beta"),
}


def residual_block(
    model: keras.Model, after: str, tensor: keras.KerasTensor, branch: Branch
) -> keras.Model:
    """Returns a block that adds a branch to what comes in. The branch puts out zero at first.

    Where the tensor has just been through an activation that changes nothing when it is applied
    again, such as relu, the sum goes through it too.

    Args:
        model: The model that the block is for.
        after: Name of the layer that it is to follow.
        tensor: The output of that layer.
        branch: The function that makes the branch's layers and calls them.

    Raises:
        TypeError: if the branch is no function, or returns something other than a tensor.
        ValueError: if it can't be set to put out zero, or its output is of another shape.
    """
    if not callable(branch):
        raise TypeError(
            "`branch` must be a function from a tensor to a tensor of the same shape, or None. "
            f"Received: branch={branch!r}"
        )
    maker = keras_private.maker_of(tensor)
    inputs = keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype)
    with ExitStack() as undo:
        undo.callback(keras_private.hold_calls(model))
        output = branch(inputs)
        _check_output(tensor, output)
        try:
            part = keras.Model(inputs, output)
        except ValueError as error:
            raise ValueError(
                "`branch` must compute its output from its argument, and from nothing else of a "
                f"model. {error}"
            ) from error
        _check_own(model, part)
        undo.pop_all()
    _set_to_zero(part)
    policy = getattr(maker, "dtype_policy", None)
    x = keras.layers.Add(name=f"{after}_plus", dtype=policy)([inputs, output])
    activation = activation_of(maker)
    if activation is not None and activation is not keras.activations.linear:
        name = f"{after}_plus_activation"
        x = keras.layers.Activation(activation, name=name, dtype=policy)(x)
    return _checked(tensor, keras.Model(inputs, x))


def identity_block(model: keras.Model, after: str, moments: Moments) -> tuple[keras.Model, str]:
    """Returns a block like that of a layer, and the name of the layer that it is to follow.

    The block of a layer is the layer, a BatchNormalization behind it and an activation behind that.

    Args:
        model: The model.
        after: Name of a Dense layer or a convolution.
        moments: Takes a symbolic tensor of the model and an axis, and returns the mean and the
            variance along it of what comes through. Asked where there is a normalisation.

    Raises:
        ValueError: if there is no such layer, or its block can't be the identity.
    """
    chain = list(_chain(model, after))
    layer = chain[0]
    if not isinstance(layer, (keras.layers.Dense, *_CONVOLUTIONS)):
        raise ValueError(
            f"A {type(layer).__name__} can't be repeated as an identity: that takes a Dense layer "
            "or a convolution. Pass `branch=`, a function from a tensor to one of the same shape; "
            f"what it puts out is added. Received: after='{after}'"
        )
    for each in chain:
        if not _is_normalisation(each) and activation_of(each) is None:
            raise ValueError(
                f"The activation of `{each.name}` changes what has been through it already, so a "
                f"block like that of `{after}` can't be the identity. Pass `branch=`, a function "
                "from a tensor to one of the same shape; what it puts out is added. Received: "
                f"after='{after}'"
            )
    last = chain[-1].name
    tensor = keras_private.output_of(model, last)
    x = inputs = keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype)
    for each in chain:
        if _is_normalisation(each):
            mean, variance = moments(tensor, each.axis)
            x = _like(each, model, scale=True, center=True)(x)
            _pass_through(keras_private.maker_of(x), mean, variance)
        elif each is layer:
            x = _like(each, model, **_square(each, tensor))(x)
            _set_to_identity(keras_private.maker_of(x))
        else:
            x = _like(each, model)(x)
    return _checked(tensor, keras.Model(inputs, x)), last


def activation_of(operation: Any) -> Callable | None:
    """Returns the activation that an operation ends with, if it leaves alone what has been through.

    `None` where it doesn't, or nothing is known of it.
    """
    if isinstance(operation, keras.layers.ReLU):
        own = not operation.negative_slope and not operation.threshold
        limits = {None: keras.activations.relu, 6: keras.activations.relu6}
        return limits.get(operation.max_value) if own else None
    activation = getattr(operation, "activation", None)
    return next((each for each in IDEMPOTENT if each is activation), None)


def moments(
    model: keras.Model, tensor: keras.KerasTensor, axis: int, batches: Sequence
) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and variance, along an axis, of what comes through a symbolic tensor.

    Args:
        model: The model, which is run in inference.
        tensor: One of its tensors.
        axis: The axis of the channels.
        batches: Inputs of the model.
    """
    count, total, squares = 0, 0.0, 0.0
    for x in batches:
        _, values = keras_private.run_calls(model, x)
        value = keras.ops.convert_to_numpy(keras.ops.cast(values[id(tensor)], "float32"))
        value = np.moveaxis(value, axis, -1).astype("float64")
        value = value.reshape(-1, value.shape[-1])
        count, total = count + len(value), total + value.sum(0)
        squares = squares + np.square(value).sum(0)
    mean = total / count
    return mean, np.maximum(squares / count - mean**2, 0)


def standard_moments(tensor: keras.KerasTensor, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns a mean of zero and a variance of one, for a block that is only tried."""
    length = tensor.shape[axis]
    return np.zeros(length), np.ones(length)


def _is_normalisation(layer: Any) -> bool:
    return isinstance(layer, keras.layers.BatchNormalization)


def _chain(model: keras.Model, after: str) -> Iterator[Any]:
    """Yields a layer, a normalisation that alone reads it, and an activation after that."""
    tensor = keras_private.output_of(model, after)
    operation = keras_private.maker_of(tensor)
    yield operation
    kinds: tuple = (keras.layers.BatchNormalization, keras.layers.Activation, keras.layers.ReLU)
    while activation_of(operation) in (None, keras.activations.linear):
        readers = keras_private.readers_of(model, tensor)
        reader = readers[0].operation if len(readers) == 1 else None
        if not isinstance(reader, kinds) or keras_private.output_of(model, reader.name) is None:
            return
        operation, tensor = reader, keras_private.output_of(model, reader.name)
        yield operation
        kinds = kinds[1:] if _is_normalisation(operation) else ()


def _like(layer: keras.Layer, model: keras.Model, **changes: Any) -> keras.Layer:
    """Makes a layer with the arguments of another, some of them changed. It trains."""
    own = {"name": _free_name(layer.name, _names(model)), "trainable": True}
    return type(layer).from_config({**layer.get_config(), **changes, **own})


def _square(layer: keras.Layer, tensor: keras.KerasTensor) -> dict[str, Any]:
    """Returns the arguments by which a layer puts out what it takes in."""
    if isinstance(layer, keras.layers.Dense):
        return {"units": tensor.shape[-1]}
    axis = 1 if layer.data_format == "channels_first" else -1
    padding = "causal" if layer.padding == "causal" else "same"
    return {"filters": tensor.shape[axis], "strides": 1, "groups": 1, "padding": padding}


def _set_to_identity(layer: keras.Layer) -> None:
    """Sets the weights of a square layer so that it puts out what it takes in."""
    value = np.zeros(layer.kernel.shape)
    size = value.shape[:-2]
    causal = getattr(layer, "padding", None) == "causal"
    centre = tuple(length - 1 if causal else (length - 1) // 2 for length in size)
    value[centre] = np.eye(value.shape[-1])
    layer.kernel.assign(value)
    if layer.bias is not None:
        layer.bias.assign(np.zeros(layer.bias.shape))


def _pass_through(layer: keras.Layer, mean: np.ndarray, variance: np.ndarray) -> None:
    """Sets a normalisation so that it changes nothing where the statistics are these."""
    for name, value in {
        "gamma": np.sqrt(variance + layer.epsilon),
        "beta": mean,
        "moving_mean": mean,
        "moving_variance": variance,
    }.items():
        getattr(layer, name).assign(value)


def _set_to_zero(part: keras.Model) -> None:
    """Sets the last weights of a branch to zero, so that it puts out zero."""
    last = keras_private.maker_of(part.outputs[0])
    while isinstance(last, _WITHOUT_WEIGHTS):
        last = keras_private.maker_of(last.input)
    attention = {kind for kind in keras_private.ATTENTION if isinstance(last, kind)}
    if attention:
        _, last = keras_private.projections_of(last)["output"]
    names = next((names for kind, names in _LAST.items() if isinstance(last, kind)), ())
    variables = [getattr(last, name, None) for name in names]
    activation = getattr(last, "activation", None) or keras.activations.linear
    quiet = not np.any(keras.ops.convert_to_numpy(activation(keras.ops.zeros((1, 2)))))
    if not variables or variables[0] is None or not quiet:
        raise ValueError(
            "`branch` must end with a layer that puts out zero once its kernel (or its scale) is "
            "zero: Dense, EinsumDense, a convolution, BatchNormalization, LayerNormalization, "
            "GroupNormalization or attention, with or without a Dropout behind it. Received: "
            f"`{last.name}` ({type(last).__name__})"
        )
    for variable in variables:
        if variable is not None:
            variable.assign(np.zeros(variable.shape))


def _check_output(tensor: keras.KerasTensor, output: Any) -> None:
    if not isinstance(output, keras.KerasTensor):
        raise TypeError(f"`branch` must return one tensor. Received: {output!r}")
    if output.shape != tensor.shape or output.dtype != tensor.dtype:
        raise ValueError(
            f"`branch` must return a tensor like its argument, of shape {tensor.shape} and dtype "
            f"{tensor.dtype}. Received: shape={output.shape}, dtype={output.dtype}"
        )


def _check_own(model: keras.Model, part: keras.Model) -> None:
    """Refuses a branch that calls layers which the model has already."""
    present = {*map(id, keras_private.layers_within(model))}
    shared = [layer.name for layer in keras_private.layers_within(part) if id(layer) in present]
    if shared:
        raise ValueError(
            "`branch` must make layers of its own. Received: a branch that calls the model's "
            f"{shared}"
        )


def _checked(tensor: keras.KerasTensor, block: keras.Model) -> keras.Model:
    """Returns a block; refuses one that changes what comes in, or drops its mask."""
    own = block.operations[1:]  # all but the input
    deaf = [each.name for each in own if not getattr(each, "supports_masking", False)]
    if deaf and keras_private.has_mask(tensor):
        raise ValueError(
            f"What comes in has a mask, which {deaf} would not pass on. Use layers that do "
            "(`supports_masking`)."
        )
    _check_identity(tensor, block)
    return block


def _check_identity(tensor: keras.KerasTensor, block: keras.Model) -> None:
    """Refuses a block that changes what comes in: the calls of some layer are its class's own."""
    shape = [2 if length is None else length for length in tensor.shape]
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    activation = activation_of(keras_private.maker_of(tensor)) or keras.activations.linear
    x = activation(keras.ops.cast(x, tensor.dtype))
    change = keras.ops.max(keras.ops.abs(block(x, training=False) - x))
    if not float(change) < 1e-2:  # devices may round what goes into products
        raise ValueError(
            f"The block isn't the identity at first: it changes values by {float(change):.2g}. Use "
            "Keras's own layers at its end."
        )


def name_apart(block: keras.Model, model: keras.Model) -> None:
    """Gives the layers of a block names that a model doesn't have."""
    names = _names(model)
    for operation in block.operations[1:]:  # all but the input
        if operation.name in names:
            operation.name = _free_name(operation.name, names)
        names.append(operation.name)


def _names(model: keras.Model) -> list[str]:
    return [operation.name for operation in model.operations]


def _free_name(name: str, names: Sequence[str]) -> str:
    """Returns a name with the first number that isn't taken.

    Example:

    >>> from keras_grow.growing.blocks import _free_name
    >>> _free_name("conv", ["conv", "conv_2"])
    'conv_3'
    """
    number = 2
    while f"{name}_{number}" in names:
        number += 1
    return f"{name}_{number}"
