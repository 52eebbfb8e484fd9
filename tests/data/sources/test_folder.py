import pytest

from prunella.data.images import RejectedImage
from prunella.data.sources import folder
from prunella.data.sources.folder import Folder
from prunella.errors import UserError


def rows(root, **columns):
    """(key, caption, fault) of every row."""
    source = {"source": "folder", "path": str(root), "columns": columns}
    return [
        (row["key"], row["text"], row["fault"]) for table in Folder(source).iter_rows() for row in table.to_pylist()
    ]


def listing(root, *lines, name="metadata.jsonl"):
    (root / name).write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines))
    return root


def test_lines_are_read_and_absent_captions_are_none(tmp_path):
    listing(tmp_path, '{"file_name": "a/b.png", "text": "a cat"}', "", '{"file_name": "c.png"}')
    assert rows(tmp_path) == [("a/b.png", "a cat", None), ("c.png", None, None)]


def test_captions_of_other_kinds(tmp_path):
    listing(tmp_path, '{"file_name": "a", "caption": ["one", "two"]}', '{"file_name": "b", "caption": []}')
    assert rows(tmp_path) == [("a", ["one", "two"], None), ("b", [], None)]
    odd = ['{"file_name": "a", "text": 3}', '{"file_name": "b", "text": "b\\u0000 \\ud83d\\ude00"}']
    odd += ['{"file_name": "c", "text": "half \\ud83d"}', '{"file_name": "d", "text": {"a": "b"}}']
    listing(tmp_path, *odd)
    assert rows(tmp_path) == [
        ("a", None, "caption is no text"),
        ("b", "b\0 \U0001f600", None),
        ("c", None, "caption not UTF-8"),
        ("d", None, "caption is no text"),
    ]


def test_strings_and_lists_in_one_file(tmp_path):
    listing(tmp_path, '{"file_name": "a", "text": ["one", 3, "two"]}', '{"file_name": "b", "text": "plain"}')
    assert rows(tmp_path) == [("a", ["one", "two"], None), ("b", ["plain"], None)]


def test_what_is_around_a_caption_is_taken_off(tmp_path):
    listing(tmp_path, '\ufeff{"file_name": "a", "text": " a cat\\r\\n"}', '{"file_name": "b", "text": "\\ufeffb"}')
    assert rows(tmp_path) == [("a", "a cat", None), ("b", "b", None)]


def test_columns_may_be_named(tmp_path):
    listing(tmp_path, '{"Bild": "a", "text": "x", "beschreibung": "y"}', '{"File_Name": "b", "text": "z"}')
    assert rows(tmp_path) == [("b", "z", None), ("metadata.jsonl, line 1", None, "row without File_Name")]
    assert rows(tmp_path, text="beschreibung", image="Bild") == [
        ("a", "y", None),
        ("metadata.jsonl, line 2", None, "row without Bild"),
    ]
    assert rows(tmp_path, text="none") == [
        ("b", None, None),
        ("metadata.jsonl, line 1", None, "row without File_Name"),
    ]


def test_bad_lines_are_faults_with_their_number(tmp_path):
    bad = ["{", "3", '{"text": "no name"}', '{"file_name": 3}', b'{"file_name": "l.png", "text": "\xe9"}']
    listing(tmp_path, '{"file_name": "a.png", "text": "x"}', *bad, '{"file_name": "\\ud83d.png", "text": "y"}')
    assert rows(tmp_path) == [
        ("a.png", "x", None),
        ("\\ud83d.png", "y", "file name not UTF-8"),
        ("metadata.jsonl, line 2", None, "line is no JSON"),
        ("metadata.jsonl, line 3", None, "line is no JSON object"),
        ("metadata.jsonl, line 6", None, "caption not UTF-8"),
        ("metadata.jsonl, line 4", None, "row without file_name"),
        ("metadata.jsonl, line 5", None, "row without file_name"),
    ]


def test_csv_is_read_too(tmp_path):
    listing(
        tmp_path, "file_name,text,punsafe", 'a.png,"a cat, and\na dog",0.5', ",no name,1", b"b.png,\xe9,0",
        'c.png,"open,2', "d.png,swallowed,3",
        name="metadata.csv",
    )  # fmt: skip
    assert rows(tmp_path) == [
        ("a.png", "a cat, and\na dog", None),
        ("b.png", None, "caption not UTF-8"),
        ("metadata.csv, after line 5", None, "CSV that ends inside a quotation"),
        ("metadata.csv, line 4", None, "row without file_name"),
    ]
    (table, *_) = Folder({"source": "folder", "path": str(tmp_path), "columns": {}}).iter_rows()
    assert table["punsafe"].to_pylist() == [0.5, 0.0]
    listing(tmp_path, "file_name,text,text", "a,b,c", name="metadata.csv")
    with pytest.raises(UserError, match=r"metadata.csv: two columns are called 'text'"):
        rows(tmp_path)
    listing(tmp_path, "file_name;text", "a;b", name="metadata.csv")
    with pytest.raises(UserError, match=r"no row names a picture; its columns are file_name;text, .* file_name,text"):
        rows(tmp_path)


