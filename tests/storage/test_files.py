from pathlib import Path

import pytest

from prunella.errors import UserError
from prunella.storage.files import atomic_folder, atomic_write_text, json_digest, read_yaml


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


def test_a_folder_is_the_old_or_the_new(tmp_path):
    for text in ("old", "new"):
        with atomic_folder(tmp_path / "deep" / "out") as half:
            (half / text).write_text(text)
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "deep" / "out") as half:
        (half / "more").write_text("half")
        raise KeyboardInterrupt
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == [
        "deep",
        "deep/out",
        "deep/out/new",
    ]


def test_a_digest_stands_for_content_and_not_for_its_order():
    assert json_digest({"a": 1, "b": [2]}) == json_digest({"b": [2], "a": 1}) != json_digest({"a": 1, "b": [3]})
    assert len(json_digest(None)) == 16


MILLION = b"a: &a [x, x]\n" + b"".join(b"%c: &%c [*%c, *%c]\n" % (n + 1, n + 1, n, n) for n in range(97, 117))


@pytest.mark.parametrize(
    "text",
    [b"a: \x80", b"[" * 5000, b"a: 2001-02-30", b"a: *b", b"a: 'b", b"a: &b [*b]", MILLION],
    ids=["not UTF-8", "deep", "no date", "no anchor", "no end", "in itself", "a million in 20 lines"],
)
def test_what_is_no_yaml_is_said_with_the_files_name(tmp_path, text):
    (tmp_path / "a.yaml").write_bytes(text)
    with pytest.raises(UserError, match="yaml: "):
        read_yaml(tmp_path / "a.yaml")
