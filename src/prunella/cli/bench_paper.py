"""`prunella bench paper`: what very many pairs would take, counted, with what is assumed as arguments."""

from __future__ import annotations

import argparse

from prunella.cli.arguments import Commands, add_command


def register(subcommands: Commands) -> None:
    """Add this command to those of `prunella bench`."""
    description = (
        "what encoding and distilling very many pairs would take: bytes, operations, hours, prices; measures nothing"
    )
    parser = add_command(subcommands, "paper", description, _run_bench_paper)
    parser.add_argument(
        "--tflops", type=float, default=989, help="of a GPU at its peak (default: H100 SXM, dense bf16)"
    )
    parser.add_argument("--share", type=float, default=0.4, help="of the peak that is reached; assumed")
    parser.add_argument("--gpus", type=int, default=8, help="in a node")
    parser.add_argument("--picture", type=float, default=100, help="KB of a file for 512 x 512 pixels; assumed")
    parser.add_argument("--price", type=float, default=2.35, help="of a GPU for an hour (docs/scale.md has the source)")
    parser.add_argument("--storage", type=float, default=0.023, help="price of a GB for a month (docs/scale.md)")


def _run_bench_paper(args: argparse.Namespace) -> None:
    from prunella.pipeline.stage import silence_libraries

    silence_libraries()
    from prunella.bench.paper import CostAssumptions, build_cost_estimate_table, make_recipe_workload
    from prunella.reporting.summary import format_table

    assumptions = CostAssumptions(**{name: getattr(args, name) for name in CostAssumptions._fields})
    recipe_workloads = [
        make_recipe_workload("sd-small", 8_000_000),
        make_recipe_workload("sd-small", 100_000_000, epochs=1),
        make_recipe_workload("ssd-1b"),
    ]
    print(format_table(build_cost_estimate_table(recipe_workloads, assumptions)))
