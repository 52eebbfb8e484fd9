import errno
import os
import subprocess
import sys

import layouts
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prunella.data.images import RejectedImage
from prunella.data.schema import MAX_CAPTIONS
from prunella.data.sources import parquet
from prunella.data.sources.parquet import Parquet
from prunella.errors import UserError
from prunella.params import Filter, fill_section, validate_config

GIVEN = [(f"{i}.png", b"picture %d" % i, f"caption {i}") for i in range(7)]


def source(path, **columns) -> dict:
    return {"source": "parquet", "path": str(path), "columns": columns}


def rows(path, **columns):
    return [row for table in Parquet(source(path, **columns)).iter_rows() for row in table.to_pylist()]


def test_bytes_come_back_by_file_and_row(tmp_path):
    root = layouts.parquet(tmp_path / "p", GIVEN, AESTHETIC_SCORE=[float(i) for i in range(7)])
    found, fetch = rows(root), Parquet(source(root)).read_image_bytes
    assert [row["key"] for row in found][:6] == [f"train-00000.parquet#{i}" for i in range(5)] + [
        "train-00001.parquet#0"
    ]
    assert [row["text"] for row in found] == [text for _, _, text in GIVEN]
    assert [row["aesthetic"] for row in found] == list(range(7))
    assert [fetch(row["key"]) for row in reversed(found)] == [data for _, data, _ in reversed(GIVEN)]


def test_paths_lead_to_files_beside(tmp_path):
    root = layouts.paths(tmp_path / "p", GIVEN)
    for path in (root, root / "pairs.parquet"):
        fetch = Parquet(source(path)).read_image_bytes
        assert [fetch(row["key"]) for row in rows(path)] == [data for _, data, _ in GIVEN]


def test_a_cell_without_a_picture(tmp_path):
    (tmp_path / "secret").write_bytes(b"1")
    (tmp_path / "p").mkdir()
    cells = ["../secret", None, "", "none.png"]
    pq.write_table(pa.table({"path": cells, "text": list("abcd")}), tmp_path / "p" / "a.parquet")
    fetch = Parquet(source(tmp_path / "p")).read_image_bytes
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
    fetch = Parquet(source(root)).read_image_bytes
    assert [fetch(found[i]["key"]) for i in (0, 9, 1, 4)] == [given[i][1] for i in (0, 9, 1, 4)]


def test_pictures_are_read_a_few_rows_at_a_time(tmp_path):
    given = [(f"{i}.png", b"picture %d" % i, "caption") for i in range(200)]
    table = pa.table({"image": [row[1] for row in given], "text": [row[2] for row in given]})
    pq.write_table(table, tmp_path / "a.parquet")  # in one group
    fetch = Parquet(source(tmp_path)).read_image_bytes
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


# Files that unpack to more than they hold


def shared(path, rows: int, text: str, size: int | None = None, column=None):
    """One caption and one picture that all rows share; `size` bytes of other content make the file longer."""
    indices = pa.array(np.zeros(rows, np.int32))
    texts = pa.DictionaryArray.from_arrays(indices, pa.array([text])) if column is None else column
    pictures = pa.DictionaryArray.from_arrays(indices, pa.array([b"picture"]))
    other = np.random.default_rng(0).bytes(size or 1)
    table = pa.table({"image": pictures, "text": texts}).replace_schema_metadata({"other": other.hex()})
    pq.write_table(table, path, compression="zstd")
    return path


def test_a_file_cannot_hold_more_rows_than_bits(tmp_path):
    path = shared(tmp_path / "a.parquet", 1_000_000, "x" * 20_000)
    assert path.stat().st_size < 10_000
    assert rows(path) == [{"key": "a.parquet", "text": None, "fault": "more rows than a file of its size can hold"}]
    with pytest.raises(RejectedImage, match="damaged"):
        Parquet(source(path)).read_image_bytes("a.parquet#0")


def test_a_caption_that_all_rows_share_is_not_multiplied(tmp_path):
    path = shared(tmp_path / "a.parquet", 200_000, "x" * 20_000, 100_000)
    limits = {"source": "parquet", "path": str(path), "samples": 9, "min_side": 1, "max_aspect": 9}
    limits |= {"min_caption": 1, "max_caption": 1000, "max_corrupt_fraction": 0.5}
    given = validate_config(Filter, fill_section("filter", limits), "filter")
    code = (
        "import resource, sys\nfrom prunella.data.sources.parquet import Parquet\n"
        "from prunella.data.criteria import CRITERIA, apply_criteria\nfrom prunella.params import Filter\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 600_000_000, -1))\n"
        "given = Filter.model_validate_json(sys.argv[1])\n"
        "tables = Parquet({'path': given.path, 'columns': {}}).iter_rows()\n"
        "fell = [CRITERIA[i] for rows in tables for i in apply_criteria(rows, given)[1]]\n"
        "print(len(fell), *set(fell))\n"
    )
    command = [sys.executable, "-c", code, given.model_dump_json()]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["200000", "caption_long"]


