"""`prunella filter`, and the stage after it."""

import json

import inprocess
import pytest
import yaml
from commands import refused, said
from conftest import toy_params

from prunella.data import image_checks
from prunella.data.manifest import read_sample_manifest


@pytest.fixture(autouse=True)
def folder(teacher, pictures, tmp_path, monkeypatch):
    """29 pictures in ten tasks of three, the last of two."""
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(toy_params(teacher, pictures)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setattr(image_checks, "IMAGES_PER_TASK", 3)
    return tmp_path


def test_parts_are_made_and_merged_and_the_stage_only_judges(capsys, folder, monkeypatch):
    parts = [f"{folder}/work/parts/filter-{number}-of-2" for number in (1, 2)]
    assert said(capsys, "filter", "--slice", "2/2") == (
        f"part 2/2: 14 pictures in 5 tasks, 0 cannot be used, in {parts[1]}\n"
    )
    said_of_missing = refused("filter", "--merge", parts[1])
    assert said_of_missing.endswith("0-00004, 0-00006, 0-00008); to be made: --slice 1/2")
    assert said(capsys, "filter", "--slice", "1/2").startswith("part 1/2: 15 pictures in 5 tasks")
    assert (
        said(capsys, "filter", "--merge", *parts) == "all 29 pictures were looked at; `dvc repro filter` judges them\n"
    )
    monkeypatch.setattr(image_checks, "perceptual_hash", None)
    monkeypatch.setattr(image_checks, "open_rgb", None)
    places = ("--out", "pairs", "--report", "f.json", "--examples", "examples", "--counts", "f.csv")
    inprocess.run(["stages/filter.py", *places])
    assert "filter: 29 of 29 pictures were looked at before (" in capsys.readouterr().out
    assert len(read_sample_manifest(folder / "pairs")[1]) == json.loads((folder / "f.json").read_text())["kept"] == 29


def test_a_range_or_parts_are_asked_for():
    assert "expected NUMBER/OF" in refused("filter", "--slice", "3/2")
    assert "no part.json" in refused("filter", "--merge", ".")
