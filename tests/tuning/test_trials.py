"""What a search found, as curves, compared with what stands in its trials."""

import pytest

from keras_grow import tuning


def trial(accuracies, epochs=2, **values):
    return {"hyperparameters": values, "accuracies": accuracies, "mean": 0.5, "epochs": epochs}


def test_series_of_a_scan_and_of_a_search():
    grid = [trial([w / 2 + n / 8], weight=w, penalty_epochs=n) for w in (0, 1) for n in (1, 5)]
    assert tuning.curves(grid, "weight") == (
        {
            "penalty_epochs 1": {0: [0.125], 1: [0.625]},
            "penalty_epochs 5": {0: [0.625], 1: [1.125]},
        },
        True,
    )
    found = [trial([w / 10], weight=w, weight_sum=w / 7) for w in (1, 2, 3)]
    assert tuning.curves(found, "weight") == (
        {"all trials": {1: [0.1], 2: [0.2], 3: [0.3]}},
        False,
    )


def test_methods_are_curves_of_their_own_in_a_large_grid():
    grid = [
        trial([a / 10 + n / 5], weight_sum=a, penalty_epochs=n, method=m)
        for a in (4, 1, 2)
        for n in (1, 2)
        for m in ("random", "firefly")
    ]
    curves, joined = tuning.curves(grid, "penalty_epochs")
    assert list(curves) == ["random", "firefly"] and joined  # by a line: as many runs of each
    assert curves["firefly"] == {
        1: pytest.approx([0.6, 0.3, 0.4]),
        2: pytest.approx([0.8, 0.5, 0.6]),
    }
