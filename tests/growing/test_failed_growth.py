"""A growth that fails changes nothing, whatever stops it and wherever."""

import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from networks import batch, mlp, plain_cnn
from problems import eager
from quick_methods import METHODS, SCORING
from states import arrays_of, assert_same_state, state_of

import keras_grow
from keras_grow import GrowthCallback, GrowthMethod, SimilarityPenalty, Widening, methods
from keras_grow.core import keras_private
from keras_grow.methods import Random
from keras_grow.utils.progress import Progress


def trained(model):
    """A model in the middle of its training: slots, metrics, a growth behind it, a penalty."""
    eager(model, optimizer=keras.optimizers.Adam(0.01), metrics=["mae"])
    model.grow(0.2, Random(seed=0))
    model.arm(SimilarityPenalty(epochs=3))
    model.train_on_batch(*data_for(model))
    return model


def data_for(model):
    return batch(model, 8), np.ones((8, model.output_shape[-1]), "float32")


def assert_unchanged_by(model, growth, error, message):
    """The growth fails as expected, leaves everything alone, and the model goes on."""
    before = state_of(model)
    with pytest.raises(error, match=message):
        growth()
    assert_same_state(before, state_of(model))
    model.train_on_batch(*data_for(model))
    after = arrays_of(model.variables)
    assert any(np.any(a != b) for a, b in zip(before["arrays"], after, strict=False))


def at_call(number, error, function):
    """Returns a function that fails at its n-th call."""
    calls = []

    def failing(*args, **kwargs):
        calls.append(args)
        if len(calls) == number:
            raise error
        return function(*args, **kwargs)

    return failing


FAILURES = {
    "interrupt": (KeyboardInterrupt(), "by '{name}' was interrupted. The model is unchanged"),
    "memory": (MemoryError("no more"), "by '{name}' ran out of memory. The model .* no more"),
    "error": (RuntimeError("a bug"), "a bug"),
}
if keras.config.backend() == "tensorflow":
    import tensorflow as tf

    FAILURES["oom"] = (
        tf.errors.ResourceExhaustedError(None, None, "OOM when allocating"),
        "by '{name}' ran out of memory. The model is unchanged.*OOM when allocating",
    )


def cases(names):
    """Every failure with one method and one failure with every method; the rest is slow."""
    return [
        pytest.param(name, failure, marks=[] if quick else [pytest.mark.slow])
        for name in names
        for failure in FAILURES
        for quick in [name == names[0] or failure == "interrupt"]
    ]


def assert_a_growth_fails_and_the_next_one_works(model, name, failure, monkeypatch):
    error, message = FAILURES[failure]
    data, method = data_for(model), METHODS[name](seed=1)
    assert_unchanged_by(
        model,
        lambda: model.grow(0.5, method, data=data),
        type(error),
        message.format(name=name),
    )
    monkeypatch.undo()
    assert model.grow(0.5, method, data=data).neurons_after == model.neurons


@pytest.mark.parametrize(("name", "failure"), cases(list(METHODS)))
@pytest.mark.quick(2)
def test_a_failure_while_variables_are_replaced(name, failure, monkeypatch):
    model = trained(plain_cnn())
    error, _ = FAILURES[failure]
    monkeypatch.setattr(keras_private, "resize", at_call(7, error, keras_private.resize))
    assert_a_growth_fails_and_the_next_one_works(model, name, failure, monkeypatch)


@pytest.mark.parametrize(("name", "failure"), cases(SCORING))
@pytest.mark.quick(2)
def test_a_failure_while_neurons_are_chosen(name, failure, monkeypatch):
    """Ctrl-C at the progress bar; memory that runs out, or a bug, in the loss."""
    model = trained(plain_cnn())
    error, _ = FAILURES[failure]
    if failure == "interrupt":
        monkeypatch.setattr(Progress, "advance", at_call(2, error, Progress.advance))
    else:  # the first call is the check of the data
        monkeypatch.setattr(model, "compute_loss", at_call(2, error, model.compute_loss))
    assert_a_growth_fails_and_the_next_one_works(model, name, failure, monkeypatch)


@pytest.mark.parametrize("name", SCORING)
@pytest.mark.quick(1)
def test_scores_that_are_nan(name):
    model = trained(plain_cnn())
    x, y = data_for(model)
    assert_unchanged_by(
        model,
        lambda: model.grow(0.5, METHODS[name](seed=1), data=(x * np.nan, y)),
        ValueError,
        "(?i)nan|not finite",
    )


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.quick(3)
def test_a_ceiling_that_is_reached(name):
    model = trained(mlp())
    before = state_of(model)
    most = sum(v.size for v in map(keras.ops.convert_to_numpy, model.trainable_weights))
    for ceilings in ({"max_params": most}, {"max_widths": min(model.widths.values())}):
        assert model.grow(0.5, METHODS[name](seed=1), data=data_for(model), **ceilings) is None
        assert_same_state(before, state_of(model))


