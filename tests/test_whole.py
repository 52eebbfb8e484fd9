from pathlib import Path

import pytest

from prunella.whole import digest, write


def test_a_file_is_the_old_or_the_new(tmp_path, monkeypatch):
    path = tmp_path / "new" / "a.json"
    write(path, "old")

    def killed(self, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", killed)
        write(path, "new")
    assert path.read_text() == "old"
    write(path, "new")
    assert [file.name for file in path.parent.iterdir()] == ["a.json"] and path.read_text() == "new"


def test_a_digest_stands_for_content_and_not_for_its_order():
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1}) != digest({"a": 1, "b": [3]})
    assert len(digest(None)) == 16
