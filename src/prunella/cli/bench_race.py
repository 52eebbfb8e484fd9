"""`prunella bench race`: how long ours takes to where the published procedure ends."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from prunella.cli.arguments import STUDENT, Commands, add_command


def register(kinds: Commands) -> None:
    """Add this command to those of `prunella bench`."""
    about = "to the same held-out output error as the published procedure, on what `dvc repro` has encoded"
    race = add_command(kinds, "race", about, _race)
    race.add_argument("--students", nargs="+", default=["sd-small", "sd-tiny"], help=STUDENT)
    race.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    race.add_argument("--steps", type=int, default=50, help="of the published procedure")
    race.add_argument("--batch-size", type=int, default=32, help="of the published procedure")
    rates = [5e-4, 1e-3, 2e-3]
    race.add_argument("--rates", type=float, nargs="+", default=rates, help="to try beside the published one, 5e-5")
    lengths = [10, 15, 20, 30, 40, 50, 60, 80, 100, 120, 150, 200, 250, 300, 400, 500, 600]
    race.add_argument("--lengths", type=int, nargs="+", default=lengths, help="of ours in steps, one after the other")
    race.add_argument("--rounds", type=int, default=3, help="times that each procedure's step has its turn")
    race.add_argument("--out", type=Path, default=Path("docs/evidence/race.jsonl"), help="file that rows are added to")


def _race(given: argparse.Namespace) -> None:
    from prunella.pipeline.stage import silence_libraries

    silence_libraries()
    from prunella.bench.evidence import command_line, read_rows
    from prunella.bench.race import Course, Race, race, table
    from prunella.bench.setting import encoded_here
    from prunella.params import read_params
    from prunella.profiling.cost import describe_hardware
    from prunella.reporting.summary import format_table

    setting = encoded_here(read_params())
    what = Race(given.steps, given.batch_size, given.rates, sorted(given.lengths), given.rounds)
    told = {"command": command_line(given.out), "hardware": describe_hardware(setting.device)}
    for student in given.students:
        for row in race(Course(setting, student, given.out, told), given.seeds, what):
            print(json.dumps({name: value for name, value in row.items() if name not in told}), flush=True)
    print(format_table(table(read_rows(given.out))))
