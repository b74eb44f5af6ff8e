"""What holds of every figure."""

import sys

import pytest
from figures import images, network, run

from keras_grow import plots


@pytest.mark.parametrize(
    ("package", "command"),
    [("matplotlib", "pip install matplotlib"), ("tf_keras_vis", "pip install tf-keras-vis scipy")],
)
def test_a_missing_package_is_named_with_how_to_install_it(package, command, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=command):
        if package == "matplotlib":
            plots.growth_curve(run())
        else:
            plots.saliency_grid(network(), images(), [0, 1, 2])


def test_figures_leave_nothing_behind_in_pyplot():
    import matplotlib.pyplot

    figure = plots.growth_curve(run())
    assert matplotlib.pyplot.get_fignums() == []
    assert figure.canvas.manager is None
