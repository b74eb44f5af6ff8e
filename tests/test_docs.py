"""The code in the documentation runs."""

import json
import operator
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from networks import plain_cnn
from problems import cross_entropy, eager

import keras_grow

ROOT = Path(__file__).parent.parent


def blocks(name):
    """Returns the Python blocks of a document, shortened to a few epochs that run eagerly."""
    text = (ROOT / name).read_text()
    code = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    shorter = {
        "max_epochs=30": "max_epochs=2",
        "every=5)": "every=1)",
        "0.35, every=10": "0.35, every=1",
        "0.35, 10,": "0.35, 1,",
        "epochs=60": "epochs=2",
        "epochs=300": "epochs=3",
        'model.compile("adam", ': 'model.compile("adam", run_eagerly=True, loss=',
    }
    for long, short in shorter.items():
        code = [block.replace(long, short) for block in code]
    return code


def small_network():
    inputs = keras.Input((32, 32, 3))
    x = keras_grow.layers.GrowableConv2D(4, 3, strides=8)(inputs)
    model = keras_grow.GrowableModel(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(x)))
    return eager(model, cross_entropy(), metrics=["accuracy"])


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:(currentThread|getName):DeprecationWarning")  # KerasTuner
def test_the_guide(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = np.zeros((4, 32, 32, 3), "float32")
    names = {
        "keras": keras,
        "keras_grow": keras_grow,
        "keras_model": keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]),
        "total_steps": 100,
        "growth_steps": (20, 40),
        "build": small_network,
    }
    for block in blocks("docs/guide.md"):
        names |= {"x": images, "y": np.zeros(4)}  # a block that builds a model calls its tensors x
        exec(block, names)
    assert [event.method for event in names["model"].growth_history][-1] == "random"
    (trial, *_) = names["tuner"].oracle.get_best_trials()
    assert len(names["tuner"].executions(trial)[0]["growth"]) == 1


def test_the_growth_method_of_the_docs():
    (block,) = [block for block in blocks("docs/methods.md") if "class " in block]
    model = eager(plain_cnn())
    x, y = np.ones((4, 6, 6, 2)), np.ones((4, 3))
    exec(block, {"model": model, "x": x, "y": y})
    assert model.growth_history[0].method == "copy_the_strongest"
    assert model.neurons == 15 + 5


def test_the_first_example_of_the_readme_compiles():
    block = blocks("README.md")[0]
    exec(block.split("model.fit")[0], {"steps_per_epoch": 10})


def test_the_start_page():
    text = (ROOT / "docs/index.md").read_text()
    names = {"x": np.zeros((4, 32, 32, 3), "float32"), "y": np.zeros(4)}
    for block in blocks("docs/index.md"):
        exec(block.replace('"adam",', '"adam", run_eagerly=True, loss='), names)
    first = names["model"].growth_history[0]
    neurons = f"{first.neurons_before} -> {first.neurons_after} neurons"
    parameters = f"{first.parameters_before:,} -> {first.parameters_after:,} parameters"
    assert f"{first.method} grew {neurons}, {parameters}, " in text


@pytest.mark.parametrize("file", sorted(ROOT.glob("docs/notebooks/*.ipynb")), ids=lambda f: f.stem)
def test_notebooks_are_saved_as_they_came_out_of_one_run(file):
    cells = [c for c in json.loads(file.read_text())["cells"] if c["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not {output["output_type"] for output in outputs} & {"error"}
    assert not any(output.get("name") == "stderr" for output in outputs)
    assert any("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.filterwarnings("ignore:(currentThread|getName):DeprecationWarning")  # KerasTuner
def test_the_api_reference_has_every_public_name():
    pages = "".join(page.read_text() for page in ROOT.glob("docs/api/*.md"))
    shown = [
        operator.attrgetter(name)(keras_grow)
        for name in re.findall(r"^::: keras_grow\.(\S+)$", pages, flags=re.M)
    ]
    rooms = "flops layers methods models plots runs schedules similarity tuning".split()
    for module in [keras_grow, *(getattr(keras_grow, room) for room in rooms)]:
        for name, thing in vars(module).items():
            here = getattr(thing, "__module__", None) == module.__name__ and name[0] != "_"
            if callable(thing) and name in getattr(module, "__all__", [name] * here):
                assert thing in shown, f"{module.__name__}.{name}"


@pytest.mark.parametrize("name", ["README.md", *(f"docs/{p.name}" for p in ROOT.glob("docs/*.md"))])
def test_links_lead_somewhere(name):
    text = (ROOT / name).read_text()
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert ((ROOT / name).parent / target).exists(), target


def test_every_public_name_has_a_docstring_and_an_example():
    for name in keras_grow.__all__:
        thing = getattr(keras_grow, name)
        if isinstance(thing, type):
            assert ">>>" in (thing.__doc__ or ""), name
