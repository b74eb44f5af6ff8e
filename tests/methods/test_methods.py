"""The plug-in point of the growth methods, and those that need no data."""

import keras
import numpy as np
import pytest
from networks import NETWORKS, batch, depthwise_cnn, mlp, plain_cnn, randomise, relative_change

from keras_grow import GrowableModel, GrowthCallback, GrowthMethod, Widening, methods
from keras_grow.channels.budget import plan_budget
from keras_grow.channels.graph import find_groups
from keras_grow.layers import GrowableBatchNormalization, GrowableConv2D, GrowableDense
from keras_grow.methods import Net2Wider, Random
from keras_grow.methods.gradmax.method import GradMax

WITHOUT_DATA = {
    "zero": Random("zero", seed=3),
    "small": Random("small", seed=3),
    "variance": Random("variance", seed=3),
    "net2wider": Net2Wider(seed=3),
    "exact": Net2Wider(noise=0, seed=3),
}


def compiled(model):
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "mse")
    return model


def twin_of(model):
    twin = GrowableModel.from_config(model.get_config())
    twin.set_weights(model.get_weights())
    return compiled(twin)


# Names and configurations


@pytest.mark.parametrize("name", methods.NAMES)
def test_methods_go_by_their_names(name):
    method = methods.get(name)
    assert method.name == name and methods.get(method) is method


def test_unknown_methods_are_refused():
    with pytest.raises(ValueError, match=r"Known methods: \['random', 'net2wider'.*fireflies"):
        methods.get("fireflies")
    with pytest.raises(TypeError, match="name of a growth method or a `GrowthMethod` instance"):
        methods.get(Random)