@pytest.mark.parametrize("encoding", ["DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY", "PLAIN"])
def test_encodings_without_dictionaries(tmp_path, encoding):
    texts = [f"caption {i}" for i in range(3000)]
    table = pa.table({"image": [b"%d" % i for i in range(3000)], "text": texts})
    columns = {"image": encoding, "text": encoding}
    pq.write_table(table, tmp_path / "a.parquet", use_dictionary=False, column_encoding=columns, row_group_size=1700)
    assert [row["text"] for row in rows(tmp_path)] == texts
    assert [row["key"] for row in rows(tmp_path)] == [f"a.parquet#{i}" for i in range(3000)]
    assert Parquet(source(tmp_path)).read_image_bytes("a.parquet#2999") == b"2999"


def test_row_groups_are_read_a_piece_at_a_time(tmp_path, monkeypatch):
    texts = [f"{'x' * 1000} {i}" for i in range(90)]
    for name, column in (("plain", texts), ("list", [[text, "y"] for text in texts])):
        pq.write_table(pa.table({"image": [b"1"] * 90, "text": column}), tmp_path / f"{name}.parquet")
        monkeypatch.setattr(parquet, "PIECE_BYTES", 20_000)
        tables = list(Parquet(source(tmp_path / f"{name}.parquet")).iter_rows())
        assert [row for table in tables for row in table["text"].to_pylist()] == column
        assert len(tables) >= 3 and max(map(len, tables)) <= 40
        monkeypatch.undo()


def test_captions_shared_or_not_are_judged_alike(tmp_path, monkeypatch):
    texts = ["ab", None, "  a cat\n", "", "ab", "\u200b"] * 3
    pq.write_table(pa.table({"image": [b"1"] * 18, "text": texts}), tmp_path / "a.parquet")
    plain = rows(tmp_path)
    monkeypatch.setattr(parquet, "PIECE_BYTES", 1)
    monkeypatch.setattr(parquet, "MAX_EXPANSION", 0)
    tables = list(Parquet(source(tmp_path)).iter_rows())
    assert all(pa.types.is_dictionary(table["text"].type) for table in tables)
    assert [row for table in tables for row in table.to_pylist()] == plain


def test_more_captions_than_a_picture_has(tmp_path):
    lists = [["a"] * MAX_CAPTIONS, ["a"] * (MAX_CAPTIONS + 1), ["b"]]
    pq.write_table(pa.table({"image": [b"1"] * 3, "text": lists}), tmp_path / "a.parquet")
    assert [(len(row["text"]), row["fault"]) for row in rows(tmp_path)] == [
        (MAX_CAPTIONS, None), (0, "too many captions"), (1, None),
    ]  # fmt: skip


def test_what_follows_in_a_large_group_is_lost_alone(tmp_path, monkeypatch):
    texts = [f"{i} " + "x" * 300 for i in range(400)]
    pq.write_table(pa.table({"image": [b"1"] * 400, "text": texts}), tmp_path / "a.parquet", use_dictionary=False,
                   compression="none", data_page_size=2000, write_batch_size=10)  # fmt: skip
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    start = data.index(b"300 xxx")
    data[start - 2000 : start + 2000] = b"\xff" * 4000
    (tmp_path / "a.parquet").write_bytes(data)
    monkeypatch.setattr(parquet, "PIECE_BYTES", 10_000)
    faults = [row["fault"] for row in rows(tmp_path)]
    assert len(faults) == 400 and set(faults[:250]) == {None} and set(faults[310:]) == {"damaged Parquet file"}


def test_a_failing_disk_stops_and_is_no_damage(tmp_path, monkeypatch):
    layouts.parquet(tmp_path / "p", GIVEN)

    def fails(*_, **__):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(pq, "ParquetFile", fails)
    with pytest.raises(UserError, match=r"train-00000\.parquet: .*EIO"):
        rows(tmp_path / "p")
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        Parquet(source(tmp_path / "p")).read_image_bytes("train-00000.parquet#0")
