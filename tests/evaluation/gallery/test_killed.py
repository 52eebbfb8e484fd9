"""Killed with -9 while it draws and run again by `dvc repro`, a gallery and its figures are those of a quiet run."""

import hashlib
import shutil
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import yaml
from toygraph import DVC, ENVIRONMENT, cloned, run


def kill(process: subprocess.Popen) -> None:
    """The process and all that it has started."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        member.kill()
    process.wait()


def drawn(clone: Path) -> dict[str, str]:
    """Sums of the shards of pictures, and what they were scored."""
    files = [*sorted((clone / "data/drawn/teacher").rglob("*.tar")), clone / "reports/scores/teacher.json"]
    return {str(path.relative_to(clone)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.slow
def test_killed_while_drawing_500_pictures_and_run_again_the_figures_are_the_same(teacher, pictures, tmp_path):
    broken = cloned(teacher, pictures, tmp_path, students=["sd-tiny"])
    content = yaml.safe_load((broken / "params.yaml").read_text())
    content["benchmark"] |= {"prompts": 5, "seeds": 100, "batch_size": 5, "metrics": ["latent_kid"]}
    (broken / "params.yaml").write_text(yaml.safe_dump(content))
    run(broken, DVC, "repro", "encode")
    quiet = Path(shutil.copytree(broken, tmp_path / "quiet", symlinks=True))
    run(quiet, DVC, "repro", "score_teacher")
    parts: list[int] = []
    while len(parts) < 5:
        process = subprocess.Popen(
            [DVC, "repro", "draw_teacher"], cwd=broken, env=ENVIRONMENT, stdout=subprocess.DEVNULL
        )
        count, deadline = len(parts) * 15 + 5, time.monotonic() + 120
        while len(list((broken / "work").glob("draw-teacher/*/*.part.json"))) < count and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert process.poll() is None, "it ended before it was killed: more pictures are needed here"
        kill(process)
        parts.append(len(list((broken / "work").glob("draw-teacher/*/*.part"))))
    print(f"killed after {parts} of 100 batches")
    assert parts == sorted(parts) and parts[-1] < 100
    run(broken, DVC, "repro", "score_teacher")
    assert drawn(broken) == drawn(quiet)
