"""`prunella bench phases`: phases against one training of as many operations."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from prunella.cli.arguments import STUDENT_HELP, Commands, add_command

PHASE_METHODS = ["at once", "progressive", "progressive, early", "second teacher alone", "two teachers"]


def register(subcommands: Commands) -> None:
    """Add this command to those of `prunella bench`."""
    description = (
        "a student cut little by little, and two teachers, against one training, on what `dvc repro` has encoded"
    )
    parser = add_command(subcommands, "phases", description, _run_bench_phases)
    parser.add_argument("--student", default="sd-tiny", help=STUDENT_HELP)
    parser.add_argument("--ways", nargs="+", default=PHASE_METHODS, choices=PHASE_METHODS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=300, help="of the training at once; the others' cost as much")
    parser.add_argument("--tuned", type=int, default=200, help="steps that make the second teacher of the first")
    parser.add_argument("--out", type=Path, default=Path("docs/evidence/phases.jsonl"), help="file that rows go to")


def _run_bench_phases(args: argparse.Namespace) -> None:
    from prunella.pipeline.stage import silence_libraries

    silence_libraries()
    from prunella.bench.evidence import format_command_line, read_rows
    from prunella.bench.phased import PhasesBenchmark, build_phases_table, run_phases_benchmark
    from prunella.bench.setting import load_local_setting
    from prunella.params import read_params
    from prunella.profiling.cost import describe_hardware
    from prunella.reporting.summary import format_table

    params, work_dir = read_params(), Path("work/phased")
    setting = load_local_setting(params)
    finetune_params = params.finetune.model_copy(update={"caption_keywords": [], "steps": args.tuned, "method": "full"})
    os.environ["DVC_ROOT"] = str(work_dir.resolve())  # where states are kept
    row_metadata = {"command": format_command_line(args.out), "hardware": describe_hardware(setting.device)}
    benchmark = PhasesBenchmark(setting, finetune_params, args.student, args.steps, args.out, work_dir, row_metadata)
    for row in run_phases_benchmark(benchmark, args.ways, args.seeds):
        print(json.dumps({name: value for name, value in row.items() if name not in row_metadata}), flush=True)
    print(format_table(build_phases_table(read_rows(args.out))))
