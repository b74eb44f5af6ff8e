"""The same seed gives the same run, whatever else draws random numbers."""

import hashlib
import os
import random
import subprocess
import sys
from functools import cache
from pathlib import Path

import keras
import numpy as np
import pytest
from networks import dense_cnn, mlp, plain_cnn
from problems import eager, problem
from quick_methods import METHODS
from states import weights_and_slots

from keras_grow import GrowableModel, GrowthCallback, SimilarityPenalty

pytestmark = pytest.mark.long


def draw_elsewhere(seed):
    """Uses every global source of random numbers."""
    keras.utils.set_random_seed(seed)
    random.random(), np.random.normal(size=seed)
    keras.random.uniform((seed,)), keras.random.normal((seed,))


@pytest.mark.parametrize("build", [mlp, pytest.param(dense_cnn, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", METHODS)
def test_a_growth_depends_on_its_seed_and_on_nothing_else(name, build):
    model = build()
    config, weights, grown, data = model.get_config(), model.get_weights(), [], problem(model, 8)
    for elsewhere, seed in ((5, 1), (6, 1), (5, 2)):
        twin = eager(GrowableModel.from_config(config))
        twin.set_weights(weights)
        for growth in range(2):
            draw_elsewhere(elsewhere + growth)
            before = random.getstate(), np.random.get_state()[1].tolist()
            twin.grow(0.4, METHODS[name](seed=seed), data=data)
            assert (random.getstate(), np.random.get_state()[1].tolist()) == before
        grown.append(twin.get_weights())
    same, other = zip(*grown[:2], strict=True), zip(grown[0], grown[2], strict=True)
    assert all(np.array_equal(a, b) for a, b in same)
    assert not all(a.shape == b.shape and np.array_equal(a, b) for a, b in other)


def run(name, seed=7):
    """A whole training run, with everything that is random in it."""
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(seed)
    model = eager(plain_cnn(dropout=0.2))
    penalty = SimilarityPenalty(epochs=1)
    callback = GrowthCallback(0.3, every=1, method=METHODS[name](), penalty=penalty, verbose=0)
    x, y = problem(model, 16)
    model.fit(x, y, batch_size=8, epochs=2, callbacks=[callback], verbose=0)
    return weights_and_slots(model)


first_run = cache(run)


@pytest.mark.parametrize("name", METHODS)
def test_the_same_seed_gives_the_same_run(name):
    first, second = first_run(name), run(name)
    assert all(map(np.array_equal, first, second))
    other = run(name, seed=8)
    assert any(a.shape != b.shape or np.any(a != b) for a, b in zip(first, other, strict=True))


def digests(*names):
    return [
        hashlib.sha256(b"".join(value.tobytes() for value in first_run(name))).hexdigest()
        for name in names
    ]


@pytest.mark.parametrize(
    "names",
    [
        ["net2wider", "firefly"],
        pytest.param(list(METHODS), marks=pytest.mark.slow),
    ],
)
def test_another_process_gives_the_same_run(names):
    """One that orders its sets of names in another way, too."""
    code = f"import test_determinism; print(*test_determinism.digests(*{names}))"
    helpers = str(Path(__file__).parent / "helpers")
    environment = {**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": helpers}
    output = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert output.splitlines()[-1].split() == digests(*names)
