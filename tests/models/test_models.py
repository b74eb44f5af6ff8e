"""The networks: sizes as in the paper, everything that should grow can, names and checks."""

import math

import keras
import numpy as np
import pytest

from keras_grow import GrowableModel
from keras_grow.models import VGG16, MobileNetV1, ResNet

CONVS = [f"conv{n}" for n in range(1, 14)]
POINTWISE = [f"block{n}_pointwise" for n in range(1, 14)]
NETWORKS = [VGG16, MobileNetV1, ResNet]


def trainable(model):
    return sum(math.prod(v.shape) for v in model.trainable_variables)


def spatial(model, kind):
    return {la.name: la.output.shape[1] for la in model.layers if isinstance(la, kind)}


@pytest.mark.parametrize(
    ("network", "width", "classes", "parameters"),
    [
        (VGG16, 16, 10, 28_666),
        (VGG16, 16, 100, 30_196),
        (MobileNetV1, 32, 10, 19_978),
        (MobileNetV1, 32, 100, 22_948),
    ],
)
def test_the_sizes_of_the_paper(network, width, classes, parameters):
    model = network(width=width, classes=classes)
    assert trainable(model) == parameters
    assert model.output_shape == (None, classes)
    assert set(model.widths.values()) == {width}


def vgg16_parameters(widths, classes=10):
    ins = [3, *widths[:-1]]
    convs = sum(9 * i * o + 2 * o for i, o in zip(ins, widths, strict=True))
    return convs + (widths[-1] + 1) * classes


@pytest.mark.parametrize("narrow", [0, 6, 12])
def test_688_neurons_in_proportion_have_the_papers_final_size(narrow):
    widths = [53] * 13  # 688 = 12 * 53 + 52
    widths[narrow] = 52
    model = VGG16(widths=widths)
    assert sum(model.widths.values()) == 688
    assert trainable(model) == vgg16_parameters(widths)
    assert 300_000 <= trainable(model) <= 345_000


def test_vgg16_is_the_network_of_the_paper():
    model = VGG16()
    assert list(model.widths) == CONVS
    convs = [la for la in model.layers if isinstance(la, keras.layers.Conv2D)]
    assert all(la.kernel_size == (3, 3) and not la.use_bias for la in convs)
    assert spatial(model, keras.layers.MaxPooling2D) == {
        "conv2_pool": 16,
        "conv4_pool": 8,
        "conv7_pool": 4,
        "conv10_pool": 2,
        "conv13_pool": 1,
    }
    assert [la.name for la in model.layers[:4]] == [
        "images",
        "conv1",
        "conv1_bn",
        "conv1_activation",
    ]
    assert model.get_layer("head").use_bias


def test_mobilenet_is_the_network_of_the_paper():
    model = MobileNetV1()
    assert list(model.widths) == ["stem", *POINTWISE]
    assert list(spatial(model, keras.layers.DepthwiseConv2D).values()) == (
        [32, 16, 16, 8, 8] + [4] * 6 + [2, 2]
    )
    convs = [la for la in model.layers if "Conv2D" in type(la).__name__]
    assert len(convs) == 27
    assert not any(la.use_bias for la in convs)
    assert model.get_layer("block3_depthwise").kernel.shape == (3, 3, 32, 1)
    assert [la.name for la in model.layers[4:7]] == [
        "block1_depthwise",
        "block1_depthwise_bn",
        "block1_depthwise_activation",
    ]


def test_the_average_pool_of_mobilenet_is_that_of_the_paper_at_32_pixels():
    pool = MobileNetV1(width=4).get_layer("pool")
    x = np.random.default_rng(0).normal(size=(2, *pool.input.shape[1:])).astype("float32")
    expected = keras.layers.Flatten()(keras.layers.AveragePooling2D(2)(x))
    assert pool.input.shape[1:3] == (2, 2)
    np.testing.assert_allclose(pool(x), expected, atol=1e-6)


def test_a_residual_stage_grows_as_one():
    model = ResNet(width=4, blocks=(2, 1))
    graph = {row.layer: row.group for row in model.growth_report().rows}
    assert graph["stem"] == graph["stage1_block1_conv2"] == graph["stage1_block2_conv2"] == "stem"
    assert graph["stage2_shortcut"] == graph["stage2_block1_conv2"] == "stage2_shortcut"
    assert trainable(ResNet(width=16)) == resnet20_parameters(16)


def resnet20_parameters(width, classes=10):
    conv = 9 * width * width + 2 * width
    stem, shortcuts = 27 * width + 2 * width, 2 * (width * width + 2 * width)
    return stem + 18 * conv + shortcuts + (width + 1) * classes


