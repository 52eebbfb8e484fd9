"""Killed with -9 at random moments and started again by `dvc repro`, a training ends at the bits of a quiet one."""

import hashlib
import random
import shutil
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from toygraph import DVC, ENVIRONMENT, cloned, run

KILLS = 20


def ended(clone: Path) -> dict[str, str]:
    """Sums of what the training gave: weights, best weights, curves but for their seconds."""
    files = sorted((clone / "models/distilled/sd-tiny").rglob("*.safetensors"))
    files += [clone / "reports/curves/distill/sd-tiny/heldout.csv"]
    return {str(path.relative_to(clone)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def kill(process: subprocess.Popen) -> None:
    """The process and all that it has started."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        member.kill()
    process.wait()


@pytest.mark.faults
def test_twenty_kills_change_no_bit(teacher, pictures, tmp_path):
    watch, distill = {"checkpoint_every": 7, "picture_every": 600}, {"steps": 600, "evaluate_every": 50}
    broken = cloned(teacher, pictures, tmp_path, students=["sd-tiny"], watch=watch, **distill)
    run(broken, DVC, "repro", "encode", "prune@sd-tiny")
    quiet = Path(shutil.copytree(broken, tmp_path / "quiet", symlinks=True))
    began = time.monotonic()
    run(quiet, DVC, "repro", "distill@sd-tiny")
    whole = time.monotonic() - began
    moments, lives = random.Random(0), []
    while len(lives) < KILLS:
        process = subprocess.Popen(
            [DVC, "repro", "distill@sd-tiny"], cwd=broken, env=ENVIRONMENT, stdout=subprocess.DEVNULL
        )
        life = moments.uniform(0, whole / 4)
        try:
            process.wait(life)
        except subprocess.TimeoutExpired:
            kill(process)
            lives.append(life)
            continue
        pytest.fail(f"it ended after {len(lives)} kills (lives of {lives} s): more steps are needed here")
    kept = list((broken / "work" / "distill").glob("*/step-*.pt"))
    print(
        f"killed {len(lives)} times after {min(lives):.1f} to {max(lives):.1f} s; kept: {[path.name for path in kept]}"
    )
    assert kept
    run(broken, DVC, "repro", "distill@sd-tiny")
    assert ended(broken) == ended(quiet)
