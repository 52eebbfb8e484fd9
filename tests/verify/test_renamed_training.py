"""An unfinished training goes on to the same bits after its module, its constant and one of its keys were renamed."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from toygraph import ACCEPT_DISTILL, DVC, ENVIRONMENT, cloned, committed, run


def weights_digest(clone: Path) -> dict[str, str]:
    folder = clone / "models" / "distilled" / "sd-tiny" / "unet"
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.safetensors"))}


def rename_back(clone: Path) -> None:
    """Make the clone's code what an older version was: other names of a module, a constant and a key."""
    package = clone / "src" / "prunella"
    run(clone, "git", "mv", "src/prunella/training/trainer.py", "src/prunella/training/job.py")
    for path in [*package.rglob("*.py"), *package.rglob("*.yaml"), clone / "params.yaml"]:
        if path.name == "renames.py":
            continue
        text = path.read_text()
        changed = text.replace("training.trainer import", "training.job import").replace("max_grad_norm", "clip_norm")
        changed = changed.replace('"training/trainer.py"', '"training/job.py"')
        if path.name == "job.py":
            changed = changed.replace("CODE_DEPS", "ROOMS")
        if changed != text:
            path.write_text(changed)
    job = package / "training" / "job.py"
    text = job.read_text()
    assert "                step_hook(done, ema)\n" in text
    job.write_text(
        text.replace(
            "                step_hook(done, ema)\n",
            "                step_hook(done, ema)\n"
            '                if done == 3 and __import__("os").environ.get("KILLED"):\n'
            '                    __import__("os")._exit(9)\n',
        )
    )


@pytest.mark.graph
def test_it_goes_on_after_module_constant_and_key_were_renamed(teacher, pictures, tmp_path, warm):
    given = {"students": ["sd-tiny"], "watch": {"checkpoint_every": 2}}
    changes = {"steps": 4, "max_grad_norm": 0.5}
    (tmp_path / "whole").mkdir()
    (tmp_path / "renamed").mkdir()
    whole = cloned(teacher, pictures, tmp_path / "whole", **given, **changes)
    run(whole, DVC, "repro", "distill@sd-tiny", **warm)

    clone = cloned(teacher, pictures, tmp_path / "renamed", **given, **changes)
    rename_back(clone)
    committed(clone)
    killed = subprocess.run(
        [DVC, "repro", "distill@sd-tiny"], cwd=clone, env=ENVIRONMENT | warm | {"KILLED": "1"}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert killed.returncode and len(list(clone.glob("work/distill/*/step-000002.pt"))) == 1, (
        killed.stdout + killed.stderr
    )
    run(clone, "git", "checkout", "HEAD~1", "--", ".")
    run(clone, "git", "rm", "-q", "--cached", "src/prunella/training/job.py")
    (clone / "src/prunella/training/job.py").unlink()
    committed(clone)
    assert "  max_grad_norm: 0.5" in (clone / "params.yaml").read_text()
    printed = run(clone, sys.executable, "-c", ACCEPT_DISTILL, PYTHONPATH=str(clone / "src"), DVC_ROOT=str(clone))
    assert "work/distill" in printed and "accepted" in printed, printed
    run(clone, DVC, "repro", "distill@sd-tiny", **warm)
    assert len([path for path in clone.glob("work/distill/*") if path.is_dir()]) == 1  # no second training was begun
    assert weights_digest(clone) == weights_digest(whole) != {}
