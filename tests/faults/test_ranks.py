"""One of two processes killed in the middle of a training: the other ends too, and the next run gives the same bits."""

import random
import time
from pathlib import Path

import psutil
import pytest
from faulty import FOLDER, changed, lost, note, noted, quiet, renewed, started
from toygraph import DVC, run

from prunella.compute.resume import DONE_FILE
from prunella.training.metrics_log import MetricsLog

FAULT, STAGE, TIMES = "one rank of two killed -9", "distill@sd-tiny", 3
STEPS, BETWEEN = 300, (20, 80)  # of the training; steps from one kill to the next
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


def reached(clone: Path) -> int:
    """The last step of the training that is under way."""
    logs = [
        MetricsLog(path)
        for path in clone.glob("work/distill/*/metrics.jsonl")
        if not path.with_name(DONE_FILE).exists()
    ]
    return max((row["step"] for log in logs for row in log.rows("train")), default=0)


def waited(found, seconds: float = SECONDS):
    end = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)
    return value


@pytest.mark.faults
def test_a_killed_rank_ends_the_stage_and_changes_no_bit():
    if noted(FAULT, STAGE):
        return
    origin, _ = quiet()
    clones = {name: renewed(origin, f"ranks-{name}") for name in ("quiet", "killed")}
    for clone in clones.values():
        changed(clone, runtime={"processes": 2}, distill={"steps": STEPS, "batch_size": 4})
    run(clones["quiet"], DVC, "repro", STAGE)
    moments, steps = random.Random(1), [0]
    for number in range(TIMES):
        process = started(clones["killed"], STAGE)
        second = waited(lambda process=process: rank(process, 1))
        family = psutil.Process(process.pid).children(recursive=True)
        steps.append(steps[-1] + moments.randint(*BETWEEN))
        waited(lambda step=steps[-1]: reached(clones["killed"]) >= step)
        second.kill()
        assert process.wait(SECONDS) != 0, number
        waited(lambda family=family: not psutil.wait_procs(family, timeout=1)[1])
    run(clones["killed"], DVC, "repro", STAGE)
    found = lost(clones["killed"], clones["quiet"], STAGE)
    note(FAULT, STAGE, TIMES, 0 if found else TIMES, found, at_steps=steps[1:])
    assert not found, FOLDER
