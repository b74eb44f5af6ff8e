"""Weights of an earlier width, and models that go back to one."""

import json
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pytest
from networks import NETWORKS, batch, mlp, plain_cnn, randomise
from problems import cross_entropy, eager
from quick_methods import METHODS
from states import arrays_of, assert_same_arrays, assert_same_state, state_of, weights_and_slots

from keras_grow import At, GrowableModel, GrowthCallback, GrowthEvent, SimilarityPenalty
from keras_grow.core import keras_private
from keras_grow.methods import Net2Wider, Random

X = np.random.default_rng(0).normal(size=(24, 5)).astype("float32")
Y = np.random.default_rng(1).normal(size=(24, 2)).astype("float32")


def trained(model, optimizer=None):
    """A model with slots and statistics that are not where they started."""
    eager(randomise(model), optimizer=optimizer or keras.optimizers.Adam(0.01))
    x = batch(model)
    model.fit(x, np.ones((8, model.output_shape[-1])), epochs=2, verbose=0)
    return model


def growing(every=1, method=None, penalty=None):
    return GrowthCallback(0.5, every, method or Net2Wider(seed=1), penalty, verbose=0)


EXACT = {  # methods that add nothing to a channel that is there
    "copies": lambda: Net2Wider(noise=0, seed=1),
    "fresh": lambda: Random(seed=1),
    "fresh, not silent": lambda: Random("small", seed=1),
}


@pytest.mark.parametrize("method", EXACT)
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.quick(3)
def test_weights_are_widened_as_the_model_was(name, method):
    model = trained(NETWORKS[name]())
    start = model.get_weights()
    first = model.grow(0.3, EXACT[method]())
    between = model.get_weights()
    assert_same_arrays(model.get_weights(), first.widen(start))
    second = model.grow(0.5, EXACT[method]())
    for weights, since in ((start, first), (between, second)):
        for widened in (model.widen_weights(weights, since), model.widen_weights(weights)):
            assert_same_arrays(model.get_weights(), widened)
    assert_same_arrays(model.get_weights(), model.widen_weights(model.get_weights()))


@pytest.mark.parametrize("method", ["net2wider", "splitting"])
def test_a_teacher_computes_what_it_computed(method):
    """Its copies get no noise and no step."""
    model, teacher = trained(mlp()), randomise(mlp(), seed=5)
    before = teacher.predict(X, verbose=0)
    event = model.grow(0.5, METHODS[method](seed=1), data=(X, Y))
    assert all(min(sources) >= 0 for sources in event.sources.values())  # none is fresh
    model.set_weights(event.widen(teacher.get_weights()))
    np.testing.assert_allclose(model.predict(X, verbose=0), before, atol=1e-5)


class Average(keras.callbacks.Callback):
    """An average of weights that goes along with growths, by the recurrence of Keras's own."""

    def __init__(self, momentum):
        super().__init__()
        self.momentum, self.events, self.average = momentum, [], None

    def on_growth(self, event):
        self.events.append(event)
        self.average = event.widen(self.average)

    def on_train_batch_end(self, batch, logs=None):
        present = self.model.get_weights()
        self.average = self.average or present  # those of the first step
        self.average = [
            self.momentum * a + (1 - self.momentum) * p
            for a, p in zip(self.average, present, strict=True)
        ]


