"""A disk that is full in the middle of a stage: it says so, and with room again it gives the same bits."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT
from faulty import FOLDER, STAGES, fresh, note, noted, quiet

FAULT = "disk full, then room and dvc repro"
SPACE = ["unshare", "--user", "--map-root-user", "--mount"]  # a file system of our own, without being root


@pytest.fixture(scope="module")
def filled() -> dict[str, dict]:
    """What came of each stage on a small file system (tmpfs): see `filling`."""
    log = FOLDER / "filled.json"
    if not log.is_file():
        if subprocess.run([*SPACE, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], check=False).returncode:
            pytest.fail("a file system of its own is needed here: user namespaces are not allowed on this machine")
        _, took = quiet()
        (FOLDER / "full").mkdir(exist_ok=True)
        script = [sys.executable, __file__.replace("test_full_disk", "filling"), fresh(), FOLDER / "full", log]
        paths = {"PYTHONPATH": os.pathsep.join(map(str, (ROOT / "src", ROOT / "tests", ROOT / "tests/support")))}
        command, given = [*SPACE, *map(str, script)], json.dumps(took)
        subprocess.run(command, check=True, input=given, text=True, env=os.environ | paths)
    return json.loads(log.read_text())


@pytest.mark.faults
@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk_is_said_and_changes_no_bit(filled, stage):
    row = filled[stage]
    if not noted(FAULT, stage):
        times, found = len(row["failed"]), row["lost"]
        said = [each["said"] for each in row["failed"]]
        room = [each["room"] for each in row["failed"]]
        note(FAULT, stage, times, 0 if found else times, found, free_bytes=room, said=said)
    assert not row["lost"] and not row["halves"]
    assert not any(each["traceback"] for each in row["failed"])
