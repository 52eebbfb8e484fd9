"""Killed with -9 at random moments of every stage and started again by `dvc repro`, the graph ends at the same bits."""

import json
import random
import subprocess

import pytest
from faulty import FOLDER, STAGES, copied, fresh, kill, lost, note, noted, quiet, started
from toygraph import DVC, run

FAULT = "kill -9, then dvc repro"
LONG = (f"{name}@sd-tiny" for name in ("distill", "finetune"))
KILLS = {stage: 3 for stage in STAGES} | {stage: 6 for stage in LONG} | {"encode": 4}
MOMENTS = random.Random(0)
LIVES = {stage: [MOMENTS.uniform(0.05, 0.95) for _ in range(count)] for stage, count in KILLS.items()}


def test_there_are_fifty_kills_and_every_stage_has_some():
    assert sum(KILLS.values()) >= 50 and KILLS.keys() == set(STAGES)


@pytest.mark.faults
@pytest.mark.parametrize("stage", STAGES)
def test_kills_change_no_bit(stage):
    log = FOLDER / "kills.json"
    _, took = quiet()
    clone = copied(fresh(), "killed")
    done = json.loads(log.read_text()) if log.is_file() else {}
    for share in LIVES[stage][len(done.get(stage, [])) :]:
        life, options = share * took[stage]["seconds"], []
        while True:
            process = started(clone, stage, *options)
            try:
                process.wait(life)
            except subprocess.TimeoutExpired:
                break
            assert process.returncode == 0, (FOLDER / "killed.printed").read_text()
            life, options = life / 2, ["--force", "--single-item"]  # it was faster this time: once more
        done.setdefault(stage, []).append({"seconds": round(life, 2), "stage": kill(process)})
        log.write_text(json.dumps(done))
    run(clone, DVC, "repro", stage)


@pytest.mark.faults
@pytest.mark.parametrize("stage", STAGES)
def test_what_a_killed_stage_gave_is_what_a_quiet_one_gives(stage):
    kills = json.loads((FOLDER / "kills.json").read_text())[stage]
    found = lost(FOLDER / "killed", FOLDER / "quiet", stage)
    if not noted(FAULT, stage):
        inside = sum(each["stage"] for each in kills)
        after = [each["seconds"] for each in kills]
        note(FAULT, stage, len(kills), 0 if found else len(kills), found, in_the_stage=inside, after_seconds=after)
    assert not found
    halves = [path for place in ("models", "data", "work") for path in (FOLDER / "killed" / place).rglob("*.half")]
    assert not halves
