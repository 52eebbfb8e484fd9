"""Sources on a store give the pairs of the same folder here, and what fails there is no fault of a picture."""

import shutil

import fsspec
import layouts
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from layouts import LIMITS, drawn
from stored import Watched, put

from prunella.data.filter import filter_dataset
from prunella.data.image_checks import make_checks_identity
from prunella.data.images import RejectedImage
from prunella.data.manifest import read_sample_manifest
from prunella.data.sources import describe_source, open_source, parquet
from prunella.data.sources.footers import footer_copy
from prunella.errors import UserError
from prunella.params import Filter, validate_config
from prunella.storage import remote
from prunella.storage.remote import parse_location

ROWS = [(f"{i:02d}.png", drawn(i), f"caption {i}") for i in range(11)]
STORED = ["folder", "csv", "beside", "parquet", "paths", "webdataset"]


def asked(layout: str, path, **changes) -> Filter:
    return validate_config(Filter, LIMITS | layouts.settings(layout, path) | changes, "filter")


@pytest.fixture(params=STORED)
def layout(request):
    return request.param


@pytest.fixture
def here(layout, tmp_path):
    return layouts.LAYOUTS[layout][0](tmp_path / "data", ROWS)


def test_a_store_gives_the_pairs_of_the_same_folder_here(layout, here, tmp_path):
    far = put(here, f"stores/{layout}")
    reports = [filter_dataset(asked(layout, path), 0, tmp_path / str(i))[0] for i, path in enumerate((here, far))]
    assert reports[0] == reports[1] and reports[0]["kept"] == 11
    assert (tmp_path / "0" / "pairs.jsonl").read_bytes() == (tmp_path / "1" / "pairs.jsonl").read_bytes()
    source, pairs = read_sample_manifest(tmp_path / "1")
    assert source == {"source": layouts.LAYOUTS[layout][1], "path": far, "columns": {}}
    opened = [open_source(source | {"path": str(path)}) for path in (here, far)]
    for pair in pairs:
        assert opened[0].read_image_bytes(pair.key) == opened[1].read_image_bytes(pair.key)


def test_a_picture_is_one_request(layout, here, tmp_path, monkeypatch):
    far = put(here, f"stores/once/{layout}")
    filter_dataset(asked(layout, far), 0, tmp_path / "out")
    source, pairs = read_sample_manifest(tmp_path / "out")
    opened = open_source(source)
    opened.read_image_bytes(pairs[0].key)  # what is looked up once
    watched = Watched()
    monkeypatch.setattr(remote, "_filesystem", lambda kind: watched)
    data = [opened.read_image_bytes(pair.key) for pair in pairs[1:5]]
    assert data == [row[1] for row in ROWS[1:5]]
    # Parquet: two row groups, whose pictures are two columns ("bytes" and "path") each.
    assert len(watched.read) == 4


FAULTS = [RuntimeError("Connect timeout"), PermissionError("expired token"), TimeoutError()]


@pytest.mark.parametrize("error", FAULTS, ids=lambda error: type(error).__name__)
def test_a_picture_that_the_network_keeps_back_is_not_broken(layout, here, error, tmp_path, monkeypatch):
    far = put(here, f"stores/faults/{layout}")
    source = asked(layout, far)
    filter_dataset(source, 0, tmp_path / "out")
    known, pairs = read_sample_manifest(tmp_path / "out")
    watched = Watched()
    monkeypatch.setattr(remote, "_filesystem", lambda kind: watched)
    opened = open_source(known)
    watched.error, watched.failing = (
        error,
        "train-" if layout == "parquet" else ".tar" if layout == "webdataset" else ".png",
    )
    with pytest.raises(OSError, match=r"failed or cannot be reached|refuses it"):
        opened.read_image_bytes(pairs[3].key)
    with pytest.raises(UserError, match=r"could not be read: .*\(EIO\), which is no fault of the picture"):
        filter_dataset(source, 0, tmp_path / "again")


def test_what_was_found_of_other_objects_is_not_gone_on_with(tmp_path):
    here = layouts.webdataset(tmp_path / "tars", ROWS)
    given, seen = asked("webdataset", put(here, "stores/known")), []
    for change in (b"", b"", b"more"):
        if change:
            fsspec.filesystem("memory").pipe_file("memory://stores/known/00009.tar", change)
        seen.append(make_checks_identity(given, 0, describe_source(given, 0)))
    assert seen[0] == seen[1] != seen[2]


