"""Killed with -9 while it draws and run again, a gallery and its figures are those of a quiet run."""

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

from prunella.evaluation.metrics import find_metric
from prunella.sampling.gallery import ImageShards

DRAW = """
import sys
from pathlib import Path
import torch
from prunella.pipeline.stage import silence_libraries
silence_libraries()
torch.set_num_threads(1)
from prunella.sampling.benchmark_images import generate_benchmark_images
from prunella.params import Benchmark
params, model, latents, out = sys.argv[1:]
generate_benchmark_images(
    Benchmark.model_validate_json(params), name="a/pruned", model_dir=Path(model), latents_dir=Path(latents),
    out=Path(out), device="cpu",
)
"""
KILLS = 5


def sums(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.mark.slow
def test_killed_while_drawing_500_pictures_and_run_again(params, teacher, latents, make_subject, tmp_path):
    asked = {"prompts": 4, "seeds": 125, "batch_size": 5, "num_inference_steps": 1}  # 3 of the 7 held out stay real
    settings = params.benchmark.model_copy(update=asked).model_dump_json()

    def drawing(name: str) -> subprocess.Popen:
        folder = tmp_path / name
        environment = os.environ | {"DVC_ROOT": str(folder), "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
        words = [sys.executable, "-c", DRAW, settings, str(teacher), str(latents), str(folder / "drawn")]
        return subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL)

    assert drawing("quiet").wait() == 0
    kept = []
    for kill in range(KILLS):
        process, work = drawing("broken"), tmp_path / "broken" / "work"
        while len(list(work.rglob("*.part.json"))) < 15 * kill + 5 and process.poll() is None:
            time.sleep(0.01)
        assert process.poll() is None, "it ended before it was killed"
        process.kill()
        process.wait()
        kept.append(len(list(work.rglob("*.part.json"))))
    print(f"killed with {kept} of 100 batches kept")
    assert not (tmp_path / "broken" / "drawn").exists() and kept == sorted(kept) and kept[-1] < 100
    assert drawing("broken").wait() == 0
    assert sums(tmp_path / "quiet" / "drawn") == sums(tmp_path / "broken" / "drawn")
    figures = []
    for name in ("quiet", "broken"):
        gallery = ImageShards(tmp_path / name / "drawn")
        metric = find_metric("latent_kid").build(make_subject(0, prompts=gallery.prompts))
        for prompts, images in gallery.iter_batches(50):
            metric.update(images, [prompt.text for prompt in prompts])
        figures.append(metric.compute())
    assert figures[0] == figures[1] and figures[0].n == 500
