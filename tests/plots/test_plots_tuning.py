"""Figures of searches are checked by what is drawn in them."""

import numpy as np
import pytest
from figures import legend

from keras_grow.plots.tuning import hyperparameter_curve

SCAN = {0: [0.50, 0.54], 0.1: [0.60, 0.62], 0.01: [0.55, 0.55]}


def drawn(axes):
    """Positions and means, and the ends of the bars, of each curve."""
    curves = []
    for container in axes.containers[::2]:
        line, _, (bars,) = container.lines
        curves.append((line.get_xdata(), line.get_ydata(), np.array(bars.get_segments())[:, :, 1]))
    return curves


def test_means_and_ranges():
    figure = hyperparameter_curve(SCAN, "lambda", log=True)
    (axes,) = figure.axes
    ((x, mean, bars),) = drawn(axes)
    np.testing.assert_array_equal(x, [0, 0.01, 0.1])
    np.testing.assert_allclose(mean, [52, 55, 61])
    np.testing.assert_allclose(bars, [[50, 54], [55, 55], [60, 62]])
    assert axes.get_ylabel() == "validation accuracy (%)\nmean, its error, and range of 2"
    assert axes.get_xlabel() == "lambda"
    assert not figure.legends


def test_thick_bars_are_standard_errors():
    (axes,) = hyperparameter_curve({1: [0.5, 0.6, 0.7], 2: [0.5]}, "N").axes
    _, _, (bars,) = axes.containers[1].lines
    ends = np.array(bars.get_segments())[:, :, 1]
    np.testing.assert_allclose(ends, [[60 - 10 / 3**0.5, 60 + 10 / 3**0.5], [50, 50]])


def test_zero_has_a_place_on_a_logarithmic_axis():
    (axes,) = hyperparameter_curve(SCAN, "lambda", log=True).axes
    assert axes.get_xscale() == "symlog"
    shown = axes.transData.transform([(value, 50) for value in (0, 0.01, 0.1)])[:, 0]
    assert shown[1] - shown[0] == pytest.approx(shown[2] - shown[1], rel=0.2)
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "0.01", "0.1"]


def test_several_curves_have_a_key_and_differ_in_grey():
    figure = hyperparameter_curve({"N 1": SCAN, "N 5": {0: [0.5], 0.1: [0.6]}}, "lambda")
    (axes,) = figure.axes
    assert legend(figure) == ["N 1", "N 5"]
    assert axes.get_ylabel().endswith("mean, its error, and range of 1 to 2")
    lines = [container.lines[0] for container in axes.containers[::2]]
    assert len({(line.get_linestyle(), line.get_marker()) for line in lines}) == 2
    assert axes.get_xscale() == "linear"


def test_random_searches_are_not_joined():
    (axes,) = hyperparameter_curve({"all trials": {1: [0.5], 2: [0.4]}}, "N", lines=False).axes
    assert {container.lines[0].get_linestyle() for container in axes.containers} == {"None"}
    assert axes.get_ylabel().endswith("one run each")


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ({}, "`results` must not be empty"),
        ({"N 1": {}}, "nothing to draw for 'N 1'"),
        ({0.1: []}, "must have accuracies, and all must be finite. Received: 0.1"),
        ({0.1: [0.5, np.nan]}, "must have accuracies, and all must be finite"),
    ],
)
def test_what_cannot_be_drawn(results, message):
    with pytest.raises(ValueError, match=message):
        hyperparameter_curve(results, "lambda")


def test_negative_values_have_no_logarithm():
    with pytest.raises(ValueError, match="`log` must be False where a value is negative"):
        hyperparameter_curve({-1: [0.5], 1: [0.6]}, "x", log=True)
