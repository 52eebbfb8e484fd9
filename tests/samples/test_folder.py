import pytest

from prunella.errors import UserError
from prunella.samples.folder import index, reader
from prunella.samples.pictures import Unfit


def rows(folder, **columns):
    """(key, caption, fault) of every row."""
    source = {"source": "folder", "path": str(folder), "columns": columns}
    return [(row["key"], row["text"], row["fault"]) for table in index(source) for row in table.to_pylist()]


def listing(folder, *lines, name="metadata.jsonl"):
    (folder / name).write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines))
    return folder


def test_lines_are_read_and_absent_captions_are_none(tmp_path):
    listing(tmp_path, '{"file_name": "a/b.png", "text": "a cat"}', "", '{"file_name": "c.png"}')
    assert rows(tmp_path) == [("a/b.png", "a cat", None), ("c.png", None, None)]


def test_captions_of_other_kinds(tmp_path):
    listing(tmp_path, '{"file_name": "a", "caption": ["one", "two"]}', '{"file_name": "b", "caption": []}')
    assert rows(tmp_path) == [("a", ["one", "two"], None), ("b", [], None)]
    listing(tmp_path, '{"file_name": "a", "text": 3}', '{"file_name": "b", "text": "b\\u0000 \\ud83d\\ude00"}')
    assert rows(tmp_path) == [("a", "3", None), ("b", "b\0 \U0001f600", None)]


def test_a_column_may_be_named(tmp_path):
    listing(tmp_path, '{"file_name": "a", "text": "x", "beschreibung": "y"}')
    assert rows(tmp_path) == [("a", "x", None)] and rows(tmp_path, text="beschreibung") == [("a", "y", None)]
    with pytest.raises(UserError, match=r"filter.columns.text: the data have no column 'z'; they have file_name, text"):
        rows(tmp_path, text="z")


def test_bad_lines_are_faults_with_their_number(tmp_path):
    bad = ["{", "3", '{"text": "no name"}', '{"file_name": 3}', b'{"file_name": "l.png", "text": "\xe9"}']
    listing(tmp_path, '{"file_name": "a.png", "text": "x"}', *bad)
    assert rows(tmp_path) == [
        ("a.png", "x", None),
        ("metadata.jsonl, line 2", None, "line is no JSON"),
        ("metadata.jsonl, line 3", None, "line without file_name"),
        ("metadata.jsonl, line 4", None, "line without file_name"),
        ("metadata.jsonl, line 5", None, "line without file_name"),
        ("metadata.jsonl, line 6", None, "caption not UTF-8"),
    ]


def test_csv_is_read_too(tmp_path):
    listing(
        tmp_path, "file_name,text,punsafe", 'a.png,"a cat, and\na dog",0.5', ",no name,1", b"b.png,\xe9,0",
        name="metadata.csv",
    )  # fmt: skip
    assert rows(tmp_path) == [
        ("a.png", "a cat, and\na dog", None),
        ("metadata.csv, row 3", None, "line without file_name"),
        ("metadata.csv, row 4", None, "caption not UTF-8"),
    ]
    (table, *_) = index({"source": "folder", "path": str(tmp_path), "columns": {}})
    assert table["punsafe"].to_pylist() == [0.5]


def test_texts_beside_pictures(tmp_path):
    (tmp_path / "b").mkdir()
    for name in ("b/1.JPG", "a.png", "none.webp", "notes.md"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "a.txt").write_text("ein Bär")
    (tmp_path / "b" / "1.txt").write_bytes(b"\xe9")
    assert rows(tmp_path) == [
        ("a.png", "ein Bär", None),
        ("b/1.JPG", None, "caption not UTF-8"),
        ("none.webp", None, None),
    ]


def test_no_folder_and_no_captions_are_said(tmp_path):
    with pytest.raises(UserError, match=r"filter.path: there is no folder .*none"):
        rows(tmp_path / "none")
    with pytest.raises(UserError, match=r"neither metadata.jsonl nor metadata.csv nor a NAME.txt beside a picture"):
        rows(tmp_path)
    listing(tmp_path, "nonsense")
    with pytest.raises(UserError, match=r"no line is of the form .* metadata.jsonl, line 1 is the first"):
        rows(tmp_path)


def test_what_leads_out_of_the_folder_is_not_read(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.png").write_bytes(b"1")
    (tmp_path / "in" / "a.png").write_bytes(b"2")
    (tmp_path / "in" / "link.png").symlink_to(tmp_path / "secret.png")
    fetch = reader({"source": "folder", "path": str(tmp_path / "in"), "columns": {}})
    assert fetch("a.png") == b"2"
    for key in ("../secret.png", str(tmp_path / "secret.png"), "link.png"):
        with pytest.raises(Unfit, match=r"file outside filter\.path"):
            fetch(key)
    with pytest.raises(Unfit, match="no such file"):
        fetch("none.png")
