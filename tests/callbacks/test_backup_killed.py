"""A real process is killed, and gone on with, as often as it takes to come to the end."""

import random
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import resumable
from resumable import EPOCHS, assert_equal, end_of, train

from keras_grow import GrowthBackup

pytestmark = pytest.mark.long


def start(folder, how, threads=1):
    """Runs `resumable.py` in a process of its own, to its end or until it is killed."""
    command = [sys.executable, "-W", "ignore", resumable.__file__, str(folder), how, str(threads)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr[-3000:]
    return done.returncode


def test_killed(tmp_path):
    """A real process, killed with its third backup half written, is gone on with by this one."""
    assert start(tmp_path, "half:3", threads=0) == -signal.SIGKILL  # as many as in this process
    assert any(path.name.startswith(".partial-") for path in tmp_path.iterdir())
    assert GrowthBackup(tmp_path).epoch == 2
    model, history = train(tmp_path)
    assert history.epoch == list(range(EPOCHS))
    assert_equal(end_of(train(None)[0]), end_of(model))


def check_begun(folder, restarted_at):
    """Checks the epochs that all processes began: in order, none of them skipped or done again.

    Args:
        folder: Where `begun.txt` is.
        restarted_at: Number of lines in it each time that a process was started.
    """
    begun = [int(line) for line in (folder / "begun.txt").read_text().split()]
    for i in range(1, len(begun)):
        step = begun[i] - begun[i - 1]
        # A process that was killed within an epoch begins it again; within a process, never.
        assert step == 1 or (step == 0 and i in restarted_at), (begun, restarted_at)
    assert begun[0] == 0 and begun[-1] == EPOCHS - 1


def some_kill(kind, rng, seconds):
    """Draws when a process kills itself: see `resumable.py`."""
    if kind == "after":
        return f"after:{rng.uniform(0, seconds):.2f}"
    return f"{kind}:{rng.randint(1, 20 if kind == 'growing' else 2)}"


@pytest.mark.slow
def test_killed_at_20_random_moments(tmp_path):
    """5 kills in growths, 5 in writing, 10 at any time, each followed by a new process.

    A run that comes to its end before that is compared, and another one begun.
    """
    rng = random.Random(0)
    reference, folder = tmp_path / "whole", tmp_path / "killed"
    reference.mkdir()
    assert start(reference, "never") == 0
    whole = dict(np.load(reference / "end.npz"))
    seconds = float(whole.pop("seconds"))
    kinds = ["growing"] * 5 + ["half", "half", "half", "whole", "whole"] + ["after"] * 10
    rng.shuffle(kinds)
    while kinds:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        restarted_at, code = [], -signal.SIGKILL
        while code:
            begun = folder / "begun.txt"
            restarted_at.append(len(begun.read_text().split()) if begun.exists() else 0)
            code = start(folder, some_kill(kinds[-1], rng, seconds) if kinds else "never")
            if code:
                kinds.pop()
        check_begun(folder, restarted_at)
        end = dict(np.load(folder / "end.npz"))
        end.pop("seconds")
        assert_equal(whole, end)
        print(f"{20 - len(kinds)} kills so far, {len(restarted_at)} processes for this run")
