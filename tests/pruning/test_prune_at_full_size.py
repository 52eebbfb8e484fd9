"""SDXL to SSD-1B with random fp16 weights, at full size: needs 14 GB of memory and 15 GB of disk."""

import subprocess
import sys

import pytest
import torch
from accelerate import init_empty_weights
from conftest import ROOT
from diffusers import UNet2DConditionModel
from known import SDXL

MEASURED = """
import sys, time
from pathlib import Path
from prunella import STUDENTS, prune
from prunella.profiling.meters import MemoryMeter
from prunella.models.pipeline import load_unet

began = time.time()
peak = MemoryMeter().peak_mb(lambda: prune(load_unet(Path(sys.argv[1]), keep_dtype=True), STUDENTS["ssd-1b"]))
print(peak, time.time() - began)
"""


@pytest.mark.slow
def test_memory_is_teacher_and_student(tmp_path):
    with init_empty_weights():
        unet = UNet2DConditionModel.from_config(SDXL)
    unet = unet.half().to_empty(device="cpu")
    some = torch.randn(1 << 24).half()
    for weight in unet.parameters():
        weight.data = some.repeat(weight.numel() // len(some) + 1)[: weight.numel()].reshape(weight.shape).clone()
    unet.save_pretrained(tmp_path / "unet")
    del unet
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, tmp_path], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    peak_mb, seconds = map(float, done.stdout.split())
    needed_mb = 2 * (2_567_463_684 + 1_331_334_404) / 1e6
    print(f"peak {peak_mb:.0f} MB, teacher and student {needed_mb:.0f} MB, {seconds:.1f} s")
    assert peak_mb <= 1.05 * needed_mb
