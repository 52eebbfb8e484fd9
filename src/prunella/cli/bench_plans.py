"""`prunella bench every-plan`, `bench train-plans`: what the choice of a plan is worth, on the bundled teacher."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from prunella.cli.arguments import STUDENT_HELP, Commands, add_command, load_student_plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prunella.planning.cost_model import CostTable
    from prunella.planning.units import Unit
    from prunella.pruning.plan import Plan

PUBLISHED_STUDENTS = ("sd-small", "bk-sdm-small", "sd-tiny")
NUM_HELDOUT_SAMPLES = 32  # pairs that a plan is measured on


def register(subcommands: Commands) -> None:
    """Add these commands to those of `prunella bench`."""
    description = "measure every plan of the teacher before training, or a sample of those whose attention may go"
    every_parser = add_command(subcommands, "every-plan", description, _run_bench_every_plan)
    _add_shared_arguments(every_parser, Path("docs/evidence/plans-every.csv"))
    every_parser.add_argument("--pairs", type=int, default=NUM_HELDOUT_SAMPLES, help="held-out pairs")
    every_parser.add_argument(
        "--attention", type=int, default=0, help="so many plans more, with a stage without attention"
    )
    every_parser.add_argument("--most", default="sd-small", help="of those, a student whose parameters none exceeds")
    train_parser = add_command(
        subcommands, "train-plans", "train students by their plans, alike, and measure them", _run_bench_train_plans
    )
    _add_shared_arguments(train_parser, Path("docs/evidence/plans-trained.jsonl"))
    train_parser.add_argument("students", nargs="+", help=STUDENT_HELP)
    train_parser.add_argument("--steps", type=int, required=True)
    train_parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    train_parser.add_argument("--prompts", type=int, default=0, help="pictures drawn and judged of each student")


def _add_shared_arguments(parser: argparse.ArgumentParser, out: Path) -> None:
    parser.add_argument("--latents", type=Path, default=Path("data/latents"), help="what the encode stage has made")
    parser.add_argument("--out", type=Path, default=out, help="file that rows are added to")


def _run_bench_every_plan(args: argparse.Namespace) -> None:
    from prunella.pipeline.stage import silence_libraries

    silence_libraries()
    import numpy as np

    from prunella.bench.every_plan import iter_unit_choices, measure_choices, read_measured_plans, sample_choices
    from prunella.bench.plan_figures import correlate_normalized_errors
    from prunella.compute.resume import work_root
    from prunella.latents.encoders import open_latents
    from prunella.models.pipeline import load_scheduler, load_unet
    from prunella.params import read_params
    from prunella.planning.cost_model import count_costs
    from prunella.planning.importance import OutputError
    from prunella.planning.solver import removable_levels
    from prunella.planning.units import list_units, plan_without
    from prunella.storage.files import json_digest
    from prunella.training.data import iter_heldout_batches

    params = read_params()
    teacher_dir = Path(params.teacher.path)
    teacher_unet, scheduler = load_unet(teacher_dir), load_scheduler(teacher_dir)
    heldout_latents = open_latents(args.latents, teacher_dir, "cpu")[1]
    num_train_timesteps = scheduler.config.num_train_timesteps
    batches = iter_heldout_batches(
        heldout_latents, params.encode.batch_size, num_train_timesteps, np.arange(args.pairs)
    )
    work_dir = work_root() / "bench" / json_digest([str(args.latents), args.pairs])
    output_error = OutputError(teacher_unet, "sd", scheduler, batches, work_dir)
    config = dict(teacher_unet.config)
    available_units = list_units("sd", config, may_drop_attention=False)
    cost_tables = count_costs(
        "sd", config, removable_levels(available_units), (config["sample_size"], config["sample_size"])
    )
    choices = list(iter_unit_choices(available_units, 4))
    if args.attention:
        max_params, count_params = (
            cost_tables["params"].cost_of_plan(load_student_plan(args.most)),
            cost_tables["params"].cost_of_plan,
        )
        wide_choices = iter_unit_choices(list_units("sd", config, may_drop_attention=True), 4)
        attention_choices = [
            choice for choice in wide_choices if any(getattr(unit, "without_attention", ()) for unit in choice)
        ]
        choices += sample_choices(
            [choice for choice in attention_choices if count_params(plan_without("sd", choice)) <= max_params],
            args.attention,
            0,
        )
    measure_choices(choices, output_error, cost_tables, args.out)
    error_by_unit = dict(
        zip(available_units, output_error.measure_many([[unit] for unit in available_units]), strict=True)
    )
    normalized_correlation = correlate_normalized_errors(
        read_measured_plans(args.out), error_by_unit, list(iter_unit_choices(available_units, 4))
    )
    print(f"with each bin of timesteps counting alike: Spearman {normalized_correlation:.4f}")
    _print_plan_results(args.out, available_units, cost_tables)


def _print_plan_results(path: Path, available_units: Sequence[Unit], cost_tables: dict[str, CostTable]) -> None:
    """Print what the file says, and draw it beside."""
    from prunella.bench.every_plan import encode_plan, read_measured_plans
    from prunella.bench.plan_figures import (
        build_greedy_table,
        build_selection_table,
        compute_rank_correlation,
        plot_plans_svg,
    )
    from prunella.pruning.plan import STUDENTS
    from prunella.reporting.summary import format_table

    rows = read_measured_plans(path)
    published_plans = {name: plan for name, plan in STUDENTS.items() if name in PUBLISHED_STUDENTS}
    depth_rows = [row for row in rows if not any(stage_code[-1] in "du" for stage_code in row["plan"].split()[:-1])]
    for label, row_subset in (("of depth alone", depth_rows), ("in all", rows)):
        print(f"{len(row_subset):,} plans {label}: Spearman {compute_rank_correlation(row_subset):.3f}")
    for cost_name in ("params", "macs"):
        print(format_table(build_selection_table(rows, published_plans, cost_name)))
        print(format_table(build_greedy_table(rows, published_plans, available_units, cost_tables[cost_name])))
    label_by_plan = {encode_plan(plan): name for name, plan in published_plans.items()}
    path.with_suffix(".svg").write_text(plot_plans_svg(rows, label_by_plan), encoding="utf-8")


def _run_bench_train_plans(args: argparse.Namespace) -> None:
    from prunella.pipeline.stage import silence_libraries

    silence_libraries()
    from prunella.bench.setting import ExperimentSetting
    from prunella.bench.trained_plans import correlate_errors, train_plans
    from prunella.compute.device import resolve_device
    from prunella.params import read_params
    from prunella.scenes.generator import read_vocabulary

    params = read_params()
    warmup_steps = min(params.distill.lr_warmup_steps, args.steps // 10)
    setting = ExperimentSetting(
        params.distill.model_copy(update={"steps": args.steps, "lr_warmup_steps": warmup_steps}),
        params.benchmark.model_copy(update={"prompts": args.prompts}),
        Path(params.teacher.path),
        args.latents,
        read_vocabulary(params.filter.path),
        resolve_device(params.runtime),
    )
    plans: dict[str, Plan] = {Path(name).stem: load_student_plan(name) for name in args.students}
    rows = train_plans(setting, plans, args.seeds, args.out)
    if len(plans) >= 5:
        print(
            "errors before and after training: {plans} plans, rank {rank:.2f} ({low:.2f} to {high:.2f})".format_map(
                correlate_errors(rows)
            )
        )
