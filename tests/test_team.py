"""The distill stage in two processes, as `dvc repro` starts it with `runtime.processes: 2`, and in one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import toy_params
from inprocess import commands
from PIL import Image
from stagefolder import curve, stage_folder


def distilled(folder: Path, teacher: Path, pictures: Path, latents: Path, pruned: Path, processes: int) -> Path:
    """Run the stage in `folder`."""
    content = toy_params(teacher, pictures)
    content["distill"] |= {
        "steps": 4,
        "batch_size": 4,
        "gradient_accumulation_steps": 2,
        "feature_normalization": "teacher",
    }
    content["runtime"] |= {"processes": processes, "device": "cpu"}
    stage_folder(folder, content, teacher, latents, pruned)
    done = subprocess.run(
        commands(["sd-tiny"])["distill@sd-tiny"],
        cwd=folder,
        env=os.environ | {"DVC_ROOT": str(folder), "OMP_NUM_THREADS": "1", "PRUNELLA_PYTHON": sys.executable},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("distill: sd-tiny: 4 steps in") == 1  # the first process alone reports
    return folder


def sheet(folder: Path) -> Path:
    """The pictures of the first step."""
    return next(folder.glob("work/distill/*/samples/0.png"))


@pytest.mark.slow
def test_two_processes_learn_what_one_does(teacher, pictures, latents, pruned_tiny, tmp_path):
    inputs = teacher, pictures, latents, pruned_tiny
    one, two = (distilled(tmp_path / str(count), *inputs, count) for count in (1, 2))
    for split in ("train", "heldout"):
        alone, together = curve(one, split), curve(two, split)
        assert len(alone) == len(together) > 1
        for row, expected in zip(together, alone, strict=True):
            assert row == pytest.approx(expected, rel=1e-5)
    assert curve(one, "heldout")[0] == curve(two, "heldout")[0]  # before any step: shared, yet the same bits
    sheets = [np.asarray(Image.open(sheet(folder)), int) for folder in (one, two)]
    assert sheets[0].shape == sheets[1].shape and abs(sheets[0] - sheets[1]).max() <= 1
    report = json.loads((two / "reports" / "distill" / "sd-tiny.json").read_text())
    assert report["runtime"]["processes"] == 2
