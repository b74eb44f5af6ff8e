"""Figures are checked by what is drawn in them, not by whether a file appears."""

import sys
from itertools import pairwise

import keras
import numpy as np
import pytest

import keras_grow
from keras_grow import plots

pytestmark = [
    pytest.mark.filterwarnings("error"),
    # Keras converts TensorFlow's variables, when it saves them, in a way that NumPy 2 deprecates.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


def run(epochs=6, seed=0, growths=(2, 4), validation=True):
    rng = np.random.default_rng(seed)
    names = ["accuracy", "loss"] + ["val_accuracy", "val_loss"] * validation
    history = {name: list(rng.uniform(size=epochs)) for name in names}
    history["params"] = [100 + 50 * sum(epoch >= at for at in growths) for epoch in range(epochs)]
    history["seconds"] = list(np.cumsum(rng.uniform(1, 2, size=epochs)))
    history["flops"] = list(np.cumsum(history["params"]) * 1e9)
    return {"history": history, "events": [{"epoch": at} for at in growths]}


def network(width=4, name="net"):
    inputs = x = keras.Input((8, 8, 1))
    for block in (1, 2):
        x = keras.layers.Conv2D(width, 3, padding="same", name=f"conv{block}")(x)
        x = keras.layers.BatchNormalization(name=f"bn{block}")(x)
        x = keras.layers.ReLU(name=f"relu{block}")(x)
        x = keras.layers.MaxPooling2D(name=f"pool{block}")(x)
    x = keras.layers.Conv2D(width, 2, name="conv3")(x)  # 1x1: nothing to look at
    outputs = keras.layers.Dense(3, name="head")(keras.layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, outputs, name=name)


def growable(width=4):
    model = keras_grow.GrowableModel.from_keras(network(width))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, metrics=["accuracy"])
    return model


def images(count=3):
    return np.random.default_rng(0).uniform(size=(count, 8, 8, 1)).astype("float32")


def lines(axes):
    return {line.get_label(): line for line in axes.get_lines()}


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_curve_of_one_run_has_metric_loss_and_parameter_steps():
    one = run()
    figure = plots.growth_curve(one)
    accuracy, loss, params = figure.axes
    assert accuracy.get_ylabel() == "accuracy (%)"
    assert loss.get_ylabel() == "loss"
    assert params.get_ylabel() == "trainable\nparameters"
    assert params.get_xlabel() == "epoch"
    assert legend(figure) == ["training", "held-out", "growth"]
    drawn = lines(accuracy)
    np.testing.assert_allclose(drawn["held-out"].get_xdata(), np.arange(1, 7))
    np.testing.assert_allclose(drawn["held-out"].get_ydata(), one["history"]["val_accuracy"])
    np.testing.assert_allclose(drawn["training"].get_ydata(), one["history"]["accuracy"])
    np.testing.assert_allclose(lines(loss)["held-out"].get_ydata(), one["history"]["val_loss"])


def test_growths_are_marked_where_they_happened():
    one = run(growths=(2, 4))
    figure = plots.growth_curve(one)
    marks = lines(figure.axes[0])["growth"]
    np.testing.assert_allclose(marks.get_xdata(), [2, 4])
    values = np.array(one["history"]["val_accuracy"])
    np.testing.assert_allclose(marks.get_ydata(), values[[1, 3]])


def test_parameters_step_at_the_growth():
    figure = plots.growth_curve(run(growths=(2, 4)))
    (steps,) = figure.axes[2].get_lines()
    assert steps.get_drawstyle() == "steps-pre"
    np.testing.assert_allclose(steps.get_xdata(), np.arange(7))
    # With steps-pre the value at x holds since x - 1: 100 until 2, 150 until 4, then 200.
    np.testing.assert_allclose(steps.get_ydata(), [100, 100, 100, 150, 150, 200, 200])


def test_growths_by_hand_and_without_events_are_fine():
    one = run()
    one["events"] = [{"epoch": None}, {"epoch": 2}]
    np.testing.assert_allclose(lines(plots.growth_curve(one).axes[0])["growth"].get_xdata(), [2])
    del one["events"]
    assert "growth" not in legend(plots.growth_curve(one))


def test_seeds_become_mean_and_range_over_their_common_epochs():
    seeds = [run(6, seed=1), run(5, seed=2), run(6, seed=3)]
    figure = plots.growth_curve({"net2wider": seeds, "static": run(6, growths=())})
    values = np.array([each["history"]["val_accuracy"][:5] for each in seeds])
    axes = figure.axes[0]
    assert axes.get_ylabel() == "held-out\naccuracy (%)"
    mean = lines(axes)["net2wider (mean and range of 3)"]
    np.testing.assert_allclose(mean.get_ydata(), values.mean(axis=0))
    (band,) = axes.collections
    corners = band.get_paths()[0].vertices
    for epoch in range(5):
        column = corners[corners[:, 0] == epoch + 1, 1]
        assert column.min() == pytest.approx(values[:, epoch].min())
        assert column.max() == pytest.approx(values[:, epoch].max())
    assert legend(figure) == ["net2wider (mean and range of 3)", "static", "growth"]


