"""A distillation in phases from parameters alone: the stages that it takes, one after the other, at toy size."""

import json
import shutil

import pytest
import torch
import yaml
from conftest import ROOT, toy_params
from diffusers import UNet2DConditionModel
from inprocess import run
from toygraph import DVC, cloned, committed, stages_run
from toygraph import run as shell

PHASES = [{"steps": 1, "plan": "sd-small"}]
PHASES += [{"steps": 1, "plan": "bk-sdm-small", "teacher": "second", "feature_weight": 0.25}]
PHASES += [{"steps": 2, "teacher": "second", "learning_rate": 5e-4}]


def second(teacher, folder):
    """Another teacher of the same VAE and text encoders, as a folder."""
    shutil.copytree(teacher, folder)
    torch.manual_seed(7)
    config = UNet2DConditionModel.load_config(teacher / "unet")
    UNet2DConditionModel.from_config(config).half().save_pretrained(folder / "unet")
    return {"source": "folder", "path": str(folder)}


def words(stage: str, **paths: object) -> list[str]:
    return [f"stages/{stage}.py", *(word for name, path in paths.items() for word in (f"--{name}", str(path)))]


def test_the_stages_distil_in_phases(teacher, pictures, latents, pruned_tiny, tmp_path, monkeypatch):
    content = toy_params(teacher, pictures) | {"students": ["sd-tiny"]}
    content["teachers"] = {"second": second(teacher, tmp_path / "other")}
    content["distill"] |= {"phases": PHASES, "steps": 4}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    (tmp_path / "src").symlink_to(ROOT / "src")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    run(words("check", out="models/checked.json"))
    run(words("teacher", out="models/teacher.json"))
    run(words("teachers", out="models/teachers/second.json"))
    given = {"teacher": "models/teacher.json"}
    run(words("phases", **given, teachers="models/teachers", plans="plans", out="models/phases.json"))
    named = json.loads((tmp_path / "models" / "phases.json").read_text())
    assert list(named["plans"]) == ["bk-sdm-small", "sd-small"] and list(named["teachers"]) == ["second"]
    made = {"student": pruned_tiny, "out": "models/distilled/sd-tiny", "curves": "curves", "report": "distill.json"}
    run(words("distill", **given, latents=latents, phases="models/phases.json", **made))
    report = json.loads((tmp_path / "distill.json").read_text())
    told = [(phase["teacher"], phase["plan"], phase["steps"]) for phase in report["phases"].values()]
    assert told == [(None, "sd-small", 1), ("second", "bk-sdm-small", 1), ("second", "sd-tiny", 2)]


def test_phases_that_do_not_follow_are_refused_before_anything_runs(teacher, pictures, tmp_path, monkeypatch):
    content = toy_params(teacher, pictures) | {"students": ["sd-tiny"]}
    content["distill"] |= {"phases": [{"steps": 1, "plan": "sd-tiny"}, {"steps": 1, "plan": "sd-small"}], "steps": 2}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"^check: distill\.phases\.1\.plan: sd-small keeps more of the mid block"):
        run(words("check", out="models/checked.json"))


@pytest.mark.graph
def test_dvc_distils_in_phases_from_parameters_alone(teacher, pictures, tmp_path, warm):
    clone = cloned(teacher, pictures, tmp_path, students=["sd-tiny"], phases=PHASES, steps=4)
    content = yaml.safe_load((clone / "params.yaml").read_text())
    content["teachers"] = {"second": second(teacher, tmp_path / "other")}
    (clone / "params.yaml").write_text(yaml.safe_dump(content))
    committed(clone)
    ran = stages_run(shell(clone, DVC, "repro", "distill@sd-tiny", **warm))
    assert ran >= {"teachers@second", "phases", "prune@sd-tiny", "distill@sd-tiny"}
    report = json.loads((clone / "reports" / "distill" / "sd-tiny.json").read_text())
    assert [phase["teacher"] for phase in report["phases"].values()] == [None, "second", "second"]
    assert stages_run(shell(clone, DVC, "repro", "distill@sd-tiny", **warm)) == set()
