"""Models within the model: walked into, grown in place, saved, converted."""

import keras
import numpy as np
import pytest
from exact_growth import grown_both_ways, grown_exactly, normal
from keras import layers as kl
from networks import randomise, relative_change

import keras_grow
from keras_grow import GrowableModel
from keras_grow.channels.flops import forward_flops
from keras_grow.channels.graph import find_groups
from keras_grow.core import keras_private
from keras_grow.methods import Firefly, GradMax, Net2Wider, Splitting

IMAGES, Y = normal(8, 6, 6, 2), normal(8, 2, seed=1)


def named(make):
    return lambda **widths: make(**{name.replace("/", "_"): w for name, w in widths.items()})


def siamese(encoder_conv=4, encoder_emb=3, conv=3):
    """An encoder called twice; a layer in it is named like one outside."""
    image = keras.Input((6, 6, 2))
    x = kl.BatchNormalization(name="bn")(kl.Conv2D(encoder_conv, 3, name="conv")(image))
    x = kl.Flatten()(kl.ReLU()(x))
    encoder = keras.Model(image, kl.Dense(encoder_emb, name="emb")(x), name="encoder")
    a, b = keras.Input((6, 6, 2)), keras.Input((6, 6, 2))
    x = kl.Subtract()([encoder(a), encoder(b)])
    x = kl.Dense(conv, activation="relu", name="conv")(x)
    return keras.Model([a, b], kl.Dense(2, name="head")(x))


def transfer(backbone_c1=4, backbone_c2=3, hidden=3):
    """A backbone for images of any size, called as one that is not trained."""
    image = keras.Input((None, None, 2))
    x = kl.Conv2D(backbone_c1, 3, use_bias=False, name="c1")(image)
    x = kl.ReLU()(kl.BatchNormalization(name="bn")(x))
    x = kl.Conv2D(backbone_c2, 3, activation="relu", name="c2")(x)
    backbone = keras.Model(image, x, name="backbone")
    inputs = keras.Input((6, 6, 2))
    x = kl.GlobalAveragePooling2D()(backbone(kl.Rescaling(2.0)(inputs), training=False))
    x = kl.Dense(hidden, activation="relu", name="hidden")(x)
    return keras.Model(inputs, kl.Dense(2, name="head")(x))


def deep(d=4, outer_inner_d=3, outer_inner_e=3, outer_d=3):
    """A Sequential model in a Sequential model, after a layer that grows."""
    hidden = kl.Dense(outer_inner_d, activation="relu", name="d")
    inner = keras.Sequential([hidden, kl.BatchNormalization(), kl.Dense(outer_inner_e, name="e")])
    inner.name = "inner"
    outer = keras.Sequential([inner, kl.ReLU(), kl.Dense(outer_d, name="d")], name="outer")
    inputs = keras.Input((4,))
    x = outer(kl.Dense(d, activation="relu", name="d")(inputs))
    return keras.Model(inputs, kl.Dense(2, name="head")(x))


def video(td_conv=3, rnn=3):
    """A model called at each step."""
    image = keras.Input((6, 6, 2))
    x = kl.BatchNormalization()(kl.Conv2D(td_conv, 3, activation="relu", name="conv")(image))
    encoder = keras.Model(image, kl.GlobalAveragePooling2D()(x))
    inputs = keras.Input((2, 6, 6, 2))
    x = kl.GRU(rnn, name="rnn")(kl.TimeDistributed(encoder, name="td")(inputs))
    return keras.Model(inputs, kl.Dense(2, name="head")(x))


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("make", "x", "groups"),
    [
        (siamese, [IMAGES, IMAGES[::-1].copy()], "encoder/conv encoder/emb conv"),
        (transfer, IMAGES, "backbone/c1 backbone/c2 hidden"),
        (deep, normal(8, 4), "d outer/inner/d outer/inner/e outer/d"),
    ],
    ids=["siamese", "transfer", "deep"],
)
def test_models_within_the_model_grow_exactly(make, x, groups, tmp_path):
    assert list(grown_both_ways(named(make), x, Y, tmp_path)) == groups.split()


def test_a_model_called_at_each_step_grows_exactly(tmp_path):
    model = grown_exactly(named(video), normal(8, 2, 6, 6, 2), Y, tmp_path)
    assert list(model.widths) == ["td/conv", "rnn"]


def test_the_report_names_layers_by_path():
    rows = GrowableModel.from_keras(siamese()).growth_report().rows
    assert [row.layer for row in rows if row.kind.startswith("Growable")] == [
        "encoder/conv",
        "encoder/bn",
        "encoder/emb",
        "conv",
        "head",
    ]
    assert [row.group for row in rows if row.layer.endswith("conv")] == ["encoder/conv", "conv"]


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    "method",
    [Firefly(seed=0), GradMax(seed=0, batches=1), Splitting(seed=0, iterations=2)],
    ids=lambda method: method.name,
)
def test_methods_see_into_models(method):
    model = GrowableModel.from_keras(transfer())
    model.compile("sgd", "mse")
    before = model.evaluate(IMAGES, Y, verbose=0)
    event = model.grow(0.4, method, data=(IMAGES, Y))
    assert event.unhelpful == 0 or method.name != "splitting"
    after = model.evaluate(IMAGES, Y, verbose=0)
    if method.name == "firefly":
        assert after < before
    if method.name == "gradmax":
        np.testing.assert_allclose(after, before, rtol=1e-4)
        norm = model.get_layer("backbone").get_layer("bn")
        fresh = norm.moving_mean.numpy()[4:]
        assert np.all(fresh != 0)  # measured, on what goes in there


def test_variables_of_one_path_are_told_apart():
    graph = find_groups(GrowableModel.from_keras(siamese()))
    paths = [item.path for item in graph.variables]
    assert len(set(paths)) == len(paths)
    assert {"encoder/conv/kernel", "conv/kernel"} <= set(paths)