@pytest.mark.parametrize(
    "loss, scale", [([10.0, 0.5, 0.1], "log"), ([1, 0.9, 0.8], "linear"), ([9, 1, -1], "linear")]
)
def test_a_loss_that_falls_far_is_drawn_on_a_logarithmic_scale(loss, scale):
    figure = plots.growth_curve({"history": {"accuracy": [0.1, 0.2, 0.3], "loss": loss}})
    assert figure.axes[1].get_yscale() == scale


def test_overlaid_runs_differ_in_colour_and_in_line_style():
    figure = plots.growth_curve({name: run(growths=()) for name in "abc"})
    drawn = figure.axes[0].get_lines()
    assert len(drawn) == 3
    assert len({line.get_linestyle() for line in drawn}) == 3
    brightness = [np.dot(line.get_color()[:3], [0.299, 0.587, 0.114]) for line in drawn]
    assert min(np.diff(brightness)) > 0.15  # apart in grey, too
    assert max(brightness) < 0.8  # and apart from the paper


@pytest.mark.parametrize("x, label", [("seconds", "time (s)"), ("flops", "(FLOPs)")])
def test_the_horizontal_axis_can_be_cost(x, label):
    one = run()
    figure = plots.growth_curve(one, x=x)
    assert label in figure.axes[-1].get_xlabel()
    np.testing.assert_allclose(lines(figure.axes[0])["held-out"].get_xdata(), one["history"][x])
    marks = lines(figure.axes[0])["growth"].get_xdata()
    np.testing.assert_allclose(marks, np.array(one["history"][x])[[1, 3]])


def test_training_is_drawn_where_there_is_no_validation():
    one = run(validation=False)
    del one["history"]["params"]
    figure = plots.growth_curve(one)
    assert len(figure.axes) == 2
    assert legend(figure) == ["accuracy", "growth"]


def test_a_keras_history_is_a_run():
    model = network()
    model.compile("sgd", "mse", metrics=["mae"])
    history = model.fit(images(), np.zeros((3, 3)), epochs=2, verbose=0)
    figure = plots.growth_curve(history, metric="mae")
    drawn = lines(figure.axes[0])["mae"]
    np.testing.assert_allclose(drawn.get_ydata(), history.history["mae"])


def test_the_history_of_a_growing_model_marks_its_growths():
    callback = keras_grow.GrowthCallback(0.5, every=2, penalty=None, verbose=0)
    labels = np.array([0, 1, 2])
    history = growable().fit(images(), labels, epochs=5, callbacks=[callback], verbose=0)
    figure = plots.growth_curve(history)
    np.testing.assert_allclose(lines(figure.axes[0])["growth"].get_xdata(), [2, 4])
    params = figure.axes[2].get_lines()[0].get_ydata()
    assert [before < after for before, after in pairwise(params)] == [0, 0, 1, 0, 1]


@pytest.mark.parametrize(
    "runs, arguments, message",
    [
        (run(), {"x": "steps"}, "`x` must be one of .*Received: x='steps'"),
        (run(), {"metric": "auc"}, "no 'auc' in its history, but .*'accuracy'"),
        ({}, {}, "nothing to draw"),
        ({"a": []}, {}, "no run for 'a'"),
        ({"a": {"accuracy": [1.0]}}, {}, "'a' must have a non-empty 'history'"),
        ({"history": {}}, {}, "must have a non-empty 'history'"),
        ({"history": {"accuracy": [1.0], "loss": []}}, {}, "one value an epoch"),
        ({"history": {"accuracy": [1.0], "loss": [1.0]}}, {"x": "flops"}, "no 'flops'"),
    ],
)
def test_bad_runs(runs, arguments, message):
    with pytest.raises(ValueError, match=message):
        plots.growth_curve(runs, **arguments)


def cosines(kernel):
    rows = np.reshape(kernel, (-1, np.shape(kernel)[-1])).T
    return [
        rows[i] @ rows[j] / np.linalg.norm(rows[i]) / np.linalg.norm(rows[j])
        for i in range(len(rows))
        for j in range(i)
    ]


def counts(axes):
    """Heights of the outlines: each histogram is drawn as a fill and an outline."""
    return [patch.get_data().values for patch in axes.patches if "pairs" in patch.get_label()]


