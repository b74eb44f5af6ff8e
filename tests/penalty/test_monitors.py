"""The penalty within `fit`: what Keras's monitors see, who gets it, and how long it lasts."""

import keras
import numpy as np
import pytest
from networks import batch, mlp
from problems import eager

from keras_grow import GrowableModel, GrowthCallback, SimilarityPenalty
from keras_grow.layers import GrowableDense


def network(model=None):
    return eager(model or mlp(hidden=(4,)), optimizer=keras.optimizers.SGD(1e-3))


def problem(model):
    return batch(model), np.zeros((8, 2), "float32")


def test_a_monitor_of_the_loss_sees_the_task():
    """Each armed window raised `loss`, so that patience ran out while the task went on falling."""
    model = network()
    x, y = problem(model)
    growth = GrowthCallback(
        0.5, every=2, method="net2wider", penalty=SimilarityPenalty(1.0, epochs=2), verbose=0
    )
    stop = keras.callbacks.EarlyStopping("loss", patience=1)
    history = model.fit(x, y, epochs=8, callbacks=[growth, stop], verbose=0).history
    assert len(history["loss"]) == 8
    assert max(history["penalty"]) > max(history["loss"])


def test_the_logged_loss_is_that_of_compile_with_its_regularizers():
    inputs = keras.Input((5,))
    x = GrowableDense(4, kernel_regularizer=keras.regularizers.L2(0.1), name="hidden")(inputs)
    model = network(GrowableModel(inputs, keras.layers.Dense(2)(x)))
    x, y = problem(model)
    before = model.evaluate(x, y, verbose=0)
    model.arm(SimilarityPenalty(100.0))
    logs = model.train_on_batch(x, y, return_dict=True)
    assert logs["loss"] == pytest.approx(before, rel=1e-5)


@pytest.mark.parametrize("far", [0.0, 30.0])
def test_a_relative_weight_shrinks_with_a_loss_below_one(far):
    models = [network() for _ in range(2)]
    models[1].set_weights(models[0].get_weights())
    x, y = problem(models[0])
    y = y + far + models[0].predict(x, verbose=0) + 0.3
    loss = models[0].evaluate(x, y, verbose=0)
    assert loss == pytest.approx((0.3 + far) ** 2, rel=1e-4)
    for model, weight, relative in zip(
        models, (500, 500 * min(loss, 1)), (True, False), strict=True
    ):
        model.arm(SimilarityPenalty(weight, relative=relative))
        model.train_on_batch(x, y)
    for a, b in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_an_infinite_loss_leaves_what_has_a_gradient_as_finite_as_it_was():
    model = network()
    model.compile("sgd", lambda y, out: keras.ops.sum(out, -1) + np.inf, run_eagerly=True)
    model.arm(SimilarityPenalty(relative=True))
    model.train_on_batch(*problem(model))
    assert all(np.all(np.isfinite(weights)) for weights in model.get_weights())


class OwnSteps(GrowableModel):
    """A training step as in Keras's guide, backend-neutral but for the gradients."""

    def train_step(self, data):
        tf = pytest.importorskip("tensorflow")
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(y=y, y_pred=self(x, training=True))
        gradients = tape.gradient(loss, [v.value for v in self.trainable_variables])
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"loss": loss}


@pytest.mark.tensorflow
def test_a_training_step_of_ones_own_gets_the_penalty():
    models = [network(), network(OwnSteps(*_ends(mlp(hidden=(4,)))))]
    models[1].set_weights(models[0].get_weights())
    for model in models:
        model.arm(SimilarityPenalty(1.0, epochs=3))
        model.fit(*problem(model), epochs=1, verbose=0)
        assert model.penalty_window.epochs_left == 2
    for a, b in zip(models[0].get_weights(), models[1].get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def _ends(model):
    return model.input, model.output


def test_a_window_lasts_as_many_epochs_whoever_counts():
    model = network()
    model.arm(SimilarityPenalty(1.0, epochs=5))
    callbacks = [GrowthCallback(0.5, every=9, method="net2wider", verbose=0) for _ in range(2)]
    model.fit(*problem(model), epochs=2, callbacks=callbacks[:0], verbose=0)
    assert model.penalty_window.epochs_left == 3  # armed by hand, and counted down
    with pytest.warns(UserWarning, match="grows nothing in this `fit`"):
        history = model.fit(*problem(model), epochs=2, callbacks=callbacks, verbose=0).history
    assert model.penalty_window.epochs_left == 1
    assert min(history["penalty"]) > 0


def test_a_validation_neither_logs_nor_resets_the_window():
    model = network()
    model.arm(SimilarityPenalty(1.0, epochs=5))
    x, y = problem(model)
    history = model.fit(x, y, epochs=1, validation_data=(x, y), verbose=0).history
    assert set(history) == {"loss", "val_loss", "penalty", "weight_drift"}
    model.evaluate(x, y, verbose=0)
    assert model.penalty_window.epochs_left == 4


@pytest.mark.parametrize("every, epochs", [(2, 2), (50, 3)])
def test_a_fit_too_short_to_grow_says_so(every, epochs):
    model = network()
    growth = GrowthCallback(0.5, every=every, method="net2wider", verbose=0)
    with pytest.warns(UserWarning, match=rf"ends after epochs={epochs}, before the first growth"):
        model.fit(*problem(model), epochs=epochs, callbacks=[growth], verbose=0)


def test_a_growth_by_hand_ends_the_window():
    """Its sums are of the narrower weights: a drift that nothing has caused would be descended."""
    model = network()
    model.arm(SimilarityPenalty(1.0, epochs=5, reference="growth"))
    model.grow(0.5, "net2wider")
    assert model.penalty_window is None
    model.arm(SimilarityPenalty(0.0, weight_sum=1.0, reference="growth"))
    model.optimizer.learning_rate = 0.0
    history = model.fit(*problem(model), verbose=0).history
    assert history["weight_drift"][0] == 0


def test_a_model_that_cannot_grow_has_no_similarity():
    inputs = keras.Input((5,))
    model = GrowableModel(inputs, keras.layers.Dense(2)(inputs))
    with pytest.raises(ValueError, match="no layer that can grow"):
        model.similarity  # noqa: B018
