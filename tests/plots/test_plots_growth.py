"""Curves are checked by what is drawn in them, not by whether a file appears."""

from itertools import pairwise

import numpy as np
import pytest
from figures import growable, images, legend, lines, network, run

import keras_grow
from keras_grow import plots


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


def test_a_network_that_does_not_grow_keeps_its_size():
    static = {**run(3, growths=()), "parameters": 170}
    del static["history"]["params"]
    figure = plots.growth_curve({"grown": run(3, growths=(2,)), "static": static})
    grown, flat = (line.get_ydata() for line in figure.axes[2].get_lines())
    np.testing.assert_allclose(grown, [100, 100, 100, 150])
    np.testing.assert_allclose(flat, [170] * 4)


def test_growths_by_hand_and_without_events_are_fine():
    one = run()
    one["growth"] = [{"epoch": None}, {"epoch": 2}]
    np.testing.assert_allclose(lines(plots.growth_curve(one).axes[0])["growth"].get_xdata(), [2])
    del one["growth"]
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


@pytest.mark.parametrize(
    "x, column, label",
    [("seconds", "seconds", "time (s)"), ("flops", "training_flops", "(FLOPs)")],
)
def test_the_horizontal_axis_can_be_cost(x, column, label):
    one = run()
    figure = plots.growth_curve(one, x=x)
    assert label in figure.axes[-1].get_xlabel()
    summed = np.cumsum(one["history"][column])
    np.testing.assert_allclose(lines(figure.axes[0])["held-out"].get_xdata(), summed)
    marks = lines(figure.axes[0])["growth"].get_xdata()
    np.testing.assert_allclose(marks, summed[[1, 3]])


def test_seeds_stand_at_their_mean_cost():
    seeds = [run(seed=1), run(seed=2)]
    drawn = plots.growth_curve({"a": seeds}, x="seconds").axes[0].get_lines()
    summed = [np.cumsum(each["history"]["seconds"]) for each in seeds]
    (mean,) = [line for line in drawn if "mean" in str(line.get_label())]
    np.testing.assert_allclose(mean.get_xdata(), np.mean(summed, axis=0))


def test_a_metric_of_every_other_epoch_is_drawn_where_it_was_measured():
    one = {**run(5), "configuration": {"test_every": 2}}
    one["history"].update(val_accuracy=[0.2, 0.6], val_loss=[2.0, 1.0])
    one["growth"] = [{"epoch": 2}, {"epoch": 3}]
    drawn = lines(plots.growth_curve(one).axes[0])
    np.testing.assert_allclose(drawn["held-out"].get_xydata(), [[2, 0.2], [4, 0.6]])
    np.testing.assert_allclose(drawn["growth"].get_xydata(), [[2, 0.2], [3, 0.4]])


def test_an_epoch_without_a_finite_loss_is_left_out():
    one = run(3, growths=())
    one["history"]["val_loss"] = [2.0, None, 1.0]  # as JSON has a NaN
    drawn = lines(plots.growth_curve(one).axes[1])["held-out"]
    np.testing.assert_allclose(drawn.get_xydata(), [[1, 2.0], [3, 1.0]])


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
    callback = keras_grow.GrowthCallback(0.5, 2, "net2wider", penalty=None, verbose=0)
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
        ({"a": {"accuracy": [1.0]}}, {}, "'a': a run must have a non-empty 'history'"),
        ({"history": {}}, {}, "must have a non-empty 'history'"),
        ({"history": {"accuracy": [1.0], "loss": []}}, {}, "one value an epoch"),
        (
            {"history": {"accuracy": [1.0], "loss": [1.0]}},
            {"x": "flops"},
            "no 'training_flops'",
        ),
        (
            {"history": {"accuracy": [1.0], "loss": [1.0]}, "configuration": {"test_every": 0}},
            {},
            "must be a positive integer",
        ),
        ("runs/a/results.json", {}, "'': a run must have a non-empty 'history'. Received: 'runs/a"),
    ],
)
def test_bad_runs(runs, arguments, message):
    with pytest.raises(ValueError, match=message):
        plots.growth_curve(runs, **arguments)


def test_runs_validated_once_at_the_end_are_shown_by_their_training():
    one = run(4)
    one["history"] |= {"val_accuracy": [0.5], "val_loss": [1.0]}
    one["configuration"] = {"test_every": 4}
    accuracy, loss, _ = plots.growth_curve({"a": one, "b": one}).axes
    assert (accuracy.get_ylabel(), loss.get_ylabel()) == (
        "training\naccuracy (%)",
        "training\nloss",
    )
    np.testing.assert_allclose(lines(accuracy)["a"].get_ydata(), one["history"]["accuracy"])


@pytest.mark.parametrize("label", ["a", "a penalty", "a long label that says all of its options"])
def test_the_key_fits_on_the_page(label):
    figure = plots.growth_curve({f"{label} {index}": [run(), run(seed=1)] for index in range(3)})
    figure.draw_without_rendering()
    (key,) = figure.legends
    box, page = key.get_window_extent(), figure.bbox
    assert page.x0 <= box.x0 and box.x1 <= page.x1


def test_training_values_are_named_beside_held_out_ones():
    figure = plots.growth_curve({"a": run(), "b": run(validation=False)})
    assert legend(figure) == ["a", "b, training", "growth"]


def test_flops_are_counted_in_units():
    figure = plots.growth_curve(run(), x="flops")
    figure.draw_without_rendering()
    ticks = [tick.get_text() for tick in figure.axes[-1].get_xticklabels()]
    assert ticks[0] == "0" and ticks[-1].endswith(" T")
