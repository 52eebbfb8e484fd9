"""Processes with a part each of student and teacher learn what one process learns."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import apart
import pytest
import torch
from conftest import DISTILLING, LORA, TUNING, WIDTH, toy_params
from diffusers import UNet2DConditionModel
from inprocess import commands
from safetensors.torch import load_file
from stagefolder import stage_folder
from toygraph import together

from prunella.errors import UserError
from prunella.models.pipeline import load_unet

DISTILLED = DISTILLING | {"steps": 4, "batch_size": 6, "evaluate_every": 3}
TERMS = {name: DISTILLING[name] for name in ("task_weight", "output_weight", "feature_weight", "learning_rate")}
PHASES = [{"steps": 2, "teacher": None, "plan": plan, **TERMS} for plan in ("sd-small", None)]
SMOOTH = {"eps": 1e-2, "learning_rate": 1e-2}  # AdamW's steps go by gradients' sizes then, and not by their signs alone
CONSTANT = DISTILLED | {"lr_scheduler": "constant", "lr_warmup_steps": 0}
CASES = {
    "plain": {"content": DISTILLED},
    "bf16, running parts again": {
        "content": DISTILLED | SMOOTH | {"precision": "bf16", "gradient_checkpointing": True}
    },
    "fp16": {"content": DISTILLED | SMOOTH | {"precision": "fp16"}},
    "in parts": {
        "content": DISTILLED | {"gradient_accumulation_steps": 2, "ema_decay": 0.0},
        "placement": {"micro_batch": 2},
    },
    "in phases": {"content": DISTILLED | {"phases": PHASES}},
    "stopped": {"content": DISTILLED | {"steps": 9, "evaluate_every": 1, "patience": 1, "learning_rate": 0.05}},
    "lora": {"section": "finetune", "content": TUNING | {"steps": 3, "method": "lora", "batch_size": 6}},
    "half of it": {"content": CONSTANT | {"steps": 2}},
}
CASES = {name: {"name": name, "section": "distill", "placement": {}} | case for name, case in CASES.items()}
ON = CASES["half of it"] | {"name": "all of it", "content": CONSTANT}
# Of 8 or 11 bits the last are large: one of a small gradient's sign tells on a small tensor by itself, as it also does
# where one process has another number of threads. So there all weights are compared, by how far they have moved.
NEAR = {"bf16, running parts again": 3e-2, "fp16": 1e-2}


@pytest.fixture(scope="module")
def asked(teacher, latents, pruned_tiny) -> dict[str, str]:
    return {"teacher": str(teacher), "latents": str(latents), "student": str(pruned_tiny)}


def learn_together(asked: dict, cases: list[dict], out: Path, processes: int) -> str:
    """What is said while so many processes do the cases."""
    return together(out, processes, apart.__file__, json.dumps(asked), json.dumps(cases), out)


@pytest.fixture(scope="module")
def both(asked, tmp_path_factory) -> Path:
    """What two processes gave."""
    learn_together(asked, list(CASES.values()), out := tmp_path_factory.mktemp("apart"), 2)
    return out


@pytest.fixture
def alone(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    return tmp_path


def curve(folder: Path, name: str, split: str) -> list[dict[str, float]]:
    with (folder / name / "curves" / f"{split}.csv").open() as file:
        rows = [
            {key: value for key, value in row.items() if value and key != "seconds"} for row in csv.DictReader(file)
        ]
    return [{key: float(value) for key, value in row.items()} for row in rows]


def same(one: Path, other: Path, name: str, near: float = 1e-3, begun: Path | None = None) -> None:
    """Assert that curves are as near, and each tensor; or all of them, by how far they are from those of `begun`."""
    for split in ("train", "heldout"):
        ours, theirs = (curve(folder, name, split) for folder in (one, other))
        assert ours == [pytest.approx(row, rel=near) for row in theirs]
    ours, theirs = (load_unet(folder / name / "student").state_dict() for folder in (one, other))
    assert ours.keys() == theirs.keys()
    if begun:
        began = load_unet(begun).state_dict()
        assert apart_by(ours, theirs) <= near * apart_by(began, theirs)
        return
    for key, value in ours.items():
        assert (value - theirs[key]).norm() <= near * theirs[key].norm() + 1e-4, key


def apart_by(one: dict, other: dict) -> float:
    """The distance of all weights together."""
    return sum(float((one[key] - value).norm() ** 2) for key, value in other.items()) ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_processes_learn_what_one_does(both, alone, asked, name):
    apart.learn(asked, CASES[name], alone)
    begun = Path(asked["student"]) if name in NEAR else None
    same(both, alone, name, NEAR.get(name, 1e-3), begun)
    first, mine = (curve(folder, name, "heldout")[0] for folder in (both, alone))
    assert first == mine  # of the same weights held-out values are the same bits


@pytest.mark.slow
def test_each_holds_a_part_of_student_and_teacher(both, pruned_tiny, teacher):
    sizes = [load_unet(folder).num_parameters() for folder in (pruned_tiny, teacher)]
    counts = [json.loads((both / f"plain-{rank}.json").read_text()) for rank in (0, 1)]
    assert [sum(of) for of in zip(*counts, strict=True)] == sizes
    assert counts[0] == [pytest.approx(size / 2, rel=0.05) for size in sizes]


@pytest.mark.slow
def test_the_folders_are_what_they_always_are(both, asked):
    assert UNet2DConditionModel.from_pretrained(both / "plain" / "student" / "unet").config.cross_attention_dim == WIDTH
    (weights,) = (both / "plain" / "student" / "unet").glob("*.safetensors")
    assert {part.dtype for part in load_file(weights).values()} == {torch.float16}
    assert (both / "plain" / "student" / "unet" / "plan.yaml").is_file()
    matrices = load_file(both / "lora" / "student" / "pytorch_lora_weights.safetensors")
    assert matrices and all(value.isfinite().all() for value in matrices.values())


@pytest.mark.slow
def test_a_state_is_gone_on_with_by_any_number_shared_out_or_not(both, alone, asked):
    """Two began; one goes on, and three do, to where one ends by itself."""
    apart.learn(asked, ON, alone)
    said = learn_together(asked, [ON], both, 3)
    assert "going on from step 2 of a shorter training" in said
    same(both, alone, "all of it")


@pytest.mark.slow
def test_one_goes_on_with_what_two_began(both, alone, asked, monkeypatch, capsys):
    apart.learn(asked, ON, alone)
    monkeypatch.setenv("DVC_ROOT", str(both))
    apart.learn(asked, ON | {"content": CONSTANT | {"storage": "fp32"}, "name": "by one"}, both)
    assert "this very run has ended before" in capsys.readouterr().out
    ours, theirs = (load_unet(folder).state_dict() for folder in (both / "by one/student", alone / "all of it/student"))
    assert all((ours[key] - theirs[key]).norm() <= 1e-3 * theirs[key].norm() + 1e-4 for key in ours)


@pytest.mark.parametrize(
    ("data", "content", "fault"),
    [
        ("latents", {"optimizer": "adamw-8bit"}, "needs optimizer: adamw, whose moments are cut, not adamw-8bit"),
        (
            "token_latents",
            {"method": "lora", "lora": LORA | {"text_encoder": True}},
            "is of UNets; where text encoders",
        ),
    ],
)
def test_what_cannot_be_shared_out_is_refused(asked, request, alone, data, content, fault):
    case = {"name": "refused", "section": "finetune", "content": TUNING | content, "placement": {"fsdp": True}}
    with pytest.raises(UserError, match=rf"^runtime\.fsdp: true {fault}"):
        apart.learn(asked | {"latents": str(request.getfixturevalue(data))}, case, alone)


@pytest.mark.slow
def test_the_stage_does_so_by_a_parameter_and_draws(teacher, pictures, latents, pruned_tiny, tmp_path):
    content = toy_params(teacher, pictures)
    content["distill"] |= {"batch_size": 4}
    content["runtime"] |= {"device": "cpu", "processes": 2, "fsdp": True}
    folder = stage_folder(tmp_path / "project", content, teacher, latents, pruned_tiny)
    given = {"DVC_ROOT": str(folder), "OMP_NUM_THREADS": "1", "PRUNELLA_PYTHON": sys.executable}
    command = commands(["sd-tiny"])["distill@sd-tiny"]
    done = subprocess.run(command, cwd=folder, env=os.environ | given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads((folder / "reports" / "distill" / "sd-tiny.json").read_text())
    assert report["runtime"]["fsdp"] and report["runtime"]["processes"] == 2
    sheets = {path.name for path in folder.glob("work/distill/*/samples/*.png")}
    assert sheets == {"0.png", "2.png"}
