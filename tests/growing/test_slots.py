"""Optimizer slots through a growth: every optimizer that Keras ships."""

import keras
import numpy as np
import pytest
from networks import batch, mlp, plain_cnn

import keras_grow
from keras_grow.backend import vjp
from keras_grow.channels.graph import find_groups
from keras_grow.core import keras_private
from keras_grow.core.widening import Widening
from keras_grow.growing.resizing import widen_model
from keras_grow.methods import Net2Wider, Random

optimizers = keras.optimizers

OPTIMIZERS = {
    "sgd": lambda: optimizers.SGD(0.01),
    "momentum": lambda: optimizers.SGD(0.01, momentum=0.9),
    "nesterov": lambda: optimizers.SGD(0.01, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adam": lambda: optimizers.Adam(0.001),
    "amsgrad": lambda: optimizers.Adam(0.001, amsgrad=True),
    "adamw": lambda: optimizers.AdamW(0.001),
    "adamax": lambda: optimizers.Adamax(0.001),
    "nadam": lambda: optimizers.Nadam(0.001),
    "rmsprop": lambda: optimizers.RMSprop(0.001),
    "centered": lambda: optimizers.RMSprop(0.001, momentum=0.9, centered=True),
    "adagrad": lambda: optimizers.Adagrad(0.01),
    "adadelta": lambda: optimizers.Adadelta(1.0),
    "adafactor": lambda: optimizers.Adafactor(0.01),
    "ftrl": lambda: optimizers.Ftrl(
        0.01, l1_regularization_strength=1e-5, l2_regularization_strength=1e-4
    ),
    "lion": lambda: optimizers.Lion(0.0001),
    "lamb": lambda: optimizers.Lamb(0.001),
    "loss_scale": lambda: optimizers.LossScaleOptimizer(optimizers.Adam(0.001)),
    "ema": lambda: optimizers.SGD(0.01, momentum=0.9, use_ema=True, ema_momentum=0.9),
    "accumulation": lambda: optimizers.Adam(0.001, gradient_accumulation_steps=2),
    "clipped": lambda: optimizers.Adam(0.001, global_clipnorm=1.0),
}
if hasattr(optimizers, "Muon"):
    OPTIMIZERS["muon"] = lambda: optimizers.Muon(0.001)
if hasattr(optimizers, "ScheduleFreeAdamW"):
    OPTIMIZERS["schedule_free"] = lambda: optimizers.ScheduleFreeAdamW(0.001)
if hasattr(optimizers, "MultiOptimizer"):
    OPTIMIZERS["multi"] = lambda: optimizers.MultiOptimizer(
        optimizers.OptimizerMap(
            optimizers.SGD(0.01, momentum=0.9), {"c/.*": optimizers.Adam(0.001)}
        )
    )


def trained(make, epochs=2):
    model = plain_cnn(dropout=0)
    model.compile(make(), "mse")
    # ScheduleFreeAdamW copies the weights when it is built, which `fit` does symbolically.
    model.optimizer.build(model.trainable_variables)
    x = batch(model, 16)
    y = np.random.default_rng(1).normal(size=(16, 3)).astype("float32")
    model.fit(x, y, batch_size=8, epochs=epochs, verbose=0)
    return model, x, y


def test_every_optimizer_that_keras_ships_is_tested():
    abstract = {"Optimizer", "TFOptimizer"}
    shipped = {
        name
        for name in dir(optimizers)
        if isinstance(getattr(optimizers, name), type)
        and issubclass(getattr(optimizers, name), optimizers.Optimizer)
        and name not in abstract
    }
    tested = set()
    for make in OPTIMIZERS.values():
        tested |= {type(part).__name__ for part in keras_private.optimizers_of(make())}
    assert tested >= shipped


# Keras 3.15 on JAX can't overwrite weights by their averages in a second `fit`, grown or not.
TRAINED = [
    pytest.param(name, marks=pytest.mark.tensorflow) if name == "ema" else name
    for name in OPTIMIZERS
]


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.quick(2)
def test_every_variable_trains_after_a_growth(name):
    model, x, y = trained(OPTIMIZERS[name])
    iterations = int(model.optimizer.iterations)
    model.grow(0.5, "net2wider")
    before = [v.numpy() for v in model.trainable_variables]
    model.fit(x, y, batch_size=8, epochs=1, verbose=0)  # two steps: one accumulated one
    for variable, old in zip(model.trainable_variables, before, strict=True):
        assert np.all(np.isfinite(variable.numpy())), variable.path
        assert np.any(variable.numpy() != old), variable.path
    assert int(model.optimizer.iterations) > iterations
    shapes = {
        part: keras_private.slots_of(part) for part in keras_private.optimizers_of(model.optimizer)
    }
    for part, slots in shapes.items():
        for slot_name, values in slots.items():
            for slot, v in zip(values, keras_private.trained_variables(part), strict=True):
                if slot is not None and slot_name not in ("_r", "_c"):
                    assert slot.shape == v.shape == slot.value.shape, (slot_name, v.path)


# Slots that hold weights, or factors of a matrix: they have tests of their own below.
NOT_OF_GRADIENTS = {
    "ema": {"_model_variables_moving_average"},
    "schedule_free": {"_momentums"},
    "ftrl": {"_linears"},
    "adafactor": {"_r", "_c", "_v"},  # `_v` of a matrix is made of its factors at each step
}


def gradients(model, x, y):
    """The gradients that a training step hands to the optimizer."""
    variables = model.trainable_variables

    def loss(*values):
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
            task = model.compute_loss(y=y, y_pred=model(x, training=True))
            return model.optimizer.scale_loss(task)

    value, pullback = vjp(loss, [v.value for v in variables])
    return pullback(keras.ops.ones_like(value))


# Keras 3.15 on JAX can't apply a `LossScaleOptimizer` outside of a compiled step.
SEEN = [
    pytest.param(name, marks=pytest.mark.tensorflow) if name == "loss_scale" else name
    for name in OPTIMIZERS
    if name != "clipped"
]


# Clipping by the norm of all gradients together makes every slot depend on every other weight.
@pytest.mark.parametrize("name", SEEN)
@pytest.mark.quick(4)
def test_slots_are_those_of_an_optimizer_that_saw_the_grown_network(name):
    """Each step's gradients are taken at the small and at the grown network, by differentiation.

    Both optimizers see the gradients of the same function of their weights: the grown network's
    weights are put to the widened ones before each step. Then the small network grows.
    """
    sources, scale = [0, 1, 2, 0, 0], np.array([1.2, 1, 1, -0.5, 0.3])
    small, grown = mlp(hidden=(3, 2)), mlp(hidden=(5, 2))
    for model in (small, grown):
        optimizer = OPTIMIZERS[name]()
        for part in keras_private.optimizers_of(optimizer):
            if hasattr(part, "epsilon"):  # it keeps the size of the gradient from cancelling
                part.epsilon = 1e-30
        model.compile(optimizer, "mse")
        optimizer.build(model.trainable_variables)
    rng = np.random.default_rng(0)
    for _ in range(3):
        kernel, bias, after, *rest = [v.numpy() for v in small.trainable_variables]
        after = after[sources] * scale[:, None]
        values = [kernel[:, sources], bias[sources], after, *rest]
        for variable, value in zip(grown.trainable_variables, values, strict=True):
            variable.assign(value)
        x, y = rng.normal(size=(4, 5)), rng.normal(size=(4, 2))
        for model in (small, grown):
            model.optimizer.apply(gradients(model, x, y), model.trainable_variables)
    widen_model(small, find_groups(small), [Widening("hidden0", sources, scale)])
    parts = [list(keras_private.optimizers_of(m.optimizer)) for m in (small, grown)]
    for a, b in zip(*parts, strict=True):
        for slot, values in keras_private.slots_of(a).items():
            if slot in NOT_OF_GRADIENTS.get(name, ()):
                continue
            expected = keras_private.slots_of(b)[slot]
            for got, wanted in zip(values, expected, strict=True):
                if got is not None:
                    np.testing.assert_allclose(
                        got.numpy(), wanted.numpy(), rtol=2e-4, atol=1e-7, err_msg=slot
                    )


def own_momentum(base=keras.optimizers.SGD):
    """An optimizer class with a slot that Keras's optimizers don't have."""

    class Own(base):
        def build(self, variables):
            super().build(variables)
            self.my_slot = self.add_optimizer_variables(variables, "mine")

        def update_step(self, gradient, variable, learning_rate):
            self.assign(self.my_slot[self._get_variable_index(variable)], gradient)
            super().update_step(gradient, variable, learning_rate)

    return Own


def test_an_unknown_slot_is_refused_and_nothing_changes():
    kind = own_momentum()
    model, _, _ = trained(lambda: kind(0.1), epochs=1)
    before = [v.numpy() for v in model.variables + model.optimizer.variables]
    with pytest.raises(ValueError, match=r"register_slot\(Own, 'my_slot', like='gradient'\)"):
        model.grow(0.5, "net2wider")
    after = [v.numpy() for v in model.variables + model.optimizer.variables]
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("like", "power"), [("gradient", 1), ("squared_gradient", 2)])
def test_a_registered_slot_grows_along(like, power):
    kind = own_momentum()
    keras_grow.register_slot(kind, "my_slot", like=like)
    model, x, y = trained(lambda: kind(0.1), epochs=1)
    before = model.optimizer.my_slot[0].numpy()
    widen_model(model, find_groups(model), [Widening("a", [0, 1, 2, 3, 0], [0.5, 1, 1, 1, 0.5])])
    after = model.optimizer.my_slot[0].numpy()
    np.testing.assert_allclose(after[..., 4], before[..., 0] * 0.5**power)
    model.fit(x, y, verbose=0)