@pytest.mark.tensorflow  # on JAX Keras holds the weights back within an epoch
@pytest.mark.parametrize("method", EXACT)
@pytest.mark.quick(1)
def test_an_average_equals_that_of_the_optimizer(method):
    model = mlp()
    optimizer = keras.optimizers.SGD(0.05, momentum=0.9, use_ema=True, ema_momentum=0.8)
    eager(model, optimizer=optimizer)
    average = Average(0.8)
    # The last step's average is to be seen before `fit` overwrites the weights with it.
    seen = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: keep.append(
            arrays_of(optimizer._model_variables_moving_average)
        )
    )
    keep = []
    model.fit(X, Y, batch_size=8, epochs=4, verbose=0, shuffle=False,
              callbacks=[growing(At([1, 3]), EXACT[method]()), average, seen])  # fmt: skip
    assert average.events == model.growth_history and len(average.events) == 2
    for ours, theirs in zip(average.average, keep[-1], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_growths_by_hand_tell_no_callback_and_a_failing_one_leaves_the_growth():
    model = trained(mlp())
    average = Average(0.5)
    average.set_model(model)
    model.grow(0.5, "random")
    assert not average.events

    class Failing(keras.callbacks.Callback):
        def on_growth(self, event):
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        model.fit(X, Y, epochs=2, verbose=0, callbacks=[growing(), Failing()])
    assert len(model.growth_history) == 2
    model.fit(X, Y, verbose=0)


@pytest.mark.parametrize("method", ["copies", "fresh"])
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.quick(1)
def test_there_and_back_again(name, method):
    """A model that grew and was taken back equals one that never grew, slots and all."""
    build = partial(plain_cnn, dropout=0) if name == "plain" else NETWORKS[name]
    # Adam would blow up what rounding leaves of gradients of zero.
    never, model = (trained(build(), keras.optimizers.SGD(0.01, momentum=0.9)) for _ in range(2))
    before, weights = state_of(model), model.get_weights()
    model.grow(0.5, EXACT[method]())
    model.arm(SimilarityPenalty())
    model.grow(0.5, EXACT[method]())
    model.set_weights(weights)
    after = state_of(model)
    for one, other in zip(before.pop("arrays"), after.pop("arrays"), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
    assert before == after
    x, y = batch(model), np.zeros((8, model.output_shape[-1]))
    for each in (never, model):
        each.fit(x, y, epochs=2, verbose=0, shuffle=False)
    for one, other in zip(weights_and_slots(never), weights_and_slots(model), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.Adam(0.01, amsgrad=True),
        lambda: keras.optimizers.RMSprop(0.01, momentum=0.5),
        lambda: keras.optimizers.Adafactor(0.01),
        lambda: keras.optimizers.Ftrl(0.01),
        lambda: keras.optimizers.SGD(0.01, momentum=0.9, use_ema=True),
        lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Lion(0.001)),
    ],
    ids=["adam", "rmsprop", "adafactor", "ftrl", "ema", "lossscale"],
)
def test_slots_of_other_optimizers_go_back(optimizer):
    model = trained(mlp(), optimizer())
    before, weights = weights_and_slots(model), model.get_weights()
    model.grow(0.5, Net2Wider(noise=0, seed=1))
    model.set_weights(weights)
    for one, other in zip(before, weights_and_slots(model), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
    model.fit(X, Y, verbose=0)


def test_it_goes_to_each_width_that_it_has_had_and_back_to_the_widest():
    model = trained(mlp())
    weights, events = [model.get_weights()], []
    for _ in range(3):
        events.append(model.grow(0.3, "random"))
        model.fit(X, Y, verbose=0)
        weights.append(model.get_weights())
    for growths in (1, 3, 0, 2, 3, 1):
        model.set_weights(weights[growths])
        assert model.growth_history == events[:growths]
        assert_same_arrays(model.get_weights(), weights[growths])
        model.fit(X, Y, verbose=0)
    other = model.grow(0.9, "random")  # another way: those before it are gone
    assert model.growth_history == [events[0], other]
    with pytest.raises(ValueError, match="of widths that this model has had itself"):
        model.set_weights(weights[3])


def test_all_that_says_a_width_goes_back():
    def seen(model):
        lines = [str(model.growth_report())]
        model.summary(print_fn=lines.append)
        return lines, model.widths, model.count_params(), [t.shape for t in model.inputs]

    model = trained(plain_cnn())
    x, weights = batch(model), model.get_weights()
    before, outputs = seen(model), model.predict(x, verbose=0)
    model.grow(0.5, "net2wider")
    model.set_weights(weights)
    assert before == seen(model)
    np.testing.assert_allclose(model.predict(x, verbose=0), outputs, atol=1e-6)


def test_a_feature_extractor_follows():
    model = trained(mlp())
    part = keras.Model(model.inputs, model.get_layer("hidden1").output)
    before, weights = part.predict(X, verbose=0), model.get_weights()
    model.grow(0.5, "random")
    assert part.predict(X, verbose=0).shape == (24, 4)
    model.set_weights(weights)
    np.testing.assert_allclose(part.predict(X, verbose=0), before, atol=1e-6)


@pytest.mark.parametrize("at", [1, 4, 12])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), RuntimeError("a bug")])
@pytest.mark.quick(1)
def test_a_failure_changes_nothing(error, at, monkeypatch):
    model = trained(mlp())
    weights = model.get_weights()
    model.grow(0.5, "random")
    model.arm(SimilarityPenalty())
    before, calls, resize = state_of(model), [], keras_private.resize

    def failing(*args):
        calls.append(args)
        if len(calls) == at:
            raise error
        return resize(*args)

    monkeypatch.setattr(keras_private, "resize", failing)
    with pytest.raises(type(error)):
        model.set_weights(weights)
    assert_same_state(before, state_of(model))
    monkeypatch.undo()
    set_weights = keras.Model.set_weights

    def setting(*args):
        set_weights(*args)
        raise error

    monkeypatch.setattr(keras.Model, "set_weights", setting)
    with pytest.raises(type(error)):
        model.set_weights(weights)
    assert_same_state(before, state_of(model))
    monkeypatch.undo()
    model.fit(X, Y, verbose=0)


