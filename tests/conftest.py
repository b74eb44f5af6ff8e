import gc
import os
from collections import Counter

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import pytest
from hypothesis import HealthCheck, settings

from keras_grow import GrowthMethod

# Building a Keras model takes longer than hypothesis expects of one example.
settings.register_profile(
    "keras_grow",
    deadline=None,
    max_examples=8,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.register_profile("thorough", settings.get_profile("keras_grow"), max_examples=50)
settings.load_profile("keras_grow")


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses by marker
def pytest_collection_modifyitems(config, items):
    """Has all but the first cases of a test with the marker `quick` be long.

    Skips on another backend what is TensorFlow's alone.
    """
    cases = Counter()
    for item in items:
        quick = item.get_closest_marker("quick")
        if quick and not config.option.keyword:  # `-k` asks for a case by name
            test = item.nodeid.partition("[")[0]
            cases[test] += 1
            if cases[test] > quick.args[0]:
                item.add_marker(pytest.mark.long)
    if keras.config.backend() == "tensorflow":
        return
    skip = pytest.mark.skip(reason=f"TensorFlow's alone; this is {keras.config.backend()}")
    for item in items:
        if item.get_closest_marker("tensorflow"):
            item.add_marker(skip)


def pytest_collection_finish():
    """Leaves what is imported out of garbage collections, of which every growth makes one."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _fresh_keras_state():
    """Every test starts from the same seeds and names."""
    keras.utils.clear_session(free_memory=False)  # collecting garbage each time is slow
    keras.utils.set_random_seed(0)


def pytest_make_parametrize_id(config, val):
    """Names a growth method the same in every process that runs tests."""
    return val.name if isinstance(val, GrowthMethod) else None
