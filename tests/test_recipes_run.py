"""Recipes as graphs, at toy size: their own parameters, but for the sizes."""

import json
from pathlib import Path

import pytest
from toygraph import stages_run, started

from prunella import STUDENTS


def reproduced(teacher: Path, pictures: Path, folder: Path, recipe: str, students: list[str] | None = None) -> None:
    """Run the recipe's graph in a clone; every stage must have run, every model be there and drawn."""
    clone, process, printed = started(teacher, pictures, folder, f"recipes/{recipe}.yaml", students)
    assert process.wait() == 0, printed.read_text()
    models = json.loads((clone / "reports" / "benchmark.json").read_text())["models"]
    named = {name.partition("/")[0] for name in models if name != "teacher"}
    assert stages_run(printed.read_text()) == {"teacher", "filter", "encode", "benchmark"} | {
        f"{stage}@{student}" for stage in ("prune", "distill", "finetune") for student in named
    }
    for name in models:
        if name != "teacher":
            student, stage = name.split("/")
            assert (clone / "models" / stage / student / "model_index.json").is_file()
    assert named == set(students or [recipe])


def test_sd_tiny(teacher, pictures, tmp_path):
    reproduced(teacher, pictures, tmp_path, "sd-tiny")


def test_ssd_1b(xl_teacher, pictures, tmp_path):
    reproduced(xl_teacher, pictures, tmp_path, "ssd-1b")


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "family"), [("bk-sdm", "sd"), ("koala", "sdxl")])
def test_every_student_of_a_family_at_once(recipe, family, teacher, xl_teacher, pictures, tmp_path):
    students = [name for name, plan in STUDENTS.items() if plan.family == family]
    reproduced({"sd": teacher, "sdxl": xl_teacher}[family], pictures, tmp_path, recipe, students)


@pytest.mark.slow
def test_sd_small(teacher, pictures, tmp_path):
    reproduced(teacher, pictures, tmp_path, "sd-small")


@pytest.mark.slow
def test_vega(xl_teacher, pictures, tmp_path):
    reproduced(xl_teacher, pictures, tmp_path, "vega", ["segmind-vega"])