@pytest.mark.parametrize(
    "method",
    [*(methods.get(name) for name in methods.NAMES), *WITHOUT_DATA.values(), GradMax("incoming")],
    ids=lambda method: method.name,
)
def test_a_configuration_makes_an_equal_method(method):
    again = type(method).from_config(method.get_config())
    assert again.get_config() == method.get_config()
    assert vars(again) == vars(method)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Random("none"), "`outgoing` must be one of"),
        (lambda: Random(seed=-1), "`seed` must be an integer of at least 0"),
        (lambda: Net2Wider(noise=-0.1), "`noise` must be a finite number of at least 0"),
        (lambda: Net2Wider(noise=float("nan")), "`noise` must be a finite number of at least 0"),
        (lambda: Net2Wider(seed=1.5), "`seed` must be an integer of at least 0"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# A method of one's own


class Loudest(GrowthMethod):
    """Doubles the groups whose channels vary most, until the budget is used up."""

    name = "loudest"
    needs_data = True

    def __init__(self, batches=2, seed=None):
        super().__init__(seed)
        self.batches = batches

    def get_config(self):
        return {**super().get_config(), "batches": self.batches}

    def choose(self, graph, budget, rng, data=None):
        model, left, widenings = graph.model, budget.neurons, []
        probe = keras.Model(model.input, [model.get_layer(name).output for name in budget.widths])
        loudness = np.zeros(len(budget.widths))
        for x, *_ in data.batches(self.batches, rng):
            loudness += [np.std(value) for value in probe(x)]
        for _, name in sorted(zip(-loudness, budget.widths, strict=True)):
            width = budget.widths[name]
            added = int(min(left, budget.room[name], width))
            if added:
                sources = np.r_[np.arange(width), rng.permutation(width)[:added]]
                copies = np.bincount(sources)
                widenings.append(Widening(name, sources, 1 / copies[sources]))
                left -= added
        return widenings


def test_a_method_of_thirty_lines_grows_a_model_within_fit():
    model = compiled(plain_cnn())
    x = batch(model, 16)
    y = np.random.default_rng(0).normal(size=(16, 3)).astype("float32")
    method = Loudest(seed=1)
    callback = GrowthCallback(0.4, every=1, method=method, penalty=None, verbose=0)
    model.fit(x, y, batch_size=8, epochs=3, callbacks=[callback], verbose=0)
    assert [event.neurons_after for event in model.growth_history] == [21, 29]
    assert {event.method for event in model.growth_history} == {"loudest"}
    assert Loudest.from_config(method.get_config()).get_config() == {"seed": 1, "batches": 2}


class Misbehaving(GrowthMethod):
    name = "misbehaving"

    def __init__(self, widenings):
        super().__init__(seed=0)
        self.widenings = widenings

    def choose(self, graph, budget, rng, data=None):
        return self.widenings


@pytest.mark.parametrize(
    ("widenings", "message"),
    [
        ([Widening("hidden0", [0, 1, 2, 3, 0, 1])], "must add at most 1 neurons. Received: 2"),
        ([Widening("hidden0", [0])] * 2, "two widenings of group 'hidden0'"),
        ([Widening("hidden1", [0, 1, 2, 3])], "`sources` of group 'hidden1' must lie between"),
    ],
)
def test_methods_are_held_to_their_budget(widenings, message):
    model = compiled(mlp())
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        model.grow(0.2, Misbehaving(widenings))
    assert model.growth_history == []
    assert all(map(np.array_equal, before, model.get_weights()))


def test_a_method_must_choose():
    with pytest.raises(NotImplementedError, match="GrowthMethod must override `choose`"):
        GrowthMethod(seed=1).choose(None, None, None)


# Budgets


@pytest.mark.parametrize("method", WITHOUT_DATA.values(), ids=WITHOUT_DATA)
@pytest.mark.parametrize("name", ["plain", "dense"])
@pytest.mark.parametrize(
    "limits",
    [{}, {"max_widths": 7}, {"max_params": 1200}, {"max_widths": 8, "max_params": 800}],
    ids=str,
)
def test_what_is_chosen_is_the_budget_to_the_neuron(name, method, limits):
    graph = find_groups(NETWORKS[name]())
    for rate in (0.1, 0.35, 1.3):
        budget = plan_budget(graph, rate, **limits)
        chosen = method.choose(graph, budget, np.random.default_rng(0))
        added = {w.group: w.width - budget.widths[w.group] for w in chosen}
        assert added == {group: count for group, count in budget.spread().items() if count}


# Random numbers


@pytest.mark.parametrize("method", WITHOUT_DATA.values(), ids=WITHOUT_DATA)
@pytest.mark.quick(2)
def test_the_same_seed_grows_the_same_whatever_was_drawn_elsewhere(method):
    model = randomise(compiled(depthwise_cnn()))
    grown = []
    for elsewhere in (5, 6):
        keras.utils.set_random_seed(elsewhere)
        twin = twin_of(model)
        before = np.random.get_state()[1].copy()
        for _ in range(2):
            twin.grow(0.5, type(method).from_config(method.get_config()))
        assert np.array_equal(before, np.random.get_state()[1])
        grown.append(twin.get_weights())
    for first, second in zip(*grown, strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("kind", [Random, Net2Wider])
def test_other_seeds_and_later_growths_draw_anew(kind):
    model = compiled(mlp(hidden=(4,)))
    kernels = []
    for seed in (1, 2):
        twin = twin_of(model)
        for _ in range(2):
            twin.grow(1.0, kind(seed=seed))
        kernels.append(twin.get_layer("hidden0").kernel.numpy())
    first, second = kernels
    assert np.any(first[:, 4:8] != second[:, 4:8])
    assert np.any(first[:, 4:8] != first[:, 8:12])


def test_the_seed_comes_from_pythons_random_state():
    seeds = []
    for seed in (1, 1, 2):
        keras.utils.set_random_seed(seed)
        seeds.append(methods.get("random").seed)
    assert seeds[0] == seeds[1] != seeds[2]


# Random


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.quick(2)
def test_zero_outgoing_weights_change_nothing_and_small_ones_little(name):
    model = randomise(compiled(NETWORKS[name]()))
    x = batch(model)
    before = model(x, training=False).numpy()
    changes = {}
    for outgoing in ("zero", "small"):
        twin = twin_of(model)
        twin.grow(0.5, Random(outgoing, seed=1))
        changes[outgoing] = relative_change(before, twin(x, training=False).numpy())
    assert changes["zero"] < 1e-6 < changes["small"] < 0.2


@keras.saving.register_keras_serializable("test_methods")
class Sevens(keras.initializers.Initializer):
    """An initializer of the user's, without a seed."""

    def __call__(self, shape, dtype=None):
        return keras.ops.full(shape, 7.0, dtype)


@keras.saving.register_keras_serializable("test_methods")
class Coins(keras.initializers.Initializer):
    """An initializer of the user's, with a seed."""

    def __init__(self, size=3.0, seed=None):
        self.size, self.seed = size, seed

    def __call__(self, shape, dtype=None):
        coins = np.random.default_rng(self.seed).integers(0, 2, shape)
        return keras.ops.convert_to_tensor(self.size * (2 * coins - 1), dtype)

    def get_config(self):
        return {"size": self.size, "seed": self.seed}


@keras.saving.register_keras_serializable("test_methods")
def nines(shape, dtype=None):
    return keras.ops.full(shape, 9.0, dtype)


def fresh_kernel(initializer, count=40, **kwargs):
    """Returns what a growth adds to a kernel of the given initializer."""
    model = compiled(mlp(inputs=50, hidden=(count,), kernel_initializer=initializer, **kwargs))
    model.grow(1.0, Random(seed=1))
    return model.get_layer("hidden0").kernel.numpy()[:, count:]


def test_fresh_weights_follow_the_layers_initializer():
    assert np.all(fresh_kernel(Sevens()) == 7)
    assert np.all(fresh_kernel(nines) == 9)
    coins = fresh_kernel(Coins(2.0, seed=4))
    assert set(np.unique(coins)) == {-2, 2} and abs(np.mean(coins)) < 0.2
    uniform = fresh_kernel(keras.initializers.RandomUniform(1, 2, seed=5))
    assert uniform.min() >= 1 and uniform.max() <= 2 and np.std(uniform) > 0.2
    he = fresh_kernel("he_normal")
    np.testing.assert_allclose(np.std(he), np.sqrt(2 / 50), rtol=0.1)


def test_an_initializer_with_a_seed_does_not_repeat_itself():
    """The layer's seed would draw the first neurons again."""
    seeded = keras.initializers.RandomNormal(seed=3)
    model = compiled(mlp(hidden=(4,), kernel_initializer=seeded))
    for _ in range(2):
        model.grow(1.0, Random(seed=1))
    kernel = model.get_layer("hidden0").kernel.numpy()
    cosines = np.corrcoef(kernel.T) - np.eye(16)
    assert np.max(np.abs(cosines)) < 1 - 1e-6


def test_all_that_a_fresh_channel_runs_through_is_initialized():
    tensor = keras.Input((6, 6, 2))
    x = GrowableConv2D(3, 3, name="a", bias_initializer=Sevens())(tensor)
    x = GrowableBatchNormalization(
        name="bn", gamma_initializer=keras.initializers.Constant(0.5), beta_initializer=nines
    )(x)
    x = keras.layers.PReLU(shared_axes=(1, 2), alpha_initializer=Sevens(), name="prelu")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = compiled(GrowableModel(tensor, keras.layers.Dense(2)(x)))
    model.grow(1.0, Random(seed=1))
    assert np.all(model.get_layer("a").bias.numpy() == 7)
    norm = model.get_layer("bn")
    assert np.all(norm.gamma.numpy() == 0.5) and np.all(norm.beta.numpy() == 9)
    assert not np.any(norm.moving_mean.numpy()) and np.all(norm.moving_variance.numpy() == 1)
    assert np.all(model.get_layer("prelu").alpha.numpy() == 7)


def test_depthwise_kernels_follow_their_initializer():
    model = depthwise_cnn()
    config = model.get_config()
    for layer in config["layers"]:
        if layer["config"]["name"] == "dw":
            coins = keras.saving.serialize_keras_object(Coins(2.0))
            layer["config"]["depthwise_initializer"] = coins
    model = compiled(GrowableModel.from_config(config))
    model.grow(1.0, Random(seed=1))
    kernel = model.get_layer("dw").kernel.numpy()
    assert kernel.shape == (3, 3, 8, 2)
    assert set(np.unique(kernel[:, :, 4:])) == {-2, 2}


def moments(model, x, names):
    """Returns layer -> (variance of what it puts out, over examples and positions; by channel)."""
    probe = keras.Model(model.input, [model.get_layer(name).output for name in names])
    outputs = (value.numpy() for value in probe(x, training=False))
    return [value.reshape(-1, value.shape[-1]).var(axis=0) for value in outputs]


def variance_network(kind):
    tensor = x = keras.Input((30,) if kind == "dense" else (5, 5, 8))
    for number in range(2):
        if kind == "dense":
            x = GrowableDense(60, "relu", kernel_initializer="he_normal", name=f"h{number}")(x)
        else:
            x = GrowableConv2D(40, 3, padding="same", use_bias=False, name=f"h{number}")(x)
            x = GrowableBatchNormalization(momentum=0.0)(x)
            x = keras.layers.ReLU()(x)
    if kind == "conv":
        x = keras.layers.Flatten()(x)
    return compiled(GrowableModel(tensor, keras.layers.Dense(40, name="head")(x)))


@pytest.mark.parametrize("kind", ["dense", "conv"])
def test_variance_keeps_the_variance(kind):
    """Of every layer's sums, of what fresh neurons put out, and so of the outputs."""
    ratios = []
    for seed in range(4):
        keras.utils.set_random_seed(seed)
        model = variance_network(kind)
        x = batch(model, 100, seed)
        for layer in model.layers:  # larger than drawn, as if trained
            if hasattr(layer, "kernel"):
                layer.kernel.assign(1.7 * layer.kernel)
        model(x, training=True)  # statistics of the data
        before = moments(model, x, ["h0", "h1", "head"])
        widths = model.widths
        model.grow(0.6, Random("variance", seed=seed))
        after = moments(model, x, ["h0", "h1", "head"])
        fresh = [after[i][widths[name] :].mean() for i, name in enumerate(("h0", "h1"))]
        old = [value.mean() for value in before]
        ratios.append(
            [*np.divide([value.mean() for value in after], old), *np.divide(fresh, old[:2])]
        )
    np.testing.assert_allclose(np.mean(ratios, axis=0), 1, atol=0.15)


def test_variance_takes_statistics_and_biases_of_the_present_neurons():
    model = randomise(compiled(depthwise_cnn()))
    present = {v.path: v.numpy() for v in model.variables}
    model.grow(1.0, Random("variance", seed=1))
    for name in ("stem_bn/moving_variance", "stem_bn/gamma", "dw_bn/moving_mean", "stem/bias"):
        value = next(v.numpy() for v in model.variables if v.path == name)
        fresh = value[len(present[name]) :]
        np.testing.assert_allclose(fresh, np.mean(present[name]), rtol=1e-5)
    kernel, before = model.get_layer("dw").kernel.numpy(), present["dw/kernel"]
    np.testing.assert_allclose(np.mean(kernel[:, :, 4:] ** 2), np.mean(before**2), rtol=1e-5)


def test_variance_scales_all_outgoing_weights():
    model = compiled(mlp(hidden=(40,), outputs=30))
    before = model.get_layer("head").kernel.numpy()
    model.grow(0.5, Random("variance", seed=1))
    after = model.get_layer("head").kernel.numpy()
    np.testing.assert_allclose(after[:40], before * np.sqrt(2 / 3), rtol=1e-6)
    np.testing.assert_allclose(np.mean(after**2), np.mean(before**2) * 2 / 3, rtol=1e-5)


def test_variance_without_weights_to_go_by():
    model = compiled(mlp(hidden=(3,), kernel_initializer="zeros"))
    model.get_layer("head").kernel.assign(np.zeros((3, 2)))
    model.grow(1.0, Random("variance", seed=1))
    assert not np.any(model.get_layer("hidden0").kernel.numpy())