@pytest.mark.parametrize("network", NETWORKS)
def test_only_the_head_is_frozen(network):
    report = network(width=2).growth_report()
    assert [row.layer for row in report.frozen] == ["head"]


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.quick(1)
def test_a_grown_size_can_be_built_from_the_start(network):
    names = list(network(width=2).widths)
    widths = {name: 2 + i % 3 for i, name in enumerate(names)}
    by_name = network(widths=widths)
    in_order = network(widths=np.array(list(widths.values())))
    assert isinstance(by_name, GrowableModel)
    assert by_name.widths == in_order.widths == widths
    assert [v.shape for v in by_name.variables] == [v.shape for v in in_order.variables]
    assert network(width=2, widths={names[1]: 7}).widths == {**dict.fromkeys(names, 2), names[1]: 7}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("shape", [(32, 48, 1), [64, 33, 3]])
def test_other_image_sizes(network, shape):
    model = network(width=2, classes=3, input_shape=shape, activation="swish", name="other")
    logits = model(np.ones((2, *shape), "float32"))
    assert logits.shape == (2, 3)
    assert model.name == "other"
    assert np.all(np.isfinite(logits))


@pytest.mark.parametrize("network", NETWORKS)
def test_fresh_networks_pass_signals_of_one_size_through_their_layers(network):
    model = network(width=32)
    x = np.random.default_rng(0).normal(size=(8, 32, 32, 3)).astype("float32")
    convs = [
        la
        for la in model.layers
        if isinstance(la, keras.layers.Conv2D | keras.layers.DepthwiseConv2D)
    ]
    inner = keras.Model(model.input, [layer.output for layer in convs])
    for layer, output in zip(convs, inner(x, training=True), strict=True):
        assert 0.2 < np.std(output) < 3, layer.name


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.quick(1)
def test_networks_are_saved_and_loaded(network, tmp_path):
    model = network(width=2)
    x = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.widths == model.widths
    np.testing.assert_allclose(loaded(x), model(x), atol=1e-6)


def test_logits_are_in_full_precision_under_a_mixed_policy():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = VGG16(width=2)
    finally:
        keras.config.set_dtype_policy(before)
    assert model.get_layer("conv1").compute_dtype == "bfloat16"
    assert model.output.dtype == "float32"


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (ValueError, "`width` must be a positive integer. Received: width=0", {"width": 0}),
        (TypeError, "`width` must be a positive integer", {"width": 16.0}),
        (TypeError, "`width` must be a positive integer", {"width": True}),
        (ValueError, "`classes` must be a positive integer", {"classes": -1}),
        (TypeError, "`classes` must be a positive integer", {"classes": True}),
        (TypeError, "`classes` must be a positive integer", {"classes": "10"}),
        (ValueError, "`input_shape` must be .*three integers", {"input_shape": (32, 32)}),
        (ValueError, "`input_shape` must be .*three integers", {"input_shape": 32}),
        (ValueError, "`input_shape` must be .*three integers", {"input_shape": (None, None, 3)}),
        (ValueError, "height and width at least", {"input_shape": (32, 3, 3)}),
        (ValueError, "Received: input_shape=.*0", {"input_shape": (32, 32, 0)}),
        (ValueError, "one width for each of the .* Received: 3 widths", {"widths": [16] * 3}),
        (ValueError, "must name growable layers .*conv99", {"widths": {"conv99": 16}}),
        (TypeError, "sequence of integers or a dictionary", {"widths": 16}),
        (TypeError, "sequence of integers or a dictionary", {"widths": "16"}),
    ],
)
def test_bad_arguments(network, error, message, arguments):
    with pytest.raises(error, match=message):
        network(**arguments)


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (ValueError, r"widths\['conv3'\].*positive integer", {"widths": {"conv3": 0}}),
        (TypeError, r"widths\['conv1'\].*positive integer", {"widths": [True] * 13}),
        (TypeError, r"widths\['conv1'\].*positive integer", {"widths": [1.5] * 13}),
    ],
)
def test_bad_widths(error, message, arguments):
    with pytest.raises(error, match=message):
        VGG16(**arguments)


@pytest.mark.parametrize("blocks", [(), 3, "33", {3: 3}])
def test_bad_blocks(blocks):
    with pytest.raises(ValueError, match="`blocks` must be a sequence"):
        ResNet(blocks=blocks)


@pytest.mark.parametrize(("blocks", "error"), [((0, 1), ValueError), ((1, 2.0), TypeError)])
def test_bad_block_counts(blocks, error):
    with pytest.raises(error, match="`blocks` must be a positive integer"):
        ResNet(blocks=blocks)
