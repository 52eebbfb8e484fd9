"""Recipes as graphs, at toy size: their own parameters, but for the sizes. That of SD-Tiny runs in test_stages.py."""

import json
from pathlib import Path

import inprocess
import pytest
from toygraph import stages_run, started

from prunella import STUDENTS
from prunella.models.pipeline import load_unet
from prunella.pruning.plan import SHIPPED_PLANS
from prunella.pruning.prune import prune_to_folder


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
    prune_to_folder(params.prune, teacher, SHIPPED_PLANS / "sd-small.yaml", small)
    run.mkdir()
    check(run, {"sd-tiny"}, set(inprocess.reproduced(run, small, pictures, "sd-tiny", monkeypatch)))
    report = json.loads((run / "reports" / "benchmark.json").read_text())
    assert report["teacher"]["layout"] == "bk-sdm-base"
    assert "itself a student" in (run / "reports" / "index.html").read_text()
    assert report["models"]["teacher"]["params"] == load_unet(small).num_parameters()


@pytest.mark.slow
def test_anothers_model_is_drawn_scored_costed_and_reported(teacher, pruned_tiny, pictures, tmp_path, monkeypatch):
    own = {"source": "folder", "path": str(pictures), "caption": "a red thing", "samples": 11}
    model = {"source": "folder", "path": str(pruned_tiny)}
    tuning = {
        "data": {"red": {"filter": own, "encode": {"heldout": 3}}},
        "base": {"theirs": {"model": model, "data": "red"}},
    }
    stages = inprocess.reproduced(tmp_path, teacher, pictures, "sd-tiny", monkeypatch, **tuning)
    assert {"base_draw@theirs", "base_score@theirs"} < set(stages)
    report = json.loads((tmp_path / "reports" / "benchmark.json").read_text())
    models, pruned_here = report["models"], report["models"]["sd-tiny/pruned"]
    assert [name for name in models if name.startswith("theirs")] == ["theirs/base", "theirs/finetuned"]
    # It is this graph's own sd-tiny, just pruned, so its figures are that one's.
    for name in ("output_error", "latent_kid", "params", "macs"):
        assert models["theirs/base"][name] == pruned_here[name]
    assert models["theirs/finetuned"]["output_error"] != pruned_here["output_error"]
    assert {"theirs/finetuned - theirs/base", "theirs/base - teacher"} < set(report["differences"])
    assert list(report["training"]["theirs"]) == ["finetune"]
    text = (tmp_path / "reports" / "index.html").read_text()
    assert "theirs, as it was" in text and "theirs, fine-tuned" in text
    assert (tmp_path / "reports" / "images" / "theirs.png").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_every_student_of_a_family_under_dvc(family, teacher, xl_teacher, pictures, tmp_path, warm):
    students = [name for name, plan in STUDENTS.items() if plan.family == family]
    recipe = {"sd": "bk-sdm", "sdxl": "koala"}[family]
    folder = {"sd": teacher, "sdxl": xl_teacher}[family]
    clone, process, printed = started(folder, pictures, tmp_path, recipe, students, **warm)
    assert process.wait() == 0, printed.read_text()
    check(clone, set(students), stages_run(printed.read_text()))
