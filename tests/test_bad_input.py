"""Bad input: a clear error at once, the model unchanged. The calls are those of the docs."""

import re
from pathlib import Path

import keras
import numpy as np
import pytest
from networks import mlp
from problems import eager

import keras_grow
from keras_grow import GrowableModel, GrowthCallback, flops

DOCUMENT = Path(__file__).parent.parent / "docs" / "reliability.md"
ROWS = re.findall(r"^\| `(.+)` \| (\w+Error): (.+) \|$", DOCUMENT.read_text(), flags=re.M)


def named(model, name="network"):
    model.name = name
    return eager(model, optimizer="sgd")


def fixed():
    inputs = keras.Input((5,))
    return named(GrowableModel(inputs, keras.layers.Dense(2, name="head")(inputs)), "fixed")


def diverged():
    model = named(mlp())
    kernel = model.get_layer("hidden0").kernel
    kernel.assign(kernel * np.nan)
    return model


def wider():
    model = named(mlp())
    model.grow(0.5, "random")
    return model


def plain():
    return named(keras.Sequential([keras.Input((5,)), keras.layers.Dense(2)]), "plain")


class Names(dict):
    """The names that the table speaks of; models are made when they are asked for."""

    def __init__(self, folder):
        public = {name: getattr(keras_grow, name) for name in keras_grow.__all__}
        data = {"x": np.ones((8, 5), "float32"), "y": np.ones((8, 2), "float32")}
        super().__init__(public | data | {"keras": keras, "np": np, "flops": flops})
        self.folder = folder

    def __missing__(self, name):
        makers = {
            "model": lambda: named(mlp()),
            "fixed": fixed,
            "diverged": diverged,
            "wider": wider,
            "plain": plain,
            "saved": self._saved,
        }
        if name not in makers:
            raise KeyError(name)
        self[name] = makers[name]()
        return self[name]

    def _saved(self):
        path = self.folder / "saved.weights.h5"
        self["model"].save_weights(path)
        return path


def test_the_table_is_long_and_read_whole():
    lines = DOCUMENT.read_text().split("| call | what you see |")[1].splitlines()
    assert len(ROWS) == len([line for line in lines if line.startswith("| `")]) >= 100
    assert len({call for call, *_ in ROWS}) == len(ROWS)


@pytest.mark.parametrize(("call", "error", "message"), ROWS, ids=[call for call, *_ in ROWS])
@pytest.mark.filterwarnings("ignore:`GrowthCallback` grows nothing in this `fit`")
@pytest.mark.filterwarnings("ignore:Your input ran out of data")  # Keras's own remark
def test_a_call_of_the_table(call, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = Names(tmp_path)
    growable = ("model", "wider", "diverged")
    used = [names[name] for name in growable if re.search(rf"\b{name}\b", call)]
    before = [(model.widths, model.growth_history) for model in used]
    with pytest.raises(Exception, match=re.escape(message)) as raised:
        eval(call, {}, names)
    assert raised.type.__name__ == error
    assert [(model.widths, model.growth_history) for model in used] == before
    assert [path.name for path in tmp_path.iterdir()] in ([], ["saved.weights.h5"])


@pytest.mark.tensorflow
@pytest.mark.filterwarnings("ignore:Your input ran out of data")  # Keras's own remark
@pytest.mark.parametrize("rows, batches", [(0, 1), (4, 0)])
def test_a_data_set_that_yields_nothing(rows, batches):
    tf = pytest.importorskip("tensorflow")
    data = tf.data.Dataset.from_tensor_slices((np.ones((rows, 5)), np.ones((rows, 2)))).batch(4)
    model = named(mlp())
    weights = model.get_weights()
    callback = GrowthCallback(0.5, every=1, method="random", verbose=0)
    with pytest.raises(ValueError, match="yielded no batch"):
        model.fit(data.take(batches), epochs=3, callbacks=[callback], verbose=0, shuffle=False)
    for a, b in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
