"""`$PRUNELLA_LAUNCHER`, which `stages/python` puts before a stage's command, with a stand-in for Slurm's sbatch."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

SBATCH = "sbatch --wait --gres=gpu:1 launch/slurm/job.sh"
SAY = "import os, sys; print(os.getcwd(), sys.argv[1:]); sys.exit(7)"


@pytest.fixture
def queued(tmp_path):
    """Starts a stage with a launcher; its process."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sbatch").symlink_to(ROOT / "tests" / "support" / "sbatch")
    path = f"{tmp_path / 'bin'}:{Path(sys.executable).parent}:/usr/bin:/bin"
    given = {"PATH": path, "PRUNELLA_PYTHON": sys.executable, "SBATCH_QUEUE": str(tmp_path)}

    started = []

    def start(launcher: str, *command: str) -> subprocess.Popen:
        process = subprocess.Popen(
            ["sh", "stages/python", *command],
            cwd=ROOT,
            env=given | {"PRUNELLA_LAUNCHER": launcher},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.stdout.close()


def appeared(file: Path) -> str:
    end = time.monotonic() + 20
    while not (file.exists() and (text := file.read_text() or file.name == "queued")):
        assert time.monotonic() < end, f"no {file}"
        time.sleep(0.02)
    return str(text)


def test_a_stage_waits_in_the_queue_and_ends_with_its_own_status(queued, tmp_path):
    (tmp_path / "busy").touch()
    stage = queued(SBATCH, "-c", SAY, "a b", "c*")
    appeared(tmp_path / "queued")
    time.sleep(0.2)
    assert stage.poll() is None and not (tmp_path / "job").exists()
    (tmp_path / "busy").unlink()
    assert stage.wait(30) == 7
    assert (tmp_path / "slurm-1.out").read_text() == f"{ROOT} ['a b', 'c*']\n"


def test_a_lost_job_is_a_failed_stage(queued, tmp_path):
    stage = queued(SBATCH, "-c", "import time; time.sleep(60)")
    os.kill(int(appeared(tmp_path / "job")), signal.SIGKILL)
    assert stage.wait(30) == 1


def test_a_launcher_that_is_not_there_is_named(queued):
    stage = queued("srum --gres=gpu:1", "-c", SAY)
    said, _ = stage.communicate(timeout=30)
    assert stage.returncode == 127 and "srum" in said


def test_without_a_launcher_the_command_runs_here(queued):
    stage = queued("", "-c", SAY)
    said, _ = stage.communicate(timeout=30)
    assert (stage.returncode, said) == (7, f"{ROOT} []\n")


def test_no_file_that_decides_a_result_names_a_launcher():
    for name in ("params.yaml", "dvc.yaml"):
        assert "LAUNCHER" not in (ROOT / name).read_text()