def test_histogram_counts_each_pair_once():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 4, 12))
    figure = plots.similarity_histogram({"start": kernel})
    (axes,) = figure.axes
    (heights,) = counts(axes)
    assert heights.sum() == 12 * 11 // 2
    np.testing.assert_array_equal(heights, np.histogram(cosines(kernel), 40, (-1, 1))[0])
    mean = np.abs(cosines(kernel)).mean()
    assert legend(figure) == [f"start: 66 pairs, mean |similarity| {mean:.3f}"]
    assert axes.get_ylabel() == "pairs of neurons"


def test_histogram_marks_the_range_of_the_paper():
    (axes,) = plots.similarity_histogram(np.eye(4)).axes
    assert [line.get_xdata()[0] for line in axes.get_lines()] == [-0.5, 0.5]
    assert axes.get_xlim() == (-1, 1)


def test_histogram_of_different_widths_draws_shares():
    rng = np.random.default_rng(0)
    kernels = {"before": rng.normal(size=(9, 4)), "after": rng.normal(size=(9, 10))}
    figure = plots.similarity_histogram(kernels)
    assert figure.axes[0].get_ylabel() == "share of the pairs (%)"
    for heights in counts(figure.axes[0]):
        assert heights.sum() == pytest.approx(100)
    assert "6 pairs" in legend(figure)[0]
    assert "45 pairs" in legend(figure)[1]


def test_equal_and_opposite_neurons_are_inside_the_histogram():
    column = np.random.default_rng(0).normal(size=(27, 1)).astype("float32")
    kernel = np.concatenate([column, 3 * column, -column], axis=1)
    (heights,) = counts(plots.similarity_histogram(kernel).axes[0])
    assert heights.sum() == 3
    assert heights[0] == 2
    assert heights[-1] == 1


def test_one_neuron_has_no_pairs():
    figure = plots.similarity_histogram({"one": np.ones((9, 1))})
    assert counts(figure.axes[0])[0].sum() == 0
    assert legend(figure) == ["one: 0 pairs, mean |similarity| 0.000"]


@pytest.mark.parametrize(
    "layer, name", [(None, "conv2"), (1, "conv1"), (2, "conv2"), (4, "head"), ("conv3", "conv3")]
)
def test_the_layer_of_a_model_is_found(layer, name):
    model = network(6)
    (heights,) = counts(plots.similarity_histogram(model, layer=layer).axes[0])
    kernel = model.get_layer(name).kernel.numpy()
    np.testing.assert_array_equal(heights, np.histogram(cosines(kernel), 40, (-1, 1))[0])


def test_a_grown_model_has_more_pairs():
    model = growable(4)
    before = model.get_layer("conv2").kernel.numpy()
    model.grow(0.5, method="random")
    figure = plots.similarity_histogram({"before": before, "after": model}, layer=2)
    assert "before: 6 pairs" in legend(figure)[0]
    assert "after: 15 pairs" in legend(figure)[1]


@pytest.mark.parametrize("layer", [0, 5, -1, "relu1", "nothing"])
def test_a_layer_that_does_not_exist(layer):
    with pytest.raises(ValueError, match=r"no such `layer`.*1 'conv1', 2 'conv2'.*4 'head'"):
        plots.similarity_histogram({"a": network()}, layer=layer)


def test_bad_histogram_input():
    with pytest.raises(ValueError, match="nothing to draw"):
        plots.similarity_histogram({})
    with pytest.raises(ValueError, match=r"2 axes or more. Received: shape \(3,\)"):
        plots.similarity_histogram({"a": np.ones(3)})
    inputs = keras.Input((3,))
    with pytest.raises(ValueError, match="no layer with a kernel"):
        plots.similarity_histogram(keras.Model(inputs, keras.layers.ReLU()(inputs)))


@pytest.mark.parametrize("method", ["gradcam", "gradcam++", "scorecam"])
def test_grid_has_a_row_for_the_input_and_one_a_model(method, capfd):
    models = {"small": network(4, "a"), "large": network(6, "b")}
    names = ["cat", "dog", "bird"]
    figure = plots.saliency_grid(models, images(), [2, 0, 1], method, class_names=names)
    panels = np.reshape(figure.axes[:9], (3, 3))
    assert [axes.get_title() for axes in panels[0]] == ["bird", "cat", "dog"]
    assert [axes.get_ylabel() for axes in panels[:, 0]] == ["input", "small", "large"]
    for row, model in zip(panels[1:], models.values(), strict=True):
        drawn = np.stack([axes.images[-1].get_array() for axes in row])
        assert drawn.shape == (3, 8, 8)
        assert 0 <= drawn.min() <= drawn.max() <= 1
        np.testing.assert_allclose(
            drawn, plots.saliency_maps(model, images(), [2, 0, 1], method, None)
        )
    assert figure.axes[9].get_ylabel() == plots.SALIENCY_METHODS[method]
    assert "step" not in capfd.readouterr().out  # Score-CAM's progress bar


