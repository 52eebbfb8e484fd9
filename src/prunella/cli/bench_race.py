"""`prunella bench race`: how long ours takes to where the published procedure ends."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from prunella.cli.arguments import STUDENT_HELP, Commands, add_command


def register(subcommands: Commands) -> None:
    """Add this command to those of `prunella bench`."""
    description = "to the same held-out output error as the published procedure, on what `dvc repro` has encoded"
    parser = add_command(subcommands, "race", description, _run_bench_race)
    parser.add_argument("--students", nargs="+", default=["sd-small", "sd-tiny"], help=STUDENT_HELP)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=50, help="of the published procedure")
    parser.add_argument("--batch-size", type=int, default=32, help="of the published procedure")
    default_rates = [5e-4, 1e-3, 2e-3]
    parser.add_argument(
        "--rates", type=float, nargs="+", default=default_rates, help="to try beside the published one, 5e-5"
    )
    default_lengths = [10, 15, 20, 30, 40, 50, 60, 80, 100, 120, 150, 200, 250, 300, 400, 500, 600]
    parser.add_argument(
        "--lengths", type=int, nargs="+", default=default_lengths, help="of ours in steps, one after the other"
    )
    parser.add_argument("--rounds", type=int, default=3, help="times that each procedure's step has its turn")
    parser.add_argument(
        "--out", type=Path, default=Path("docs/evidence/race.jsonl"), help="file that rows are added to"
    )


def _run_bench_race(args: argparse.Namespace) -> None:
    from prunella.pipeline.stage import silence_libraries

    silence_libraries()
    from prunella.bench.evidence import format_command_line, read_rows
    from prunella.bench.race import RaceContext, RaceSpec, build_race_table, run_race
    from prunella.bench.setting import load_local_setting
    from prunella.params import read_params
    from prunella.profiling.cost import describe_hardware
    from prunella.reporting.summary import format_table

    setting = load_local_setting(read_params())
    spec = RaceSpec(args.steps, args.batch_size, args.rates, sorted(args.lengths), args.rounds)
    row_metadata = {"command": format_command_line(args.out), "hardware": describe_hardware(setting.device)}
    for student in args.students:
        for row in run_race(RaceContext(setting, student, args.out, row_metadata), args.seeds, spec):
            print(json.dumps({name: value for name, value in row.items() if name not in row_metadata}), flush=True)
    print(format_table(build_race_table(read_rows(args.out))))