class Returns(GrowthMethod):
    """A method with a bug."""

    name = "returns"

    def __init__(self, **added):
        super().__init__(seed=0)
        self.added = added

    def choose(self, graph, budget, rng, data=None):
        width = budget.widths["hidden0"]
        return [Widening("hidden0", [*range(width), -1], **self.added)]


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ({"incoming": {"hidden0/kernel": np.full((5, 6), np.nan)}}, "variable 'hidden0/kernel' mu"),
        ({"outgoing": {"hidden1/kernel": np.full((6, 3), np.inf)}}, "variable 'hidden1/kernel' mu"),
        ({"incoming": {"hidden1/kernel": np.zeros((6, 3))}}, "must name variables on that side"),
        (
            {"outgoing": {"hidden/kernel": np.zeros((6, 3))}},
            r"\['hidden1/kernel'\]. Received",
        ),
        ({"incoming": {"hidden0/kernel": np.zeros((1, 6))}}, r"have shape \(5, 6\). Received: sha"),
    ],
)
def test_a_method_with_a_bug(added, message):
    model = trained(mlp())
    width = model.widths["hidden0"]
    assert width == 5
    assert_unchanged_by(model, lambda: model.grow(0.5, Returns(**added)), ValueError, message)


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        ([3], TypeError, "must return a list of `keras_grow.Widening`. Received in it: 3"),
        ([Widening("nowhere", [0, 0])], ValueError, r"can grow: \['hidden0', 'hidden1'\]. Recei"),
        ([Widening("hidden0", [0, 9])], ValueError, "must lie between -1 and 4"),
    ],
)
def test_a_method_that_returns_something_else(returned, error, message):
    method = Returns()
    method.choose = lambda *args: returned
    model = trained(mlp())
    assert_unchanged_by(model, lambda: model.grow(0.5, method), error, message)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("path", ["hidden0/kernel", "head/bias"])
def test_a_model_whose_weights_are_no_numbers_does_not_grow(path, bad):
    model = trained(mlp())
    variable = next(v for v in model.variables if v.path == path)
    (value,) = arrays_of([variable])
    value = value.copy()
    value[..., 0] = bad
    variable.assign(value)
    before = state_of(model)
    for method in METHODS.values():
        method = method(seed=1)
        with pytest.raises(ValueError, match=f"its variable `{path}` holds NaN or infinite"):
            model.grow(0.5, method, data=data_for(model))
    assert_same_state(before, state_of(model))


def test_a_training_that_has_diverged_stops_at_its_growth():
    model = eager(mlp(), optimizer=keras.optimizers.SGD(1e30))
    callback = GrowthCallback(0.5, every=2, method="random", verbose=0)
    x, y = data_for(model)
    with pytest.raises(ValueError, match="can't grow: its variable `hidden0/kernel` holds NaN"):
        model.fit(x, y, epochs=4, callbacks=[callback], verbose=0)
    assert model.growth_history == [] and model.widths == {"hidden0": 4, "hidden1": 3}


def test_a_failure_within_fit(monkeypatch):
    model = trained(mlp())
    x, y = data_for(model)
    callback = GrowthCallback(0.5, every=1, method=METHODS["firefly"](seed=1), verbose=0)
    monkeypatch.setattr(Progress, "advance", at_call(2, KeyboardInterrupt(), Progress.advance))
    widths, history = model.widths, model.growth_history
    with pytest.raises(KeyboardInterrupt, match="by 'firefly' was interrupted"):
        model.fit(x, y, epochs=3, callbacks=[callback], verbose=0)
    assert (model.widths, model.growth_history) == (widths, history)
    assert model.fit_context is None
    assert model.penalty_window.epochs_left == 2  # one epoch of three is over
    model.fit(x, y, epochs=2, callbacks=[callback], verbose=0)
    assert len(model.growth_history) == len(history) + 1


def interrupt_at_line(number, function):
    """Calls a function, and raises KeyboardInterrupt at the n-th line run in the package.

    Counting starts where arrays or calls begin to be swapped: before, nothing has been touched.

    Returns:
        The number of lines that were run, without an interrupt; otherwise it raises.
    """
    package, lines = str(Path(keras_grow.__file__).parent), [0]

    def trace(frame, event, argument):
        if not frame.f_code.co_filename.startswith(package):
            return None
        started = lines[0] or frame.f_code.co_name in ("_swap_in", "_rewire")
        if event == "line" and started:
            lines[0] += 1
            if lines[0] == number:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return lines[0]


def to_grow(model):
    return lambda: model.grow(0.5, methods.Net2Wider(seed=1))


def to_deepen(model):
    return lambda: model.deepen("hidden0", lambda x: keras.layers.Dense(x.shape[-1])(x))


def to_go_back(model):
    """Through two growths and a block."""
    weights = model.get_weights()
    to_grow(model)()
    to_deepen(model)()
    to_grow(model)()
    return lambda: model.set_weights(weights)


EVERY_LINE = [pytest.param(c, 1, marks=pytest.mark.slow) for c in (to_grow, to_deepen, to_go_back)]


@pytest.mark.parametrize(
    ("change_of", "stride"),
    [
        pytest.param(to_grow, 11, marks=pytest.mark.long),
        pytest.param(to_deepen, 47, marks=pytest.mark.long),
        pytest.param(to_go_back, 47, marks=pytest.mark.long),
        *EVERY_LINE,
    ],
)
def test_an_interrupt_between_any_two_lines(change_of, stride):
    """Either the model is as it was, or it has changed: never half of it."""
    model = trained(mlp())
    change = change_of(model)
    before, layers, history = state_of(model), model.layers, model.growth_history
    line, done = 1, False
    while not done:
        try:
            interrupt_at_line(line, change)
            done = True
        except KeyboardInterrupt:
            done = model.growth_history != history
            if not done:
                assert_same_state(before, state_of(model))
                assert model.layers == layers
                line += stride
    assert model.growth_history != history
    assert line > 150
    if model.growth_history[1:]:
        assert model.widths == model.growth_history[-1].widths_after
    model.train_on_batch(*data_for(model))
    to_grow(model)()
