"""Figures of similarity are checked by what is drawn in them."""

import keras
import numpy as np
import pytest
from figures import growable, legend, lines, network, run

from keras_grow import plots


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
    kernel = np.array(model.get_layer(name).kernel)
    np.testing.assert_array_equal(heights, np.histogram(cosines(kernel), 40, (-1, 1))[0])


def test_depthwise_kernels_are_of_no_neurons():
    inputs = x = keras.Input((6, 6, 2))
    x = keras.layers.Conv2D(4, 3)(x)
    x = keras.layers.DepthwiseConv2D(3)(x)
    x = keras.layers.Flatten()(keras.layers.Conv2D(3, 1, name="pointwise")(x))
    model = keras.Model(inputs, keras.layers.Dense(2)(x))
    (axes,) = plots.similarity_histogram(model).axes
    assert np.sum(counts(axes)) == 3  # pairs of the second convolution, as of any other model


def test_a_grown_model_has_more_pairs():
    model = growable(4)
    before = np.array(model.get_layer("conv2").kernel)
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


def test_similarity_over_time_draws_what_was_logged_and_marks_growths():
    one = run(growths=(2, 4))
    figure = plots.similarity_over_time({"firefly": one})
    (axes,) = figure.axes
    assert legend(figure) == ["firefly", "growth"]
    assert axes.get_ylabel() == "mean |similarity| of two neurons"
    drawn, values = lines(axes), one["history"]["similarity"]
    np.testing.assert_allclose(drawn["firefly"].get_ydata(), values)
    np.testing.assert_allclose(drawn["growth"].get_xydata(), [[2, values[1]], [4, values[3]]])


def test_similarity_over_time_of_seeds_is_their_mean_and_range():
    seeds = [run(seed=1), run(seed=2)]
    figure = plots.similarity_over_time({"a": seeds, "b": run(seed=3)}, x="seconds")
    values = np.array([each["history"]["similarity"] for each in seeds])
    mean = lines(figure.axes[0])["a (mean and range of 2)"]
    np.testing.assert_allclose(mean.get_ydata(), values.mean(axis=0))
    (band,) = figure.axes[0].collections
    corners = band.get_paths()[0].vertices[:, 1]
    assert (corners.min(), corners.max()) == pytest.approx((values.min(), values.max()))
    assert figure.axes[0].get_xlabel() == "training time (s)"


def test_a_run_without_similarity():
    one = run()
    del one["history"]["similarity"]
    with pytest.raises(ValueError, match=r"'a' has no 'similarity' in its history, but .*'loss'"):
        plots.similarity_over_time({"a": one})
