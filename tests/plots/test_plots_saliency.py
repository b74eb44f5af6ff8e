"""Grids are checked by what is drawn in them."""

from itertools import pairwise

import keras
import numpy as np
import pytest
from figures import images, network

from keras_grow import plots
from keras_grow.saliency.maps import SALIENCY_METHODS, saliency_maps


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
        np.testing.assert_allclose(drawn, saliency_maps(model, images(), [2, 0, 1], method, None))
    assert figure.axes[9].get_ylabel() == SALIENCY_METHODS[method]
    assert "step" not in capfd.readouterr().out  # Score-CAM's progress bar


def test_images_are_shown_from_black_to_white_after_any_normalisation():
    normalised = 5 * images() - 3
    figure = plots.saliency_grid(network(), normalised, [0, 1, 2], overlay=False)
    shown = np.stack([axes.images[0].get_array() for axes in figure.axes[:3]])
    assert shown.min() == pytest.approx(0)
    assert shown.max() == pytest.approx(1)
    assert [len(axes.images) for axes in figure.axes[3:6]] == [1, 1, 1]


@pytest.mark.parametrize("longest, slanted", [("cat", False), ("a very long name of a bird", True)])
def test_titles_longer_than_a_column_are_slanted(longest, slanted):
    names = ["dog", longest, "bird"]
    figure = plots.saliency_grid(network(), images(), [0, 1, 2], class_names=names)
    titles = [axes.title for axes in figure.axes[:3]]
    assert [title.get_text() for title in titles] == names
    assert [title.get_rotation() > 0 for title in titles] == [slanted] * 3


def test_long_labels_stay_in_their_rows():
    names = ["cifar10-mobilenet-random-neither-seed0", "cifar10-mobilenet-random-both-seed0", "c"]
    ten = np.repeat(images(1), 10, axis=0)
    figure = plots.saliency_grid({name: network() for name in names}, ten, [0] * 10)
    figure.draw_without_rendering()
    boxes = [axes.yaxis.label.get_window_extent() for axes in figure.axes[:40:10]]
    for above, below in pairwise(boxes):
        assert above.y0 > below.y1
    assert min(box.x0 for box in boxes) >= 0


def classes_of(count):
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(2, 3)(inputs))
    return keras.Model(inputs, keras.layers.Dense(count)(x))


def test_models_that_do_not_belong_together():
    with pytest.raises(ValueError, match=r"as many classes .*, not {'a': 3, 'b': 4}"):
        plots.saliency_grid({"a": network(), "b": classes_of(4)}, images(), [0, 1, 2])
    with pytest.raises(ValueError, match="nothing to draw"):
        plots.saliency_grid({}, images(), [0, 1, 2])
