import errno
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT

from prunella.compute.device import resolve_device
from prunella.errors import UserError
from prunella.params import Runtime
from prunella.pipeline.stage import run_stage


def test_devices():
    def asked(name: str, threads: int = 0) -> str:
        return resolve_device(
            Runtime(
                engine="local",
                device=name,
                processes=1,
                workers=0,
                threads=threads,
                micro_batch="auto",
                fsdp=False,
                compile="auto",
                channels_last="auto",
            )
        )

    assert asked("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    assert asked("cpu") == "cpu"
    with pytest.raises(UserError, match=r"runtime.device: 'tpu' cannot be used"):
        asked("tpu")
    before = torch.get_num_threads()
    asked("cpu", threads=1)
    assert torch.get_num_threads() == 1
    torch.set_num_threads(before)


STAGE = """
import sys, time
from prunella.pipeline.stage import run_stage
with run_stage("slow", "A slow stage.", None, "out") as it:
    print("started", flush=True)
    time.sleep(60)
"""


def test_a_full_disk_is_told_where_a_path_is_left_out_or_is_a_name(tmp_path, monkeypatch):
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    with (
        pytest.raises(SystemExit, match=r"full: no room left at .*; make room and run the stage again"),
        run_stage(
            "full", "", ["--out", "x"], "out", per_dataset=True, optional_paths=("main",), log_to_mlflow=False
        ) as it,
    ):
        assert it.paths.main is None
        raise OSError(errno.ENOSPC, "full")


def test_sigterm_ends_a_stage_with_a_status_that_is_no_success(tmp_path):
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "DVC_ROOT": str(tmp_path)}
    command = [sys.executable, "-c", STAGE, "--out", "x"]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "started\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    process.stdout.close()


def test_a_mistake_is_printed_alone(tmp_path):
    (tmp_path / "params.yaml").write_text("seed: -1\n")
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    command = [
        sys.executable,
        str(ROOT / "stages" / "filter.py"),
        "--out",
        "x",
        "--report",
        "y",
        "--examples",
        "p",
        "--counts",
        "c",
    ]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("filter: params.yaml: seed: ")


@pytest.mark.parametrize(("name", "sound"), [("a:b", False), ("a?b c", True)])
def test_a_folder_whose_name_would_hide_its_code_is_refused(tmp_path, name, sound):
    (tmp_path / name / "src" / "prunella").mkdir(parents=True)
    (tmp_path / name / "src" / "prunella" / "__init__.py").write_text("print('ours')")
    done = subprocess.run(
        ["sh", str(ROOT / "stages" / "python"), "-c", "import prunella"],
        cwd=tmp_path / name,
        env=os.environ | {"PRUNELLA_PYTHON": sys.executable, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == ((0, "ours\n") if sound else (1, ""))
    assert sound or ("a:b" in done.stderr and len(done.stderr.splitlines()) == 1)
