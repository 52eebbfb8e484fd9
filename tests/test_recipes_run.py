"""Recipes as graphs, at toy size: their own parameters, but for the sizes. That of SD-Tiny runs in test_stages.py."""

import json
from pathlib import Path

import inprocess
import pytest
from toygraph import stages_run, started

from prunella import STUDENTS
from prunella.models.pipeline import load_unet
from prunella.pruning.plan import CATALOGUE
from prunella.pruning.prune import pruned


def check(folder: Path, students: set[str], stages: set[str]) -> None:
    """Every stage of every student has run, and every model is there and measured."""
    assert stages == set(inprocess.commands(sorted(students)))
    models = json.loads((folder / "reports" / "benchmark.json").read_text())["models"]
    names = {f"{student}/{stage}" for student in students for stage in ("pruned", "distilled", "finetuned")}
    assert set(models) == {"teacher"} | names
    for name in names:
        student, stage = name.split("/")
        assert (folder / "models" / stage / student / "model_index.json").is_file()
        assert models[name]["output_error"] > 0


@pytest.mark.slow
def test_ssd_1b(xl_teacher, pictures, tmp_path, monkeypatch):
    check(tmp_path, {"ssd-1b"}, set(inprocess.reproduced(tmp_path, xl_teacher, pictures, "ssd-1b", monkeypatch)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sd-small", "bk-sdm", "vega", "koala"])
def test_the_other_recipes(name, teacher, xl_teacher, pictures, tmp_path, monkeypatch):
    family = "sdxl" if name in ("vega", "koala") else "sd"
    stages = inprocess.reproduced(tmp_path, {"sd": teacher, "sdxl": xl_teacher}[family], pictures, name, monkeypatch)
    students = {"sd-small": {"sd-small"}, "vega": {"segmind-vega"}, "koala": {"koala-1b", "koala-700m"}}
    check(tmp_path, students.get(name, {"bk-sdm-base", "bk-sdm-small", "bk-sdm-tiny"}), set(stages))


@pytest.mark.slow
def test_sd_tiny_of_a_published_sd_small(params, teacher, pictures, tmp_path, monkeypatch):
    """A student as the teacher of the whole graph."""
    small, run = tmp_path / "small-sd", tmp_path / "run"
    pruned(params.prune, teacher, CATALOGUE / "sd-small.yaml", small)
    run.mkdir()
    check(run, {"sd-tiny"}, set(inprocess.reproduced(run, small, pictures, "sd-tiny", monkeypatch)))
    report = json.loads((run / "reports" / "benchmark.json").read_text())
    assert report["teacher"]["layout"] == "bk-sdm-base"
    assert "itself a student" in (run / "reports" / "index.html").read_text()
    assert report["models"]["teacher"]["params"] == load_unet(small).num_parameters()


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_every_student_of_a_family_under_dvc(family, teacher, xl_teacher, pictures, tmp_path):
    students = [name for name, plan in STUDENTS.items() if plan.family == family]
    recipe = {"sd": "bk-sdm", "sdxl": "koala"}[family]
    folder = {"sd": teacher, "sdxl": xl_teacher}[family]
    clone, process, printed = started(folder, pictures, tmp_path, recipe, students)
    assert process.wait() == 0, printed.read_text()
    check(clone, set(students), stages_run(printed.read_text()))
