"""Files that are complete or not there."""

import pytest

from keras_grow.utils import files
from keras_grow.utils.files import replacing


def test_a_file_takes_its_place_at_the_end(tmp_path):
    path = tmp_path / "folder" / "file.txt"
    with replacing(path) as partial:
        partial.write_text("new")
        assert not path.exists() and partial.name == "file.txt"
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_a_failure_leaves_the_previous_file(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_content_is_on_the_disk_before_it_takes_its_place(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(files.os, "fsync", lambda handle: done.append("sync"))
    replace = files.os.replace
    monkeypatch.setattr(files.os, "replace", lambda a, b: (done.append("replace"), replace(a, b)))
    with replacing(tmp_path / "file.txt") as partial:
        partial.write_text("new")
    assert done == ["sync", "replace", "sync"]