def test_a_subclass_without_slots_of_its_own_grows():
    class Quiet(keras.optimizers.Adam):
        pass

    model, _, _ = trained(lambda: Quiet(0.01), epochs=1)
    assert model.grow(0.5, "net2wider").neurons_after > 15


def test_slots_of_another_shape_are_refused():
    class Rows(keras.optimizers.SGD):
        def build(self, variables):
            super().build(variables)
            self.rows = [self.add_variable((2,), name=f"r{i}") for i in range(len(variables))]
            self.counts = [self.add_variable((), name=f"c{i}") for i in range(len(variables))]

    keras_grow.register_slot(Rows, "rows", like="update")
    model, _, _ = trained(lambda: Rows(0.1), epochs=1)
    with pytest.raises(ValueError, match=r"Slot 'rows' .* must have the shape of its variable"):
        model.grow(0.5, "net2wider")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((keras.optimizers.SGD(), "x", "gradient"), TypeError, "must be a class of Keras"),
        ((keras.layers.Dense, "x", "gradient"), TypeError, "must be a class of Keras"),
        ((keras.optimizers.SGD, "x", "momentum"), ValueError, "`like` must be one of"),
    ],
)
def test_wrong_registrations_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        keras_grow.register_slot(*arguments)


class _Recorder:
    """A copy and its original, after a growth in which nothing else changes."""

    def __init__(self, name):
        self.model, self.x, self.y = trained(OPTIMIZERS[name])
        self.graph = find_groups(self.model)

    def split_first_of(self, group):
        width = self.graph.groups[group].width
        scale = np.r_[0.5, np.ones(width - 1), 0.5]
        widen_model(self.model, self.graph, [Widening(group, [*range(width), 0], scale)])
        return width