def test_a_saved_model_goes_back(tmp_path):
    model = trained(mlp())
    weights = model.get_weights()
    first = model.grow(0.5, Net2Wider(noise=0, seed=1))
    model.fit(X, Y, verbose=0)
    expected = model.widen_weights(weights)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert loaded.growth_history == [first]
    assert_same_arrays(loaded.growth_history[0].widen(weights), expected)
    loaded.set_weights(weights)
    assert loaded.widths == {"hidden0": 4, "hidden1": 3} and loaded.growth_history == []
    assert_same_arrays(loaded.get_weights(), weights)


def test_files_of_older_versions_go_back_but_widen_nothing():
    model = keras.models.load_model(Path(__file__).parents[1] / "data" / "last_version.keras")
    first = model.growth_history[0]
    narrow = GrowableModel.from_config(model.get_config())
    narrow.compile("adam", cross_entropy())
    widths = first.widths_before
    shapes = [np.shape(w) for w in model.get_weights()]
    model_weights = first_weights(model, widths)
    with pytest.raises(ValueError, match="a file of an older keras_grow"):
        model.widen_weights(model_weights)
    model.set_weights(model_weights)
    assert model.widths == widths and model.growth_history == []
    assert shapes != [np.shape(w) for w in model.get_weights()]


def first_weights(model, widths):
    """Weights of the first widths of a network that conv "a" and dense "b" make up."""
    from keras_grow.channels.graph import find_groups
    from keras_grow.growing.rewidening import shapes_at

    shapes = shapes_at(find_groups(model), model.weights, widths)
    return [np.ones(shape, "float32") for shape in shapes]


def test_an_event_says_what_was_copied():
    model = trained(mlp())
    event = model.grow(0.5, Net2Wider(noise=0, seed=1))
    assert json.loads(json.dumps(event.to_dict())) == event.to_dict()
    assert GrowthEvent.from_dict(event.to_dict()) == event
    for name, sources in event.sources.items():
        width = event.widths_before[name]
        assert sources[:width] == list(range(width))
        scales = np.array(event.outgoing_scale[name])
        # The copies of a neuron share its outgoing weights.
        np.testing.assert_allclose(np.bincount(sources, scales), 1)
    assert model.grow(0.5, "random").outgoing_scale == {}


BAD = [
    (lambda m, w: m.set_weights([v[..., :1] for v in w]), r"`hidden0/kernel` is of shape \(5, 4\)"),
    (lambda m, w: m.set_weights([v[:1] for v in w]), r"`hidden0/kernel` is of shape"),
    (lambda m, w: m.set_weights(w[:-1]), "weight list of length 5"),
    (lambda m, w: m.widen_weights(w[:-1]), "`weights` must be all weights of the model"),
    (lambda m, w: m.widen_weights([v[:1] for v in w]), "is of shape"),
    (lambda m, w: m.widen_weights(w, since="start"), "`since` must be a growth of this model"),
    (
        lambda m, w: GrowthEvent(1, "random", 0.5, {}, {}, 1, 1).widen(w),
        "This event belongs to no model",
    ),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_what_does_not_fit_is_refused_before_anything_is_assigned(call, message):
    """Arrays of width 1, which NumPy broadcasts, among them."""
    model = trained(mlp())
    before = state_of(model)
    with pytest.raises(ValueError, match=message):
        call(model, model.get_weights())
    assert_same_state(before, state_of(model))


def test_weights_of_another_growth_are_refused():
    model = trained(mlp())
    start = model.get_weights()
    model.grow(0.3, "random")
    event = model.grow(0.3, "random")
    with pytest.raises(ValueError, match="just before the growth 'random grew 9 -> 11"):
        model.widen_weights(start, since=event)


def test_from_width_1():
    """The one width at which NumPy takes old arrays for new ones."""
    model = trained(mlp(hidden=(1, 1)))
    start = model.get_weights()
    event = model.grow(2.0, Net2Wider(noise=0, seed=1))
    widened = event.widen(start)
    assert [w.shape for w in widened] == [w.shape for w in model.get_weights()]
    model.set_weights(start)
    assert model.widths == {"hidden0": 1, "hidden1": 1}
