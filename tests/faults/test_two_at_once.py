"""A second `dvc repro` beside a first one says that it has to wait, and harms nothing."""

import subprocess
import time

import psutil
import pytest
from faulty import changed, lost, note, noted, quiet, renewed, started
from toygraph import DVC, ENVIRONMENT

FAULT, STAGE, SECONDS = "a second dvc repro at once", "encode", 120


@pytest.mark.faults
def test_a_second_repro_is_refused_and_the_first_goes_on():
    if noted(FAULT, STAGE):
        return
    origin, _ = quiet()
    clone = renewed(origin, "two")
    changed(clone, encode={"batch_size": 3})
    first, end = started(clone, STAGE), time.monotonic() + SECONDS
    while not psutil.Process(first.pid).children():  # a stage of it is under way
        assert time.monotonic() < end
        time.sleep(0.1)
    second = subprocess.run(
        [DVC, "repro", STAGE], cwd=clone, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert first.wait() == 0
    said = next(line for line in second.stderr.splitlines() if line.strip())
    found = lost(clone, origin, "filter")
    note(FAULT, STAGE, 1, int(not found), found, said=said)
    assert second.returncode and "lock" in second.stderr and not found
