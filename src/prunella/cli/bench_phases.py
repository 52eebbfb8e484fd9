"""`prunella bench phases`: phases against one training of as many operations."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from prunella.cli.arguments import STUDENT, Commands, add_command

WAYS = ["at once", "progressive", "progressive, early", "second teacher alone", "two teachers"]


def register(kinds: Commands) -> None:
    """Add this command to those of `prunella bench`."""
    about = "a student cut little by little, and two teachers, against one training, on what `dvc repro` has encoded"
    phases = add_command(kinds, "phases", about, _phases)
    phases.add_argument("--student", default="sd-tiny", help=STUDENT)
    phases.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS)
    phases.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    phases.add_argument("--steps", type=int, default=300, help="of the training at once; the others' cost as much")
    phases.add_argument("--tuned", type=int, default=200, help="steps that make the second teacher of the first")
    phases.add_argument("--out", type=Path, default=Path("docs/evidence/phases.jsonl"), help="file that rows go to")


def _phases(given: argparse.Namespace) -> None:
    from prunella.pipeline.stage import silence_libraries

    silence_libraries()
    from prunella.bench.evidence import command_line, read_rows
    from prunella.bench.phased import Contest, contest, table
    from prunella.bench.setting import encoded_here
    from prunella.params import read_params
    from prunella.profiling.cost import describe_hardware
    from prunella.reporting.summary import format_table

    params, work = read_params(), Path("work/phased")
    setting = encoded_here(params)
    tuning = params.finetune.model_copy(update={"caption_keywords": [], "steps": given.tuned, "method": "full"})
    os.environ["DVC_ROOT"] = str(work.resolve())  # where states are kept
    said = {"command": command_line(given.out), "hardware": describe_hardware(setting.device)}
    what = Contest(setting, tuning, given.student, given.steps, given.out, work, said)
    for row in contest(what, given.ways, given.seeds):
        print(json.dumps({name: value for name, value in row.items() if name not in said}), flush=True)
    print(format_table(table(read_rows(given.out))))