def test_texts_beside_pictures(tmp_path):
    (tmp_path / "b").mkdir()
    for name in ("b/1.JPG", "a.png", "none.webp", "notes.md", "lonely.txt", "other.avif", "other.txt"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "a.txt").write_text("\ufeffein Bär\n")
    (tmp_path / "b" / "1.txt").write_bytes(b"\xe9")
    assert rows(tmp_path) == [
        ("a.png", "ein Bär", None),
        ("b/1.JPG", None, "caption not UTF-8"),
        ("none.webp", None, None),
        ("lonely.txt", None, "caption without picture"),
        ("other.txt", None, "caption without picture"),
    ]


def test_no_folder_and_no_captions_are_said(tmp_path):
    with pytest.raises(UserError, match=r"filter.path: there is no folder .*none"):
        rows(tmp_path / "none")
    with pytest.raises(UserError, match=r"neither metadata.jsonl nor metadata.csv nor a NAME.txt beside a picture"):
        rows(tmp_path)
    listing(tmp_path, "nonsense")
    with pytest.raises(
        UserError, match=r"no row names a picture; metadata.jsonl, line 1: line is no JSON. A line is as"
    ):
        rows(tmp_path)


def test_what_leads_out_of_the_folder_is_not_read(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.png").write_bytes(b"1")
    (tmp_path / "in" / "a.png").write_bytes(b"2")
    (tmp_path / "in" / "link.png").symlink_to(tmp_path / "secret.png")
    fetch = Folder({"source": "folder", "path": str(tmp_path / "in"), "columns": {}}).read_image_bytes
    assert fetch("a.png") == b"2"
    for key in ("../secret.png", str(tmp_path / "secret.png"), "link.png"):
        with pytest.raises(RejectedImage, match=r"file outside filter\.path"):
            fetch(key)
    (tmp_path / "in" / "circle.png").symlink_to(tmp_path / "in" / "circle.png")
    for key, why in (("none.png", "no such file"), ("a\0b", "unreadable file"), ("circle.png", "unreadable file")):
        with pytest.raises(RejectedImage, match=why):
            fetch(key)


def test_lines_that_are_too_long_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "MAX_LINE_BYTES", 60)
    listing(tmp_path, '{"file_name": "a", "text": "one"}', '{"file_name": "b", "text": "' + "x" * 200 + '"}', "3" * 61)
    found = [("a", "one", None), *((f"metadata.jsonl, line {i}", None, "line too long") for i in (2, 3))]
    assert rows(tmp_path) == found
    (tmp_path / "metadata.jsonl").unlink()
    listing(tmp_path, "file_name,text", "a,one", f"b,{'x' * 61}", "c,three", name="metadata.csv")
    assert rows(tmp_path) == [("a", "one", None), ("metadata.csv, after line 2", None, "line too long")]


def test_a_caption_in_a_file_that_is_too_long_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "MAX_LINE_BYTES", 60)
    for name, text in (("a", "x" * 60), ("b", "x" * 61)):
        (tmp_path / f"{name}.png").write_bytes(b"")
        (tmp_path / f"{name}.txt").write_text(text)
    assert rows(tmp_path) == [("a.png", "x" * 60, None), ("b.png", None, None)]


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_listing_is_said(tmp_path, name, content):
    listing(tmp_path, content, name=name)
    with pytest.raises(UserError, match=rf"{name}: no row names a picture; it has no rows"):
        rows(tmp_path)


def test_a_head_that_ends_inside_a_quotation(tmp_path):
    listing(tmp_path, 'file_name,"text', name="metadata.csv")
    with pytest.raises(UserError, match=r"no row names a picture; .*after line 0: CSV that ends inside a quotation"):
        rows(tmp_path)


def test_one_caption_for_every_picture_whatever_lies_beside(tmp_path):
    listing(tmp_path, '{"file_name": "a.png", "text": "something else"}')
    (tmp_path / "below").mkdir()
    for name in ("a.png", "below/b.JPG", "c.txt"):
        (tmp_path / name).write_bytes(b"")
    source = Folder({"source": "folder", "path": str(tmp_path), "columns": {}, "caption": "a photo of sks dog"})
    (table,) = source.iter_rows()
    assert [(row["key"], row["text"]) for row in table.to_pylist()] == [
        ("a.png", "a photo of sks dog"),
        ("below/b.JPG", "a photo of sks dog"),
    ]


def test_one_caption_and_no_picture(tmp_path):
    with pytest.raises(UserError, match=r"has no picture in it \(\.bmp, "):
        list(Folder({"source": "folder", "path": str(tmp_path), "columns": {}, "caption": "a cat"}).iter_rows())
