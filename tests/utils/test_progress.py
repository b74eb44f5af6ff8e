"""The progress bar of a long choice appears where it is watched and wanted, and only there."""

import numpy as np
import pytest
from networks import mlp
from problems import eager
from quick_methods import METHODS

from keras_grow import GrowthCallback
from keras_grow.utils import progress

X, Y = np.ones((8, 5), "float32"), np.ones((8, 2), "float32")


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(progress, "PATIENCE", 0.0)


@pytest.fixture
def watched(monkeypatch):
    monkeypatch.setattr(progress, "is_watched", lambda: True)


def fit(verbose):
    model, method = eager(mlp()), METHODS["splitting"](seed=1)
    growth = GrowthCallback(0.5, every=1, method=method, penalty=None, verbose=verbose)
    model.fit(X, Y, epochs=2, verbose=0, callbacks=[growth])
    assert len(model.growth_history) == 1


@pytest.mark.usefixtures("watched")
def test_the_bar_shows_the_work(capsys):
    fit(verbose=1)
    assert "product" in capsys.readouterr().out


@pytest.mark.usefixtures("watched")
def test_a_silent_callback_shows_none(capsys):
    fit(verbose=0)
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("watched")
def test_a_short_wait_shows_none(monkeypatch, capsys):
    monkeypatch.setattr(progress, "PATIENCE", 60.0)
    bar = progress.Progress(2)
    bar.advance()
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    bar.advance()
    assert "2/2" in capsys.readouterr().out


def test_a_log_file_gets_none(capsys):
    fit(verbose=1)
    assert len(capsys.readouterr().out.splitlines()) == 1  # the line of the growth


@pytest.mark.usefixtures("watched")
def test_hidden_ends_with_its_block():
    with pytest.raises(ZeroDivisionError), progress.hidden():
        assert not progress.Progress(1).shown
        raise ZeroDivisionError
    assert progress.Progress(1).shown
