"""Layer types of one's own grow as their users say."""

import keras
import pytest
from exact_growth import grown_both_ways, normal
from keras import layers as kl

import keras_grow
from keras_grow import GrowableModel
from keras_grow.channels.graph import find_groups
from keras_grow.channels.layer_table import ROWS
from keras_grow.methods import Net2Wider, Random


@keras.saving.register_keras_serializable("test")
class LayerScale(kl.Layer):
    """x * scale, whose class keeps no initializer."""

    def build(self, shape):
        self.scale = self.add_weight(
            shape=shape[-1:], initializer=keras.initializers.Constant(0.5), name="scale"
        )

    def call(self, inputs):
        return inputs * self.scale


@keras.saving.register_keras_serializable("test")
class StochasticDepth(kl.Layer):
    def call(self, inputs, training=None):
        kept = keras.ops.floor(keras.random.uniform((1, 1)) + 0.5)
        return 2 * inputs * kept if training else inputs


@keras.saving.register_keras_serializable("test")
class LowRank(kl.Layer):
    """A Dense of two kernels, one of which a layer within it holds."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.out = kl.Dense(width)

    def build(self, shape):
        self.down = self.add_weight(shape=(shape[-1], 2), name="down")
        self.out.build((*shape[:-1], 2))

    def call(self, inputs):
        return self.out(inputs @ self.down)

    def compute_output_shape(self, shape):
        return (*shape[:-1], self.width)

    def get_config(self):
        return {**super().get_config(), "width": self.width}


@keras.saving.register_keras_serializable("test")
class Positions(kl.Layer):
    def build(self, shape):
        self.positions = self.add_weight(shape=shape[1:], initializer="uniform", name="positions")

    def call(self, inputs):
        return inputs + self.positions


@pytest.fixture(autouse=True)
def _registered():
    before = dict(ROWS)
    yield
    ROWS.clear()
    ROWS.update(before)


def of_ones_own(a=4, b=3):
    x = inputs = keras.Input((3,))
    x = StochasticDepth()(LayerScale(name="scale")(kl.Dense(a, activation="tanh", name="a")(x)))
    return keras.Model(inputs, kl.Dense(2, name="head")(kl.Dense(b, name="b")(x)))


def test_a_scale_and_a_carrier_grow_exactly(tmp_path):
    keras_grow.register_layer(LayerScale, through={"scale": -1})
    keras_grow.register_layer(StochasticDepth)
    assert grown_both_ways(of_ones_own, normal(8, 3), normal(8, 2), tmp_path) == {"a": 6, "b": 5}


def test_fresh_channels_of_an_unknown_initializer_start_at_the_mean():
    keras_grow.register_layer(LayerScale, through={"scale": -1})
    keras_grow.register_layer(StochasticDepth)
    model = GrowableModel.from_keras(of_ones_own())
    model.compile("sgd", "mse")
    model.grow(0.5, Random(seed=0))
    assert model.get_layer("scale").scale.numpy().tolist() == [0.5] * 6


def test_a_layer_that_puts_out_channels_of_its_own_grows_exactly(tmp_path):
    keras_grow.register_layer(
        LowRank,
        input={"down": -2},
        output={"out.kernel": -1, "out.bias": -1},
        size="width",
    )

    def make(a=4, b=3):
        x = inputs = keras.Input((3,))
        x = kl.ReLU()(LowRank(b, name="b")(kl.Dense(a, activation="relu", name="a")(x)))
        return keras.Model(inputs, kl.Dense(2, name="head")(x))

    assert list(grown_both_ways(make, normal(8, 3), normal(8, 2), tmp_path)) == ["a", "b"]


@pytest.mark.parametrize("norm", [kl.LayerNormalization, kl.RMSNormalization])
@pytest.mark.quick(1)
def test_a_normalised_stream_grows_through_a_layer_that_adds(norm, tmp_path):
    def make(stream=4, b=3):
        x = inputs = keras.Input((5, 3))
        x = norm()(Positions()(kl.Dense(stream, name="stream")(x)))
        return keras.Model(inputs, kl.Dense(2, name="head")(kl.Dense(b, name="b")(x)))

    keras_grow.register_layer(Positions, through={"positions": -1})
    model = GrowableModel.from_keras(make())
    assert "does not keep their mean" in find_groups(model).groups["stream"].frozen
    keras_grow.register_layer(Positions, through={"positions": -1}, linear=True)
    x, y = normal(8, 5, 3), normal(8, 5, 2)
    assert grown_both_ways(make, x, y, tmp_path)["stream"] > 4


def test_a_layer_that_adds_draws_or_copies_what_it_adds():
    keras_grow.register_layer(Positions, through={"positions": -1}, linear=True)

    def make(a=4, b=3):
        x = inputs = keras.Input((5, 3))
        x = kl.ReLU()(Positions(name="positions")(kl.Dense(a, name="a")(x)))
        return keras.Model(inputs, kl.Dense(2, name="head")(kl.Dense(b, name="b")(x)))

    model = GrowableModel.from_keras(make())
    model.compile("sgd", "mse")
    before = model.get_layer("positions").positions.numpy()
    model.grow(0.5, Net2Wider(noise=0, seed=0))
    after = model.get_layer("positions").positions.numpy()
    assert after[:, :4].tolist() == before.tolist()
    assert all(column in before.T.tolist() for column in after.T.tolist())


def test_without_a_row_a_layer_freezes_and_says_how_to_give_it_one():
    frozen = find_groups(GrowableModel.from_keras(of_ones_own())).groups["a"].frozen
    assert frozen.endswith("isn't known: say so by `keras_grow.register_layer`")
    inputs = keras.Input((3,))
    x = kl.Lambda(lambda x: 2 * x, name="twice")(kl.Dense(4, name="a")(inputs))
    frozen = find_groups(GrowableModel(inputs, kl.Dense(2)(x))).groups["a"].frozen
    assert frozen.startswith("what `twice` (Lambda) does") and "make a layer class" in frozen


def test_what_was_left_out_of_a_registration_undoes_the_growth():
    keras_grow.register_layer(LayerScale)
    keras_grow.register_layer(StochasticDepth)
    model = GrowableModel.from_keras(of_ones_own())
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"(?s)'scale' .*The model is unchanged"):
        model.grow(0.5, Random(seed=0))
    assert model.widths == {"a": 4, "b": 3}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"through": {"scale": 0}}, "counted from the end"),
        ({"through": {"scale": "last"}}, "counted from the end"),
        ({"input": {"kernel": -2}}, "puts out others"),
        ({"through": {"scale": -1}, "output": {"kernel": -1}}, "either puts out"),
        ({"like": kl.ReLU, "through": {"scale": -1}}, "leave out"),
        ({"like": kl.ReLU, "size": "width"}, "leave out"),
        ({"like": kl.ReLU, "linear": True}, "leave out"),
    ],
)
def test_wrong_registrations_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        keras_grow.register_layer(LayerScale, **arguments)
    assert LayerScale not in ROWS


def test_keras_own_scales_have_rows(tmp_path):
    from keras.src.applications.convnext import LayerScale, StochasticDepth
    from keras.src.applications.inception_resnet_v2 import CustomScaleLayer

    def make(a=4, b=3):
        inputs = keras.Input((4, 4, 2))
        x = kl.Conv2D(a, 1, name="a")(inputs)
        y = LayerScale(0.5, a, name="scale")(kl.Conv2D(a, 1, name="y")(x))
        x = CustomScaleLayer(0.3)([x, StochasticDepth(0.1)(y)])
        x = kl.GlobalAveragePooling2D()(kl.Conv2D(b, 1, name="b")(x))
        return keras.Model(inputs, kl.Dense(2, name="head")(x))

    with keras.saving.CustomObjectScope(
        {each.__name__: each for each in (LayerScale, StochasticDepth, CustomScaleLayer)}
    ):
        grown_both_ways(make, normal(8, 4, 4, 2), normal(8, 2), tmp_path)


def test_a_subclassed_model_is_told_what_to_do():
    class Mine(keras.Model):
        def __init__(self):
            super().__init__()
            self.head = kl.Dense(2)

        def call(self, inputs):
            return self.head(inputs)

    with pytest.raises(TypeError, match=r"Call its layers on an input"):
        GrowableModel.from_keras(Mine())
