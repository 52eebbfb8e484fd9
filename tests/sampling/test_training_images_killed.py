"""The stage itself, killed with -9 at random moments and started again, by one process and by two."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, toy_params

SET = {
    "prompts": "p.txt", "samples": 99, "images_per_prompt": 8, "model": "teacher", "id": None, "revision": "main",
    "negative_prompt": "", "guidance_scale": 3.0, "scheduler": "EulerAncestralDiscreteScheduler",
    "num_inference_steps": 20,
    "sizes": [[32, 32], [40, 32], [32, 40], [40, 40]], "batch_size": 300, "precision": "fp32",
    "storage": "fp32", "seed": 0,
}  # fmt: skip
COMMAND = [
    sys.executable, str(ROOT / "stages" / "generate.py"), "--out", "data/generated/set", "--report", "report.json",
]  # fmt: skip


def prepared(folder: Path, teacher: Path, pictures: Path, processes: int = 1) -> tuple[Path, dict[str, str]]:
    """A folder with parameters, prompts and the teacher, and the environment to run the stage there."""
    folder.mkdir()
    content = toy_params(teacher, pictures)
    content["generate"] = {"set": SET}
    content["runtime"]["processes"] = processes
    (folder / "params.yaml").write_text(yaml.safe_dump(content))
    (folder / "p.txt").write_text("\n".join(f"prompt {i}" for i in range(11)))
    (folder / "teacher").symlink_to(teacher)
    return folder, os.environ | {"PYTHONPATH": str(ROOT / "src"), "DVC_ROOT": str(folder), "OMP_NUM_THREADS": "1"}


def whole(folder: Path, environment: dict[str, str]) -> dict[str, bytes]:
    subprocess.run(COMMAND, cwd=folder, env=environment, check=True, capture_output=True)
    return {path.name: path.read_bytes() for path in sorted((folder / "data/generated/set").iterdir())}


@pytest.mark.slow
def test_kills_and_processes_change_no_bit(teacher, pictures, tmp_path):
    quiet = whole(*prepared(tmp_path / "quiet", teacher, pictures))
    assert len(quiet) == 4 + 2  # a shard a size: more pictures than a shard has would take minutes
    assert whole(*prepared(tmp_path / "two", teacher, pictures, processes=2)) == quiet
    folder, environment = prepared(tmp_path / "killed", teacher, pictures)
    moments, kept = random.Random(0), [0]
    for batches in range(3):  # of four: killed in the middle of each but the last
        process = subprocess.Popen(COMMAND, cwd=folder, env=environment, stderr=subprocess.DEVNULL)
        while noted(folder) < batches and process.poll() is None:
            time.sleep(0.05)
        time.sleep(moments.uniform(0, 0.5))
        assert process.poll() is None, "it ended before it was killed: more steps are needed here"
        process.kill()
        process.wait()
        kept.append(noted(folder))
    assert kept == sorted(kept) and 2 <= kept[-1] < 4  # what was whole is kept
    assert whole(folder, environment) == quiet


def noted(folder: Path) -> int:
    """How many files of pictures are whole."""
    return len(list((folder / "work").rglob("0*.json")))
