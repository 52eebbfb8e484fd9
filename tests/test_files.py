from pathlib import Path

import pytest

from prunella.files import atomic_write_text, json_digest


def test_a_file_is_the_old_or_the_new(tmp_path, monkeypatch):
    path = tmp_path / "new" / "a.json"
    atomic_write_text(path, "old")

    def killed(self, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", killed)
        atomic_write_text(path, "new")
    assert path.read_text() == "old"
    atomic_write_text(path, "new")
    assert [file.name for file in path.parent.iterdir()] == ["a.json"] and path.read_text() == "new"


def test_a_digest_stands_for_content_and_not_for_its_order():
    assert json_digest({"a": 1, "b": [2]}) == json_digest({"b": [2], "a": 1}) != json_digest({"a": 1, "b": [3]})
    assert len(json_digest(None)) == 16
