"""One of two processes killed in the middle of a training: the other ends too, and the next run gives the same bits."""

import random
import time

import psutil
import pytest
from faulty import FOLDER, changed, copied, lost, note, noted, quiet, started
from toygraph import DVC, run

FAULT, STAGE, TIMES = "one rank of two killed -9", "distill@sd-tiny", 3
SECONDS = 300  # until the rank is there, or until the rest has ended


def rank(process, number: int) -> psutil.Process | None:
    """The process of that rank, once it is there."""
    for each in psutil.Process(process.pid).children(recursive=True):
        try:
            if each.environ().get("RANK") == str(number):
                return each
        except psutil.Error:
            continue
    return None


def waited(found, seconds: float = SECONDS):
    end = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.2)
    return value


@pytest.mark.faults
def test_a_killed_rank_ends_the_stage_and_changes_no_bit():
    if noted(FAULT, STAGE):
        return
    origin, _ = quiet()
    clones = {name: copied(origin, f"ranks-{name}") for name in ("quiet", "killed")}
    for clone in clones.values():
        changed(clone, runtime={"processes": 2}, distill={"steps": 60, "batch_size": 4})
    began = time.monotonic()
    run(clones["quiet"], DVC, "repro", STAGE)
    whole, moments, lives = time.monotonic() - began, random.Random(1), []
    for number in range(TIMES):
        process = started(clones["killed"], STAGE)
        second = waited(lambda process=process: rank(process, 1))
        family = psutil.Process(process.pid).children(recursive=True)
        life = moments.uniform(0.2, 0.8) * whole / 2
        try:
            second.wait(life)
        except psutil.TimeoutExpired:
            second.kill()
        assert process.wait(SECONDS) != 0, number
        lives.append(round(life, 1))
        waited(lambda family=family: not psutil.wait_procs(family, timeout=1)[1])
    run(clones["killed"], DVC, "repro", STAGE)
    found = lost(clones["killed"], clones["quiet"], STAGE)
    note(FAULT, STAGE, TIMES, 0 if found else TIMES, found, after_seconds=lives)
    assert not found, FOLDER
