"""Two processes with a part each of student and teacher learn what one process learns."""

import json
import os
import subprocess
import sys
from pathlib import Path

import apart
import pytest
import torch
from conftest import DISTILLING, ROOT, TUNING
from diffusers import UNet2DConditionModel

from prunella.training.metrics_log import MetricsLog

DISTILLED = DISTILLING | {"steps": 4, "batch_size": 6, "learning_rate": 1e-3, "evaluate_every": 3}
CASES = {
    "plain": {"content": DISTILLED},
    "bf16": {"content": DISTILLED | {"precision": "bf16", "gradient_checkpointing": True}},
    "fp16": {"content": DISTILLED | {"precision": "fp16"}},
    "parts": {"content": DISTILLED | {"accumulation": 2, "ema_decay": 0.9}, "placement": {"micro_batch": 2}},
    "patient": {"content": DISTILLED | {"steps": 9, "evaluate_every": 1, "patience": 1, "learning_rate": 0.3}},
    "lora": {"section": "finetune", "content": TUNING | {"steps": 3, "method": "lora", "batch_size": 6}},
}
CASES = {name: {"name": name, "section": "distill", "placement": {}} | case for name, case in CASES.items()}


@pytest.fixture(scope="module")
def asked(teacher, latents, pruned_tiny) -> dict[str, str]:
    return {"teacher": str(teacher), "latents": str(latents), "student": str(pruned_tiny)}


def together(asked: dict, cases: list[dict], out: Path, processes: int = 2) -> str:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    done = subprocess.run(
        [*launcher, apart.__file__, json.dumps(asked), json.dumps(cases), str(out)],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "DVC_ROOT": str(out)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def both(asked, tmp_path_factory) -> Path:
    """What two processes gave."""
    together(asked, list(CASES.values()), out := tmp_path_factory.mktemp("apart"))
    return out


@pytest.fixture
def alone(asked, tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", CASES)
def test_it_learns_what_one_process_does(both, alone, asked, name):
    apart.learn(asked, CASES[name], alone)
    for table in ("train", "heldout"):
        theirs, ours = ((folder / name / "curves" / f"{table}.csv").read_text() for folder in (both, alone))
        print(theirs)
        print(ours)