def test_what_is_gone_or_cut_is_broken(tmp_path):
    here = layouts.webdataset(tmp_path / "tars", ROWS)
    far = parse_location(put(here, "stores/cut"))
    opened = open_source({"source": "webdataset", "path": str(far), "columns": {}})
    for key, cause in {
        "00000.tar/x.png#512+999999": "tar cut off",
        "00000.tar/x.png#99999999+3": "tar cut off",
        "00009.tar/x.png#512+3": "unreadable tar",
        "00000.tar/x.png": "unreadable tar",
    }.items():
        with pytest.raises(RejectedImage, match=cause):
            opened.read_image_bytes(key)
    cut = tmp_path / "cut"
    cut.mkdir()
    (cut / "00000.tar").write_bytes((here / "00000.tar").read_bytes()[:-7000])
    reports = [
        filter_dataset(asked("webdataset", path), 0, tmp_path / "out")[0] for path in (cut, put(cut, "stores/cut2"))
    ]
    assert reports[0] == reports[1] and reports[0]["causes"] == {"tar cut off or damaged": 1}


def test_names_stay_below_the_folder(tmp_path):
    here = layouts.folder(tmp_path / "data", ROWS[:3])
    far = put(here, "stores/below")
    opened = open_source({"source": "folder", "path": far, "columns": {}})
    assert opened.read_image_bytes("./x/../00.png") == ROWS[0][1]
    for name in ("../faults/00.png", "/stores/below/00.png", "x/../../below/00.png"):
        with pytest.raises(RejectedImage, match="outside"):
            opened.read_image_bytes(name)
    with pytest.raises(RejectedImage, match="no such file"):
        opened.read_image_bytes("none.png")
    with pytest.raises(RejectedImage, match="unreadable file"):
        opened.read_image_bytes("a" * 2000)


def test_a_missing_folder_on_a_store_is_said(tmp_path):
    for source, words in {
        "folder": "there is no folder",
        "webdataset": "is no tar",
        "parquet": "is no Parquet",
    }.items():
        given = validate_config(Filter, LIMITS | {"source": source, "path": "memory://stores/none"}, "filter")
        with pytest.raises(UserError, match=f"^filter.path: .*{words}"):
            filter_dataset(given, 0, tmp_path / "out")


def test_a_long_footer_is_asked_for_twice_and_a_lying_one_is_damaged(tmp_path, monkeypatch):
    wide = pa.table({f"column {i} {'x' * 50}": [i] for i in range(900)})
    (tmp_path / "data").mkdir()
    pq.write_table(wide, tmp_path / "data" / "wide.parquet")
    lying = bytearray((tmp_path / "data" / "wide.parquet").read_bytes())
    lying[-8:-4] = (2**31 - 1).to_bytes(4, "little")
    (tmp_path / "data" / "lying.parquet").write_bytes(lying)
    far = parse_location(put(tmp_path / "data", "stores/footers"))
    with footer_copy(far / "wide.parquet") as file:
        assert pq.read_metadata(file) == pq.read_metadata(tmp_path / "data" / "wide.parquet")
        assert file.stat().st_size == (tmp_path / "data" / "wide.parquet").stat().st_size
    assert parquet._open_parquet(far / "wide.parquet").read() == wide
    for path in (far, tmp_path / "data"):
        with pytest.raises(RejectedImage, match="damaged Parquet file"):
            parquet._open_parquet(path / "lying.parquet")


def test_captions_beside_pictures_are_asked_for_side_by_side(tmp_path, monkeypatch):
    here = layouts.beside(tmp_path / "data", ROWS)
    shutil.copy(here / "00.txt", here / "lonely.txt")
    far = put(here, "stores/side")
    rows = [
        row
        for table in open_source({"source": "folder", "path": far, "columns": {}}).iter_rows()
        for row in table.to_pylist()
    ]
    assert [(row["key"], row["text"]) for row in rows[:11]] == [(name, text) for name, _, text in ROWS]
    assert (rows[11]["key"], rows[11]["fault"]) == ("lonely.txt", "caption without picture")