def test_a_model_that_is_also_used_elsewhere_follows():
    image = keras.Input((4,))
    x = kl.Dense(3, activation="relu", name="a")(image)
    encoder = keras.Model(image, kl.Dense(3, name="b")(x), name="encoder")
    encoder.compile("adam", "mse")
    x = normal(8, 4)
    encoder.fit(x, normal(8, 3), verbose=0)
    inputs = keras.Input((4,))
    extractor = keras.Model(inputs, encoder(inputs))
    model = GrowableModel(inputs, kl.Dense(2)(encoder(inputs)))
    model.compile("adam", "mse")
    model.grow(0.5, "random")
    wide = model.widths["encoder/b"]
    assert wide > 3
    assert encoder.output_shape == extractor.output_shape == (None, wide)
    assert extractor.predict(x, verbose=0).shape == (8, wide)
    shapes = [v.shape for v in encoder.trainable_variables]
    assert [v.shape for v in encoder.optimizer.variables[2::2]] == shapes
    encoder.fit(x, normal(8, wide), verbose=0)  # with its own optimizer, at its new width


def test_who_could_not_follow_keeps_the_model_from_growing():
    encoder = keras.Sequential([keras.Input((4,)), kl.Dense(3, name="b")], name="encoder")
    inputs = keras.Input((4,))
    other = keras.Model(inputs, kl.Dense(1)(encoder(inputs)), name="other")
    model = GrowableModel(inputs, kl.Dense(2)(encoder(inputs)))
    model.compile("adam", "mse")
    with pytest.raises(ValueError, match="Model `other` shares layers"):
        model.grow(0.5, "random")
    assert encoder.output_shape == (None, 3) and model.widths == {"encoder/b": 3}
    assert other.predict(normal(2, 4), verbose=0).shape == (2, 1)


def test_weights_and_growths_go_back_and_on(tmp_path):
    model = GrowableModel.from_keras(randomise(deep()))
    model.compile("adam", "mse")
    x = normal(8, 4)
    before, narrow = model(x), model.get_weights()
    event = model.grow(0.5, Net2Wider(noise=0, seed=0))
    widened = model.widen_weights(narrow, since=event)
    for value, weight in zip(widened, model.get_weights(), strict=True):
        np.testing.assert_allclose(value, weight, rtol=1e-6)
    wide = model.get_weights()
    model.set_weights(narrow)
    np.testing.assert_array_equal(model(x), before)
    path = str(tmp_path / "narrow.weights.h5")
    model.save_weights(path)
    model.set_weights(wide)
    assert relative_change(before, model(x)) < 1e-4
    with pytest.raises(ValueError, match="are of a model of other widths: "):
        model.load_weights(path)


@pytest.mark.long
def test_a_run_with_a_model_in_it_goes_on(tmp_path):
    def run(epochs):
        keras.utils.set_random_seed(0)
        model = GrowableModel.from_keras(deep())
        model.compile("adam", "mse", run_eagerly=True)
        grow = keras_grow.GrowthCallback(0.5, every=1, method="net2wider", penalty=None, verbose=0)
        backup = keras_grow.GrowthBackup(tmp_path, delete_checkpoint=False)
        model.fit(normal(8, 4), Y, epochs=epochs, verbose=0, callbacks=[grow, backup])
        return model

    run(2)
    resumed = run(3)
    assert [event.epoch for event in resumed.growth_history] == [1, 2]


def test_a_frozen_backbone_stays():
    plain = transfer()
    plain.get_layer("backbone").trainable = False
    model = GrowableModel.from_keras(plain)
    assert list(model.widths) == ["hidden"]
    assert find_groups(model).groups["backbone/c2"].frozen == "`c2` is not trainable"


def test_what_can_not_be_walked_into_freezes():
    @keras.saving.register_keras_serializable("test")
    class Twice(keras.Model):
        def call(self, inputs):
            return 2 * super().call(inputs)

    image = keras.Input((4,))
    inner = Twice(image, kl.Dense(3)(image), name="inner")
    inputs = keras.Input((4,))
    x = inner(kl.Dense(4, name="hidden")(inputs))
    model = GrowableModel(inputs, kl.Dense(2)(x))
    reason = find_groups(model).groups["hidden"].frozen
    assert reason.startswith("what `inner` (Twice) does to its channels isn't known")
    assert model.widths == {}


def test_a_model_that_hands_on_what_comes_in_grows_exactly(tmp_path):
    def make(hidden=4, inner_d=3):
        image = keras.Input((hidden,))
        x = kl.Dense(inner_d, name="d")(image)
        inner = keras.Model(image, [image, x, x], name="inner")
        inputs = keras.Input((4,))
        x = kl.Concatenate()(inner(kl.Dense(hidden, name="hidden")(inputs)))
        return keras.Model(inputs, kl.Dense(2)(x))

    model = grown_exactly(named(make), normal(8, 4), Y, tmp_path)
    assert list(model.widths) == ["hidden", "inner/d"]


def test_calls_and_costs_are_those_of_the_layers():
    model = siamese()
    names = [call.name for call in keras_private.calls_of(model)]
    assert names.count("encoder/conv") == 2 and names[-1] == "head" and "encoder" not in names
    _, values = keras_private.run_calls(model, [IMAGES, IMAGES])
    np.testing.assert_allclose(
        values[id(model.outputs[0])], model([IMAGES, IMAGES]), rtol=1e-5, atol=1e-6
    )
    convolution, dense = 9 * 2 * 4 * 16, 64 * 3
    assert forward_flops(model) == 2 * (2 * (convolution + dense) + 3 * 3 + 3 * 2)
