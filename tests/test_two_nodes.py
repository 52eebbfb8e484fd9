"""The distill stage on two "nodes" of this machine, each with a launcher of its own that find one another by torch's
rendezvous, as docs/scale.md has it; one node is lost, by kill -9 and by silence, and the other goes on alone."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from conftest import toy_params
from inprocess import commands
from stagefolder import curve, stage_folder

from prunella.training.metrics_log import MetricsLog

STEPS, LOST_AT, MINUTE = 60, 8, 60
KEPT = "what was learned up to the last checkpoint is kept"
END = 240  # seconds that all may take on a busy machine


@pytest.fixture
def folder(teacher, pictures, latents, pruned_tiny, tmp_path):
    """Makes a stage's folder on shared storage."""

    def make(name: str) -> Path:
        content = toy_params(teacher, pictures)
        content["distill"] |= {"steps": STEPS, "batch_size": 2, "evaluate_every": 20}
        content["watch"] |= {"image_every": 1000}
        content["runtime"] |= {"device": "cpu"}
        stage_folder(tmp_path / name, content, teacher, latents, pruned_tiny)
        return tmp_path / name

    return make


def started(folder: Path, launcher: str = "") -> subprocess.Popen:
    """The stage, behind a launcher."""
    given = {"DVC_ROOT": str(folder), "OMP_NUM_THREADS": "1", "PRUNELLA_PYTHON": sys.executable}
    return subprocess.Popen(
        commands(["sd-tiny"])["distill@sd-tiny"],
        cwd=folder,
        env=os.environ | given | {"PRUNELLA_LAUNCHER": launcher},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def two_nodes(folder: Path) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torchrun = f"{sys.executable} -m torch.distributed.run --nnodes=2 --nproc-per-node=1 --rdzv-backend=c10d"
    torchrun += f" --rdzv-endpoint=127.0.0.1:{port} --rdzv-id=toy --no-python"
    first = started(folder, torchrun)
    give_up = time.monotonic() + END
    while not listened_to(port):  # the launcher that has the store, as FIRST in docs/scale.md, is the first process's
        assert time.monotonic() < give_up and first.poll() is None, first.communicate()
        time.sleep(0.05)
    return [first, started(folder, torchrun)]


def listened_to(port: int) -> bool:
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0


def rank(node: subprocess.Popen) -> tuple[int, psutil.Process] | None:
    """The rank of the node's process, and that process."""
    for each in psutil.Process(node.pid).children(recursive=True):
        try:
            if "RANK" in (known := each.environ()):
                return int(known["RANK"]), each
        except psutil.Error:
            continue
    return None


def reached(folder: Path) -> int:
    logs = [MetricsLog(path) for path in folder.glob("work/distill/*/metrics.jsonl")]
    return max((row["step"] for log in logs for row in log.rows("train")), default=0)


def family(node: subprocess.Popen) -> list[psutil.Process]:
    """A node's launcher and its process, which has a session of its own."""
    try:
        return [it := psutil.Process(node.pid), *it.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def lose(shared: Path, number: int, how: signal.Signals) -> str:
    """Train on two nodes and lose that with the process `number`; what the other says, which ends in a minute."""
    nodes = two_nodes(shared)
    members: list[psutil.Process] = []
    try:
        give_up = time.monotonic() + END
        while reached(shared) < LOST_AT:
            assert time.monotonic() < give_up and all(node.poll() is None for node in nodes), nodes[0].communicate()
            time.sleep(0.05)
        members = [member for node in nodes for member in family(node)]
        ranks = {found[0]: node for node in nodes if (found := rank(node))}
        for member in family(ranks[number]):  # launcher and process, as when a machine is gone
            member.send_signal(how)
        gone = time.monotonic()
        said, _ = ranks[1 - number].communicate(timeout=2 * MINUTE)
        assert ranks[1 - number].returncode != 0 and time.monotonic() - gone < MINUTE
        return said
    finally:
        for member in members:
            if member.is_running():
                member.kill()
        for node in nodes:
            node.kill()
            node.communicate()


@pytest.mark.slow
def test_a_lost_node_ends_the_other_and_one_process_goes_on(folder):
    shared, alone = folder("shared"), folder("alone")
    assert KEPT in lose(shared, 0, signal.SIGKILL)
    before = reached(shared)
    assert LOST_AT <= before < STEPS
    for process in (started(shared), started(alone)):
        said, _ = process.communicate(timeout=END)
        assert process.returncode == 0, said
    for split in ("train", "heldout"):
        rows, expected = curve(shared, split), curve(alone, split)
        assert len(rows) == len(expected)
        for row, other in zip(rows, expected, strict=True):
            assert row == pytest.approx(other, rel=1e-3), row


@pytest.mark.slow
def test_a_node_that_no_longer_answers_ends_the_other(folder):
    said = lose(folder("shared"), 1, signal.SIGSTOP)
    assert "process 1 of 2 on" in said and KEPT in said


@pytest.mark.slow
def test_a_first_node_that_no_longer_answers_ends_the_other(folder):
    """It has the store by which the others know of one another, and which their launchers wait for."""
    said = lose(folder("shared"), 0, signal.SIGSTOP)
    assert "the machine of the first process" in said and "has not answered for 40 s" in said and KEPT in said
