import layouts
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prunella.data.images import RejectedImage
from prunella.data.sources.parquet import index, reader
from prunella.errors import UserError

GIVEN = [(f"{i}.png", b"picture %d" % i, f"caption {i}") for i in range(7)]


def source(path, **columns) -> dict:
    return {"source": "parquet", "path": str(path), "columns": columns}


def rows(path, **columns):
    return [row for table in index(source(path, **columns)) for row in table.to_pylist()]


def test_bytes_come_back_by_file_and_row(tmp_path):
    root = layouts.parquet(tmp_path / "p", GIVEN, AESTHETIC_SCORE=[float(i) for i in range(7)])
    found, fetch = rows(root), reader(source(root))
    assert [row["key"] for row in found][:6] == [f"train-00000.parquet#{i}" for i in range(5)] + [
        "train-00001.parquet#0"
    ]
    assert [row["text"] for row in found] == [text for _, _, text in GIVEN]
    assert [row["aesthetic"] for row in found] == list(range(7))
    assert [fetch(row["key"]) for row in reversed(found)] == [data for _, data, _ in reversed(GIVEN)]


def test_paths_lead_to_files_beside(tmp_path):
    root = layouts.paths(tmp_path / "p", GIVEN)
    for path in (root, root / "pairs.parquet"):
        fetch = reader(source(path))
        assert [fetch(row["key"]) for row in rows(path)] == [data for _, data, _ in GIVEN]


def test_a_cell_without_a_picture(tmp_path):
    (tmp_path / "secret").write_bytes(b"1")
    (tmp_path / "p").mkdir()
    cells = ["../secret", None, "", "none.png"]
    pq.write_table(pa.table({"path": cells, "text": list("abcd")}), tmp_path / "p" / "a.parquet")
    fetch = reader(source(tmp_path / "p"))
    for row, why in enumerate(["file outside", "no picture in the row", "no picture in the row", "no such file"]):
        with pytest.raises(RejectedImage, match=why):
            fetch(f"a.parquet#{row}")


def test_a_file_that_lacks_a_column_is_counted(tmp_path):
    root = layouts.parquet(tmp_path / "p", GIVEN)
    pq.write_table(pa.table({"image": [b"1", b"2"]}), root / "z.parquet")
    (root / "damaged.parquet").write_bytes(b"PAR1 and nothing more")
    faults = [(row["key"], row["fault"]) for row in rows(root) if row["fault"]]
    assert faults == [
        ("damaged.parquet", "damaged Parquet file"),
        ("z.parquet#0", "no column text"),
        ("z.parquet#1", "no column text"),
    ]
    assert len(rows(root)) == 10


def test_of_a_damaged_row_group_every_row_is_counted(tmp_path):
    given = [(f"{i}.png", b"picture %d" % i, f"caption {i} " * 200) for i in range(10)]
    root = layouts.parquet(tmp_path / "p", given, per_file=10)
    file = root / "train-00000.parquet"
    data = bytearray(file.read_bytes())
    group = pq.read_metadata(file).row_group(1)
    texts = next(group.column(i) for i in range(group.num_columns) if group.column(i).path_in_schema == "TEXT")
    start = texts.dictionary_page_offset or texts.data_page_offset
    data[start : start + texts.total_compressed_size] = b"\xff" * texts.total_compressed_size
    file.write_bytes(data)
    found = rows(root)
    assert [row["fault"] for row in found] == [None] * 2 + ["damaged Parquet file"] * 2 + [None] * 6
    assert [row["key"].rpartition("#")[2] for row in found] == [str(i) for i in range(10)]
    fetch = reader(source(root))
    assert [fetch(found[i]["key"]) for i in (0, 9, 1, 4)] == [given[i][1] for i in (0, 9, 1, 4)]


def test_pictures_are_read_a_few_rows_at_a_time(tmp_path):
    given = [(f"{i}.png", b"picture %d" % i, "caption") for i in range(200)]
    table = pa.table({"image": [row[1] for row in given], "text": [row[2] for row in given]})
    pq.write_table(table, tmp_path / "a.parquet")  # in one group
    fetch = reader(source(tmp_path))
    for i in (0, 31, 32, 199, 5, 6, 160, 7):
        assert fetch(f"a.parquet#{i}") == given[i][1]
    for key in ("a.parquet#200", "none.parquet#0", "a.parquet"):
        with pytest.raises(RejectedImage, match="damaged Parquet file"):
            fetch(key)