def test_gradcam_agrees_with_its_formula():
    import tensorflow as tf

    model = network(4)
    features = keras.Model(model.inputs[0], [model.get_layer("relu2").output, model.output])
    with tf.GradientTape() as tape:
        activations, logits = features(images())
        score = tf.linalg.diag_part(logits)
    weights = tf.reduce_mean(tape.gradient(score, activations), axis=(1, 2), keepdims=True)
    coarse = tf.nn.relu(tf.reduce_sum(weights * activations, axis=-1)).numpy()
    assert coarse.max(axis=(1, 2)).min() > 1e-4  # each image has something to show
    # Linear interpolation from 4 to 8 points, first on first and last on last.
    to_fine = np.stack([np.interp(np.linspace(0, 3, 8), range(4), row) for row in np.eye(4)], 1)
    fine = to_fine @ coarse @ to_fine.T
    low, high = (f(fine, axis=(1, 2), keepdims=True) for f in (np.min, np.max))
    maps = plots.saliency_maps(model, images(), [0, 1, 2], "gradcam", None)
    np.testing.assert_allclose(maps, (fine - low) / (high - low), atol=2e-3)


def test_features_are_those_of_the_last_convolution_with_positions():
    model = network()
    by_default = plots.saliency_maps(model, images(), [0, 1, 2], "gradcam", None)
    named = plots.saliency_maps(model, images(), [0, 1, 2], "gradcam", "relu2")
    np.testing.assert_array_equal(by_default, named)


def test_a_growth_that_keeps_the_function_keeps_the_maps(tmp_path):
    model = growable(4)
    before = plots.saliency_maps(model, images(), [0, 1, 2], "gradcam", None)
    model.grow(0.5, method=keras_grow.methods.Net2Wider(noise=0.0))
    after = plots.saliency_maps(model, images(), [0, 1, 2], "gradcam", None)
    np.testing.assert_allclose(after, before, atol=2e-3)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    again = plots.saliency_maps(loaded, images(), [0, 1, 2], "gradcam", None)
    np.testing.assert_allclose(again, after, atol=1e-4)


def test_images_are_shown_from_black_to_white_after_any_normalisation():
    normalised = 5 * images() - 3
    figure = plots.saliency_grid(network(), normalised, [0, 1, 2], overlay=False)
    shown = np.stack([axes.images[0].get_array() for axes in figure.axes[:3]])
    assert shown.min() == pytest.approx(0)
    assert shown.max() == pytest.approx(1)
    assert [len(axes.images) for axes in figure.axes[3:6]] == [1, 1, 1]


def without_convolutions():
    inputs = keras.Input((8, 8, 1))
    outputs = keras.layers.Dense(3)(keras.layers.Flatten()(inputs))
    return keras.Model(inputs, outputs, name="dense")


@pytest.mark.parametrize(
    "model, count, classes, arguments, message",
    [
        (without_convolutions(), 3, [0, 1, 2], {}, "needs a Conv2D.*'dense' lacks"),
        (network(), 3, [0, 1], {}, "one class an image.*2 classes"),
        (network(), 3, [0, 1, 3], {}, r"from 0 to 2.*Received: classes=\[0, 1, 3\]"),
        (network(), 3, [0, 1, -1], {}, "from 0 to 2"),
        (network(), 0, [], {}, "0 classes"),
        (network(), 3, [0, 1, 2], {"method": "lime"}, "`method` must be one of .*'lime'"),
        (network(), 3, [0, 1, 2], {"layer": "nothing"}, "No such layer: nothing"),
        ({}, 3, [0, 1, 2], {}, "nothing to draw"),
    ],
)
def test_bad_saliency_input(model, count, classes, arguments, message):
    with pytest.raises(ValueError, match=message):
        plots.saliency_grid(model, images(count), classes, **arguments)


@pytest.mark.parametrize("package", ["matplotlib", "tf_keras_vis"])
def test_a_missing_package_is_named_with_its_extra(package, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r"pip install 'keras-grow\[recipes\]'"):
        if package == "matplotlib":
            plots.growth_curve(run())
        else:
            plots.saliency_grid(network(), images(), [0, 1, 2])


def test_figures_leave_nothing_behind_in_pyplot():
    import matplotlib.pyplot

    figure = plots.growth_curve(run())
    assert matplotlib.pyplot.get_fignums() == []
    assert figure.canvas.manager is None
