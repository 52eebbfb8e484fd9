"""2,000 steps with checkpoints, measurements and pictures: memory and open files stay as they are."""

import statistics
import time

import psutil
import pytest
from faulty import changed, note, noted, quiet, renewed, started

FAULT, STAGE, STEPS = "2,000 steps: memory and open files", "distill@sd-tiny", 2000
MORE = 1.05  # times the memory of the first third that the last third may have


def trainer(process) -> psutil.Process | None:
    for each in psutil.Process(process.pid).children(recursive=True):
        if "stages/distill.py" in " ".join(each.cmdline()) and "python" in each.name():
            return each
    return None


@pytest.mark.faults
def test_memory_and_open_files_stay_flat():
    if noted(FAULT, STAGE):
        return
    clone = renewed(quiet()[0], "long")
    watch = {"checkpoint_every": 100, "image_every": 500}
    changed(clone, distill={"steps": STEPS, "evaluate_every": 100}, watch=watch)
    process, seen = started(clone, STAGE), []
    while process.poll() is None:
        try:
            if it := trainer(process):
                seen.append((it.memory_info().rss / 1e6, it.num_fds()))
        except psutil.Error:
            pass
        time.sleep(1)
    assert process.returncode == 0
    running = seen[len(seen) // 4 :]  # until then it starts
    thirds = [running[: len(running) // 3], running[-len(running) // 3 :]]
    memory = [statistics.median(each[0] for each in third) for third in thirds]
    files = [statistics.median(each[1] for each in third) for third in thirds]
    flat = memory[1] <= memory[0] * MORE and files[1] <= files[0] + 1
    megabytes = [round(each) for each in memory]
    note(FAULT, STAGE, 1, int(flat), [], samples=len(running), memory_mb=megabytes, open_files=files)
    assert flat, (memory, files)
