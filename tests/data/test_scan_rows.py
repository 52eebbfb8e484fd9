"""Rows scanned in pieces: what is put together is what one pass gives, to the order of the examples."""

from pathlib import Path

import layouts
import pyarrow as pa
import pytest
from killing import killed
from layouts import LIMITS, drawn

from prunella.data import scan_rows
from prunella.data.rejections import RejectionStats
from prunella.data.scan_rows import ScanTask, list_scan_tasks, scan_source
from prunella.data.sources import describe_source, open_source
from prunella.errors import UserError
from prunella.params import Filter, fill_section, validate_config


def asked(path, layout="webdataset", **changes) -> Filter:
    return validate_config(Filter, fill_section("filter", LIMITS | layouts.settings(layout, path) | changes), "filter")


@pytest.fixture
def folder(tmp_path) -> Path:
    """Nine tars of five pictures: captions too short, several, none; sizes, a cut and an empty tar, a text alone."""
    texts = [["one of two", "x"] if i == 30 else "no" if i % 4 == 3 else f"caption {i}" for i in range(45)]
    rows = [(f"{i}.png", drawn(i), text) for i, text in enumerate(texts)]
    punsafe = [None if i % 11 == 5 else i / 45 for i in range(45)]
    root = layouts.webdataset(tmp_path / "tars", rows, punsafe=punsafe)
    for number in (2, 6):
        path = root / f"{number:05d}.tar"
        path.write_bytes(path.read_bytes()[:5000])
    (root / "00010.tar").write_bytes(bytes(10240))
    return root


def scanned(params: Filter, work: Path | None = None) -> tuple:
    tally = RejectionStats()
    rows, read = scan_source(describe_source(params, 0), params, tally, work)
    return rows, read, list(tally.counts.items()), list(tally.causes.items()), list(tally.examples.items())


def same(one: tuple, other: tuple) -> bool:
    return one[0].equals(other[0]) and one[0].schema == other[0].schema and one[1:] == other[1:]


def test_pieces_give_what_one_pass_gives(folder, tmp_path):
    given = asked(folder, max_punsafe=0.7)
    plain, work = scanned(given), tmp_path / "work"
    work.mkdir()
    assert dict(plain[2])["broken"] >= 2 and dict(plain[2])["punsafe"] and dict(plain[2])["caption_short"]
    assert plain[0].schema.field("text").type == pa.list_(pa.large_string())
    assert same(scanned(given, work), plain)
    assert sorted(path.name for path in work.iterdir()) == [f"rows-{i:05d}.found" for i in range(10)]
    assert same(scanned(given, work), plain)


def test_an_interrupted_scan_goes_on(folder, tmp_path, capsys, monkeypatch):
    given = asked(folder)
    plain = scanned(given)
    with killed(scan_rows, "write_result", 4):
        scanned(given, tmp_path)
    assert len(list(tmp_path.glob("*.found"))) == 3
    kept, real = [], scan_rows.write_result
    monkeypatch.setattr(
        scan_rows, "write_result", lambda work, piece, data: kept.append(piece.payload) or real(work, piece, data)
    )
    assert same(scanned(given, tmp_path), plain)
    assert "filter: 3 of 10 files were scanned before (" in capsys.readouterr().out
    assert kept == [f"{number:05d}.tar" for number in (3, 4, 5, 6, 7, 8, 10)]


def test_the_pieces_of_a_source(folder, tmp_path):
    assert list_scan_tasks(open_source(describe_source(asked(folder), 0)))[-1] == ScanTask(9, "00010.tar")
    alone = asked(folder / "00001.tar")
    assert (
        list_scan_tasks(open_source(describe_source(alone, 0))) == [ScanTask(0, "00001.tar")] and scanned(alone)[1] == 5
    )
    other = asked(layouts.parquet(tmp_path / "p", [("a.png", drawn(0), "caption")]), "parquet")
    assert list_scan_tasks(open_source(describe_source(other, 0))) == []
    assert same(scanned(other, tmp_path), scanned(other)) and not list(tmp_path.glob("*.found"))


def test_a_folder_without_a_row_is_said(tmp_path):
    (tmp_path / "a.tar").write_bytes(bytes(10240))
    with pytest.raises(UserError, match="there is no pair at all in"):
        scanned(asked(tmp_path), tmp_path)