def test_files_of_different_columns(tmp_path):
    pq.write_table(
        pa.table({"image": [b"1", b"2"], "text": ["a", "b"], "language": ["en", "de"]}), tmp_path / "a.parquet"
    )
    pq.write_table(pa.table({"image": [b"3"], "text": [["c", "d"]]}), tmp_path / "b.parquet")
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), tmp_path / "c.parquet")
    twice = pa.table([[b"4"], ["e"], ["f"]], names=["image", "text", "text"])
    pq.write_table(twice, tmp_path / "d.parquet")
    (tmp_path / "e.parquet").mkdir()
    assert [(row["text"], row.get("language"), row["fault"]) for row in rows(tmp_path)] == [
        ("a", "en", None),
        ("b", "de", None),
        (["c", "d"], None, None),
        (None, None, "two columns of one name"),
    ]


def test_an_asked_column_is_not_replaced_by_another(tmp_path):
    pq.write_table(pa.table({"image": [b"1"], "text": ["a"], "deutsch": ["b"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"image": [b"2"], "text": ["c"]}), tmp_path / "b.parquet")
    assert [(row["text"], row["fault"]) for row in rows(tmp_path, text="deutsch")] == [
        ("b", None),
        (None, "no column text"),
    ]
    with pytest.raises(
        UserError, match=r"filter.columns.text: the data have no column 'deutch'; they have image, text"
    ):
        rows(tmp_path, text="deutch")


def test_a_table_of_urls_is_not_downloaded(tmp_path):
    pq.write_table(pa.table({"URL": ["http://x/a.jpg"], "TEXT": ["a"]}), tmp_path / "laion.parquet")
    with pytest.raises(UserError, match=r"laion.parquet has only URLs \('URL'\), no pictures; `prunella download`"):
        rows(tmp_path)


def test_columns_that_are_missing_are_named(tmp_path):
    pq.write_table(pa.table({"a": [1], "b": ["x"]}), tmp_path / "t.parquet")
    with pytest.raises(
        UserError, match=r"no column for the image nor one for the text; it has a, b. filter.columns can"
    ):
        rows(tmp_path)
    with pytest.raises(UserError, match=r"filter.columns.text: the data have no column 'c'; they have a, b"):
        rows(tmp_path, text="c")
    with pytest.raises(UserError, match=r"is no Parquet file, nor a folder that holds one"):
        rows(tmp_path / "none")


def test_odd_captions(tmp_path):
    texts = pa.array([b"fine", b"\xff\xfe", None, "\u202eright \U0001f600".encode()], pa.binary())
    pq.write_table(pa.table({"image": [b"1"] * 4, "caption": texts}), tmp_path / "t.parquet")
    assert [(row["text"], row["fault"]) for row in rows(tmp_path)] == [
        ("fine", None), (None, "caption not UTF-8"), (None, None), ("\u202eright \U0001f600", None),
    ]  # fmt: skip
    lists = pa.array([["a", None, "b"], [], None], pa.list_(pa.string()))
    pq.write_table(pa.table({"image": [b"1"] * 3, "captions": lists}), tmp_path / "t.parquet")
    assert [row["text"] for row in rows(tmp_path)] == [["a", "b"], [], []]
    for texts, kept in (
        (pa.array(["a ", "b"]).dictionary_encode(), ["a", "b"]),
        (pa.array(["a", "b"], pa.string_view()), ["a", "b"]),
        (pa.array([["a"], ["b"]], pa.list_(pa.string(), 1)), [["a"], ["b"]]),
        (pa.array([1, 2]), [None, None]),
        (pa.array([{"a": "b"}, None]), [None, None]),
    ):
        pq.write_table(pa.table({"image": [b"1"] * 2, "captions": texts}), tmp_path / "t.parquet")
        assert [row["text"] for row in rows(tmp_path)] == kept
    assert [row["fault"] for row in rows(tmp_path)] == ["caption is no text", None]
