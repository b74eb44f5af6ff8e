"""Who may import whom, and what: read from the syntax trees."""

import ast
from pathlib import Path

import pytest

import keras_grow

ROOT = Path(keras_grow.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
# Each room may import what stands on lines above its own, and itself.
FLOORS = [
    "_version utils backend",
    "core",
    "layers",
    "channels",
    "growing penalty",
    "methods",
    "fit_context",
    "model",
    "callbacks",
    "runs flops similarity schedules models",
    "saliency tuning",
    "plots",
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms.split()}
# Where something is allowed that is allowed nowhere else.
ALLOWED = {
    "tensorflow": ["backend/tensorflow/", "backend/tf_"],
    "jax": ["backend/jax/"],
    "matplotlib": ["plots/"],
    "tf_keras_vis": ["saliency/maps.py"],
    "keras_tuner": ["tuning/"],
    "keras.src": ["core/keras_private/"],
}
# Attributes with an underscore of objects of Keras, TensorFlow and KerasTuner.
NAMED_TUPLES = {"_replace", "_asdict", "_fields"}
PRIVATE = ["core/keras_private/", "backend/tensorflow/", "tuning/tuners.py"]


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def room_of(path):
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def imports_of(tree):
    """Yields the module of each import, also of those within functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_for_types(node):
    return isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"


def tree_of(path):
    """The syntax tree of a module, without what is imported for annotations only."""
    tree = ast.parse(path.read_text())
    tree.body = [node for node in tree.body if not is_for_types(node)]
    return tree


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nothing_is_imported_uphill(path):
    if path == ROOT / "__init__.py":
        return
    for module in imports_of(tree_of(path)):
        parts = module.split(".")
        if parts[0] == "keras_grow" and len(parts) > 1 and parts[1] in FLOOR:
            assert FLOOR[parts[1]] <= FLOOR[room_of(path)], module


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_each_framework_has_its_place(path):
    for module in imports_of(tree_of(path)):
        for package, places in ALLOWED.items():
            if module == package or module.startswith(package + "."):
                assert any(name_of(path).startswith(place) for place in places), module


def own_attributes(tree):
    """Names with an underscore that a module defines itself: functions, methods, attributes."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if getattr(node.value, "id", None) in ("self", "cls"):
                names.add(node.attr)
        elif isinstance(node, ast.AnnAssign):
            names.add(getattr(node.target, "id", None))
    return names


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_private_attributes_are_read_where_they_are_meant_to_be(path):
    """An attribute with an underscore is the module's own, or of `self`, or in the right place."""
    if any(name_of(path).startswith(place) for place in PRIVATE):
        return
    tree = tree_of(path)
    own = own_attributes(tree) | NAMED_TUPLES
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
            known = node.attr.startswith("__") or node.attr in own
            assert known, f"line {node.lineno}: {ast.unparse(node)}"


def test_no_backend_is_asked_for_outside_of_its_room():
    for path in FILES:
        if room_of(path) != "backend":
            assert "config.backend()" not in path.read_text(), path
