"""Nothing of a traced function outlives it."""

import gc
import logging
import weakref
from contextlib import nullcontext

import keras
import numpy as np
import pytest
from networks import batch

from keras_grow import GrowableModel, GrowthCallback
from keras_grow.layers import GrowableDense
from keras_grow.methods import Firefly

tf = pytest.importorskip("tensorflow")
context = pytest.importorskip("tensorflow.python.eager.context")
ops = pytest.importorskip("tensorflow.python.framework.ops")
tracing = pytest.importorskip("keras_grow.backend.tensorflow.tracing")

pytestmark = pytest.mark.tensorflow


def traced_slope(scope):
    """Traces the gradient of silu, which TensorFlow writes itself; returns its graph and value."""
    graphs = []

    @tf.function(autograph=False)
    def slope(x):
        graphs.append(weakref.ref(tf.compat.v1.get_default_graph()))
        with scope, tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.nn.silu(x)
            return tape.gradient(y, x)

    value = float(slope(tf.constant(0.0)))
    return graphs[0], value


def test_a_graph_goes_with_its_gradient_functions():
    kept, value = traced_slope(nullcontext())
    gone, same_value = traced_slope(tracing.released_gradients())
    gc.collect()
    assert value == same_value == 0.5
    assert kept() is not None  # what TensorFlow does by itself: without this, no need for ours
    assert gone() is None


def test_gradient_functions_from_before_the_scope_stay():
    @tf.function(autograph=False)
    def slopes(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.nn.silu(x)
            with tracing.released_gradients():
                tf.nn.silu(x)
        return tape.gradient(y, x)

    assert float(slopes(tf.constant(0.0))) == 0.5


def test_nothing_is_done_outside_of_a_graph():
    entries = list(ops.gradient_registry.list())
    with tracing.released_gradients():
        tf.nn.silu(tf.constant(1.0))
    assert list(ops.gradient_registry.list()) == entries


class Warnings(logging.Filter):
    """Collects what TensorFlow logs."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def filter(self, record):
        self.lines.append(record.getMessage())
        return False


@pytest.fixture
def warned():
    warnings = Warnings()
    tf.get_logger().addFilter(warnings)
    tracing.forget_traces()
    yield warnings.lines
    tf.get_logger().removeFilter(warnings)


def retrace(times, forget):
    for _ in range(times):
        tf.function(len_of, autograph=False)(tf.constant([1.0]))
        if forget:
            tracing.forget_traces()


def len_of(x):
    return tf.shape(x)[0]


def test_tracings_are_forgotten(warned):
    retrace(8, forget=True)
    assert warned == []
    retrace(8, forget=False)
    assert "triggered tf.function retracing" in warned[0]


def live():
    """Number of live graphs, of the runtime's functions, and of Python objects."""
    gc.collect()
    objects = gc.get_objects()
    graphs = sum(issubclass(type(thing), tf.Graph) for thing in objects)
    return graphs, len(context.context().list_function_names()), len(objects)


class Live(keras.callbacks.Callback):
    """Counts what is alive at the end of some epochs: collecting garbage takes long."""

    def __init__(self, epochs):
        super().__init__()
        self.epochs, self.counts = epochs, []

    def on_epoch_end(self, epoch, logs=None):
        if epoch in self.epochs:
            self.counts.append(live())


@pytest.mark.parametrize(
    "method, warm_up, growths",
    [
        (Firefly(train_batches=1, score_batches=1, seed=1), 1, 1),
        pytest.param("net2wider", 4, 12, marks=pytest.mark.slow),
        pytest.param("splitting", 4, 8, marks=pytest.mark.slow),
    ],
)
def test_growths_leave_nothing_behind(warned, method, warm_up, growths):
    x = inputs = keras.Input((5,))
    for name in ("hidden0", "hidden1"):
        x = GrowableDense(8, activation="silu", name=name)(x)
    model = GrowableModel(inputs, keras.layers.Dense(2)(x))
    model.compile(keras.optimizers.Adam(0.01), "mse")
    x, y = batch(model), np.ones((8, 2), "float32")
    growth = GrowthCallback(1 / 16, every=1, method=method, verbose=0)
    counting = Live((warm_up, warm_up + growths))
    fit = {"validation_data": (x, y), "callbacks": [growth, counting], "verbose": 0}
    model.fit(x, y, batch_size=4, epochs=warm_up + growths + 1, **fit)
    assert len(model.growth_history) == warm_up + growths
    before, after = counting.counts
    assert after[0] == before[0]
    assert after[1] == before[1]
    # An event of the history each, and little else; a graph is some thousand objects.
    assert after[2] - before[2] < 20 * growths
    assert not any("retracing" in line for line in warned)
