import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import toygraph
import yaml
from conftest import ROOT

from prunella.tracking.process import is_dead, process_tags


def test_this_process_is_there():
    assert not is_dead(process_tags())


def test_a_process_that_ended_is_gone_also_when_its_number_is_used_again():
    code = "from prunella.tracking.process import process_tags; print(process_tags())"
    tags = eval(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert tags["host"] == process_tags()["host"] and is_dead(tags)
    began = tags["process"].split()[1]
    assert is_dead(process_tags() | {"process": f"{os.getpid()} {int(began) + 1}"})


def test_before_the_machines_last_start_everything_is_gone():
    _, namespace = process_tags()["boot"].split(" ")
    assert is_dead(process_tags() | {"boot": f"another {namespace}"})


@pytest.mark.parametrize("tags", [{}, {"host": "elsewhere"}, {"boot": process_tags()["boot"] + "x"}, {"process": "1"}])
def test_what_cannot_be_told_from_here_is_left(tags):
    others = {"process": "1 1"} if "boot" in tags or "host" in tags else {}
    assert not is_dead(process_tags() | others | tags if tags else {})


STAGE = """
import os, time
from prunella.pipeline.stage import run_stage
with run_stage("toy", "A stage.", None, "out", distributed=True, log_to_mlflow=False) as it:
    print(os.getpid(), flush=True)
    time.sleep(100)
"""
PARENT = "import subprocess, sys; subprocess.run([sys.executable, 'stage.py', '--out', 'x'])"


@pytest.mark.parametrize(("variable", "left"), [("DVC_STAGE", False), ("LOCAL_RANK", False), ("SOME_OTHER", True)])
def test_a_stage_ends_with_the_process_that_started_it(tmp_path, variable, left):
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (tmp_path / "stage.py").write_text(STAGE)
    environment = {name: value for name, value in os.environ.items() if name != "DVC_STAGE"}
    environment |= {"PYTHONPATH": str(ROOT / "src"), "DVC_ROOT": str(tmp_path), variable: "0"}
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    )
    stage = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    try:
        assert ended(stage) != left
    finally:
        parent.stdout.close()
        if stage.is_running():
            stage.kill()


def ended(process: psutil.Process) -> bool:
    """Whether it is gone, or a zombie that only waits to be noticed, within five seconds."""
    until = time.monotonic() + 5
    while time.monotonic() < until:
        if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.slow
def test_processes_end_with_their_launcher(tmp_path):
    params = (ROOT / "params.yaml").read_text()
    assert "processes: 1" in params
    (tmp_path / "params.yaml").write_text(params.replace("processes: 1", "processes: 2"))
    (tmp_path / "stage.py").write_text(STAGE)
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "DVC_ROOT": str(tmp_path)}
    launcher = subprocess.Popen(
        [sys.executable, "stage.py", "--out", "x"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    )
    stages = [psutil.Process(int(launcher.stdout.readline())) for _ in range(2)]
    launcher.kill()
    launcher.wait()
    launcher.stdout.close()
    assert all([ended(stage) for stage in stages])


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_stages_end_with_dvc(tmp_path, shell, number):
    if not Path(shell).exists():
        pytest.skip(f"no {shell} here")
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (tmp_path / "stage.py").write_text(STAGE.replace("print(os.getpid(), flush=True)", WRITE))
    shutil.copytree(ROOT / "stages", tmp_path / "stages")
    graph = {"toy": {"cmd": "sh stages/python stage.py --out x", "outs": ["x"]}}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": graph}))
    (tmp_path / "src").symlink_to(ROOT / "src")
    toygraph.run(tmp_path, toygraph.DVC, "init", "--no-scm", "--quiet")
    with (tmp_path / "printed").open("w") as printed:
        dvc = subprocess.Popen(
            [toygraph.DVC, "repro"], cwd=tmp_path, env=toygraph.ENVIRONMENT | {"SHELL": shell}, stdout=printed
        )
    until = time.monotonic() + 60
    while not (tmp_path / "pid").exists() and time.monotonic() < until:
        time.sleep(0.1)
    stage = psutil.Process(int((tmp_path / "pid").read_text()))
    dvc.send_signal(number)
    dvc.wait()
    try:
        assert ended(stage)
    finally:
        if stage.is_running():
            stage.kill()


WRITE = "open('half', 'w').write(str(os.getpid())); os.rename('half', 'pid')"