# Optimizers whose step does not depend on the size of the gradient: both copies of a neuron must
# then move exactly as the original would have moved without the growth.
@pytest.mark.parametrize("name", ["adam", "amsgrad", "adamw", "rmsprop", "centered", "adamax"])
@pytest.mark.quick(1)
def test_copies_move_as_the_original_would_have(name):
    still, grown = _Recorder(name), _Recorder(name)
    for a, b in zip(still.model.variables, grown.model.variables, strict=True):
        b.assign(a.numpy().copy())
    for a, b in zip(still.model.optimizer.variables, grown.model.optimizer.variables, strict=True):
        b.assign(a.numpy().copy())
    new = grown.split_first_of("a")
    for each in (still, grown):
        each.model.train_on_batch(each.x, each.y)
    a, b = still.model.get_layer("a").kernel.numpy(), grown.model.get_layer("a").kernel.numpy()
    np.testing.assert_allclose(b[..., 0], b[..., new], atol=1e-6)


def test_a_slot_takes_the_power_of_its_gradient():
    """SGD's momentum against the gradients themselves, Adam's velocity against their squares."""
    record = _Recorder("adam")
    model = record.model
    slots = keras_private.slots_of(model.optimizer)
    kernels = {v.path: i for i, v in enumerate(model.trainable_variables)}
    into, out_of = kernels["a/kernel"], kernels["b/kernel"]
    before = {name: [s.numpy() for s in values] for name, values in slots.items()}
    new = record.split_first_of("a")
    after = {name: [s.numpy() for s in values] for name, values in slots.items()}
    m, v = "_momentums", "_velocities"
    for copy in (0, new):
        np.testing.assert_allclose(after[m][into][..., copy], before[m][into][..., 0] / 2)
        np.testing.assert_allclose(after[v][into][..., copy], before[v][into][..., 0] / 4)
        for slot in (m, v):
            np.testing.assert_allclose(
                after[slot][out_of][:, :, copy], before[slot][out_of][:, :, 0]
            )
    np.testing.assert_array_equal(after[m][into][..., 1:new], before[m][into][..., 1:])


