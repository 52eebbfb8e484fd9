"""The filter in parts: what jobs of their own found, in any order, gives what the stage alone gives."""

import os
import shutil
from pathlib import Path

import layouts
import pytest
from conftest import ROOT
from layouts import LIMITS, drawn
from parted import spoilt

from prunella.compute.slices import Slice
from prunella.data import image_checks
from prunella.data.filter import filter_dataset
from prunella.data.slices import FilterSliceStats, filter_slice, merge_filter_slices
from prunella.errors import UserError
from prunella.params import Filter, fill_section, validate_config


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setattr(image_checks, "IMAGES_PER_TASK", 4)


@pytest.fixture
def asked(tmp_path) -> Filter:
    """23 pictures, 18 to be chosen: five tasks, of which the last has two; every sixth picture is broken."""
    rows = [(f"{i:02d}.png", b"" if i % 6 == 5 else drawn(i), f"caption {i}") for i in range(23)]
    path = layouts.webdataset(tmp_path / "data", rows)
    given = LIMITS | {"source": "webdataset", "path": str(path), "samples": 18, "near_duplicates": 2}
    return validate_config(Filter, fill_section("filter", given), "filter")


@pytest.fixture
def made(asked, tmp_path):
    """Makes part K of N; its folder."""

    def make(number: int, of: int) -> Path:
        filter_slice(asked, 0, tmp_path / f"{number}-of-{of}", Slice(number, of))
        return tmp_path / f"{number}-of-{of}"

    return make


def test_parts_in_any_order_give_what_the_stage_gives(made, asked, tmp_path, monkeypatch):
    plain = filter_dataset(asked, 0, tmp_path / "plain")
    folders = [made(number, 3) for number in (3, 1, 2)]
    assert [sorted(path.name for path in folder.glob("[0-9]-*.found")) for folder in folders] == [
        ["0-00002.found"], ["0-00000.found", "0-00003.found"], ["0-00001.found", "0-00004.found"]
    ]  # fmt: skip
    assert merge_filter_slices(asked, 0, folders) == 18
    assert len(list(tmp_path.glob("work/filter/*/rows-*.found"))) == 5  # scanned by a part
    read, real = [], image_checks.raise_system_errors
    monkeypatch.setattr(image_checks, "raise_system_errors", lambda key: read.append(key) or real(key))
    assert filter_dataset(asked, 0, tmp_path / "out", resume=True) == plain
    assert (tmp_path / "out" / "pairs.jsonl").read_bytes() == (tmp_path / "plain" / "pairs.jsonl").read_bytes()
    assert len(read) == plain[0]["looked_at"] - 18  # replacements of what fell out, by the stage itself


def test_a_part_says_what_it_holds_and_is_gone_on_with(asked, tmp_path):
    """Of all 23 pictures: 0 to 3, 8 to 11 and 16 to 19, of which 11 and 17 are broken."""
    given = asked.model_copy(update={"samples": 100}), 0, tmp_path / "part", Slice(1, 2)
    assert filter_slice(*given) == FilterSliceStats(tasks=3, images=12, rejected=2)
    before = {path.name: path.read_bytes() for path in (tmp_path / "part").iterdir()}
    (tmp_path / "part" / "0-00002.found").write_bytes(b"half")
    kept = (tmp_path / "part" / "0-00000.found").stat().st_mtime_ns
    assert filter_slice(*given) == FilterSliceStats(tasks=3, images=12, rejected=2)
    assert {path.name: path.read_bytes() for path in (tmp_path / "part").iterdir()} == before
    assert (tmp_path / "part" / "0-00000.found").stat().st_mtime_ns == kept


def test_missing_parts_are_named_and_nothing_is_merged(made, asked, tmp_path):
    with pytest.raises(UserError) as error:
        merge_filter_slices(asked, 0, [made(2, 5), made(5, 5)])
    assert str(error.value) == (
        "filter --merge: 3 of 5 tasks are missing or damaged (0-00000, 0-00002, 0-00003); "
        "to be made: --slice 1/5, 3/5, 4/5"
    )
    assert not list(tmp_path.glob("work/filter/*/[0-9]-*.found"))


def test_parts_of_copied_data_belong_together(made, asked, tmp_path):
    folders = [made(1, 2)]
    for path in Path(asked.path).iterdir():
        os.utime(path, ns=(1, 1))
    assert merge_filter_slices(asked, 0, [*folders, made(2, 2)]) == 18


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda note: note["known"].update(code="else"), "part 1/2 was made by other code; make it again"),
        (lambda note: note["known"]["params"].update(seed=1), r"other parameters \(section filter, or seed\); make"),
        (lambda note: note["known"].update(inputs=[]), "other data or aesthetic model; make it again"),
        (lambda note: note.pop("known"), r"part.json: damaged"),
    ],
)
def test_a_part_of_something_else_is_refused(spoil, said, made, asked):
    folder = spoilt(made(1, 2), spoil)
    with pytest.raises(UserError, match=said):
        merge_filter_slices(asked, 0, [folder])


def test_a_part_of_other_data_is_refused(made, asked):
    folder = made(1, 2)
    (Path(asked.path) / "more.tar").write_bytes(bytes(1024))
    with pytest.raises(UserError, match="part 1/2 was made by other data or aesthetic model; make it again"):
        merge_filter_slices(asked, 0, [folder])


def test_a_folder_that_is_another_part_or_none(made, asked, tmp_path):
    shutil.copytree(made(1, 2), tmp_path / "2-of-2")
    with pytest.raises(UserError, match="2-of-2: holds part 1/2; part 2/2 needs a folder of its own"):
        made(2, 2)
    with pytest.raises(UserError, match=r"no part.json, so this is no part of a filter \(`prunella filter --slice`"):
        merge_filter_slices(asked, 0, [tmp_path])


def test_scenes_have_no_parts(asked, tmp_path):
    scenes = {"source": "scenes", "path": str(ROOT / "data" / "scenes.yaml")}
    with pytest.raises(UserError, match=r"filter\.source scenes: pictures are rendered and not looked at"):
        filter_slice(asked.model_copy(update=scenes), 0, tmp_path / "part", Slice(1, 2))