def test_fresh_slots_start_at_zero():
    record = _Recorder("adam")
    record.model.grow(0.5, "random")
    for name, values in keras_private.slots_of(record.model.optimizer).items():
        kernel = values[0].numpy()
        assert np.all(kernel[..., 4:] == 0) and np.any(kernel[..., :4] != 0), name


@pytest.mark.parametrize("name", ["adagrad", "ftrl"])
def test_fresh_accumulators_start_where_the_optimizer_starts_them(name):
    record = _Recorder(name)
    record.model.grow(0.5, "random")
    kernel = keras_private.slots_of(record.model.optimizer)["_accumulators"][0].numpy()
    np.testing.assert_allclose(kernel[..., 4:], 0.1)


@pytest.mark.parametrize("method", [Net2Wider(noise=0.1, seed=0), Random(seed=0)])
@pytest.mark.quick(1)
def test_averages_are_widened_like_weights(method):
    record = _Recorder("ema")
    model = record.model
    averages = keras_private.slots_of(model.optimizer)["_model_variables_moving_average"]
    for average, variable in zip(averages, model.trainable_variables, strict=True):
        average.assign(variable)
    model.grow(0.5, method)
    for average, variable in zip(averages, model.trainable_variables, strict=True):
        np.testing.assert_allclose(average.numpy(), variable.numpy(), rtol=1e-6, atol=1e-7)


def test_adafactors_factors_stand_for_the_widened_matrix():
    record = _Recorder("adafactor")
    model = record.model
    slots = keras_private.slots_of(model.optimizer)
    index = [v.path for v in model.trainable_variables].index("b/kernel")

    def matrix():
        r, c = slots["_r"][index].numpy(), slots["_c"][index].numpy()
        return (r / r.mean(-1, keepdims=True))[..., None] * c[..., None, :]

    before = matrix()
    width = record.graph.groups["b"].width
    scale = np.r_[0.5, np.ones(width - 1), 0.5]
    widen_model(model, record.graph, [Widening("b", [*range(width), 0], scale)])
    expected = before[..., [*range(width), 0]] * scale**2
    np.testing.assert_allclose(matrix(), expected, rtol=1e-5)


def test_ftrl_keeps_the_weights_that_its_slots_stand_for():
    record = _Recorder("ftrl")
    model = record.model
    part = model.optimizer
    model.grow(0.5, Net2Wider(noise=0.1, seed=0))
    slots = keras_private.slots_of(part)
    for variable, linear, accumulator in zip(
        model.trainable_variables, slots["_linears"], slots["_accumulators"], strict=True
    ):
        w, z = variable.numpy(), linear.numpy()
        curvature = np.sqrt(accumulator.numpy()) / 0.01 + 2 * part.l2_regularization_strength
        clipped = np.clip(z, -part.l1_regularization_strength, part.l1_regularization_strength)
        np.testing.assert_allclose((clipped - z) / curvature, w, rtol=2e-3, atol=2e-3)


def test_an_optimizer_with_strange_state_is_refused_and_nothing_changes():
    class Strange(keras.optimizers.SGD):
        def build(self, variables):
            super().build(variables)
            self.odd = self.add_variable((3,), name="odd")

    model = plain_cnn()
    model.compile(Strange(0.1), "mse")
    model.fit(batch(model), np.zeros((8, 3)), verbose=0)
    widths = model.widths
    with pytest.raises(ValueError, match="not slots of a trained variable"):
        model.grow(0.5, "net2wider")
    assert model.widths == widths


def test_excluded_variables_stay_excluded_from_weight_decay():
    model = plain_cnn()
    optimizer = keras.optimizers.SGD(0.1, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_list=[model.get_layer("a").kernel])
    model.compile(optimizer, "mse")
    x = batch(model)
    model.fit(x, np.zeros((8, 3)), verbose=0)
    model.grow(0.5, "net2wider")
    key = optimizer._var_key(model.get_layer("a").kernel)
    assert optimizer._exclude_from_weight_decay == {key}
    assert not optimizer._use_weight_decay(model.get_layer("a").kernel)
