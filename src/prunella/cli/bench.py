"""`prunella bench train`, `tune`, `draw`, `data`: how fast this machine does each; `thing`: what tuning gives."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunella.cli import bench_paper, bench_phases, bench_plans, bench_race
from prunella.cli.arguments import (
    ORIGINAL_TEACHERS,
    STUDENT_HELP,
    TEACHER_HELP,
    Commands,
    add_command,
    load_student_plan,
)

if TYPE_CHECKING:
    from prunella.bench.draw import GenerationCase
    from prunella.bench.workload import Workload

HEALING_ROWS = Path("docs/evidence/healing.jsonl")
CPU_RESOLUTION = 128  # pixels, where a CPU times a UNet step
SWITCH_VALUES = {"auto": "auto", "yes": True, "no": False}  # of the line → of `runtime`


def register(commands: Commands) -> None:
    """Add the commands of this group."""
    description = "benchmark a training step (train), generation (draw), fine-tuning (tune) or the data pipeline (data)"
    subcommands = commands.add_parser("bench", help=description, description=description).add_subparsers(
        required=True, metavar="WHAT"
    )
    _add_train_arguments(
        add_command(
            subcommands, "train", "a training step with random weights, with the time of each part", _run_bench_train
        )
    )
    _add_draw_arguments(
        add_command(subcommands, "draw", "generation with random weights, in turns with the teacher", _run_bench_draw)
    )
    _add_tune_arguments(
        add_command(subcommands, "tune", "a step of each way of fine-tuning, with random weights", _run_bench_tune)
    )
    _add_thing_arguments(
        add_command(subcommands, "thing", "tune to a thing the scenes never showed, and judge", _run_bench_thing)
    )
    _add_data_arguments(
        add_command(subcommands, "data", "filter, encode and reading back, of the data in params.yaml", _run_bench_data)
    )
    _add_heal_arguments(
        add_command(
            subcommands, "heal", "a long training of what `dvc repro` has encoded, at milestones", _run_bench_heal
        )
    )
    healed_parser = add_command(subcommands, "healed", "the table of what `bench heal` has measured", _run_bench_healed)
    healed_parser.add_argument("--rows", type=Path, default=HEALING_ROWS)
    bench_plans.register(subcommands)
    bench_race.register(subcommands)
    bench_phases.register(subcommands)
    bench_paper.register(subcommands)


def _add_step_arguments(parser: argparse.ArgumentParser, batch_size: int) -> None:
    on_gpu = "on a GPU"
    parser.add_argument("--teacher-config", help=f"{TEACHER_HELP} (default: the original of the plan's family)")
    parser.add_argument("--resolution", type=int, help="pixels (default: the teacher's own)")
    parser.add_argument("--batch-size", type=int, default=batch_size)
    parser.add_argument("--accumulation", type=int, default=1, help="batches a step")
    parser.add_argument(
        "--precision", choices=["fp32", "tf32", "bf16", "fp16"], help=f"default: bf16 {on_gpu}, else fp32"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--compile", choices=list(SWITCH_VALUES), default="auto", help=f"auto: {on_gpu}")
    parser.add_argument("--channels-last", choices=list(SWITCH_VALUES), default="auto", help=f"auto: {on_gpu}")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--ema-decay", type=float, default=0.0, help="of an average of the weights; 0: none")
    parser.add_argument("--optimizer", choices=["adamw", "adamw-8bit"], default="adamw")
    parser.add_argument("--steps", type=int, default=5, help="steps timed at a time")
    parser.add_argument("--json", type=Path, help="file to write the figures to")


def _add_train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--student", required=True, help=STUDENT_HELP)
    _add_step_arguments(parser, batch_size=4)
    parser.add_argument("--rounds", type=int, default=2, help="times that each way has its turn")
    parser.add_argument("--published", action="store_true", help="in turns with the published procedure, as a ratio")


def _add_tune_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--students", nargs="+", default=["sd-small", "sd-tiny"], help=STUDENT_HELP)
    _add_step_arguments(parser, batch_size=1)  # of 0 steps memory alone is reckoned


def _add_thing_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--student", type=Path, required=True, help="the pipeline folder to tune")
    parser.add_argument("--thing", type=Path, default=Path("data/arrow"), help="its pictures, and scenes.yaml with it")
    parser.add_argument("--scenes", type=Path, default=Path("data/scenes.yaml"), help="the vocabulary without it")
    parser.add_argument("--set", default="{}", metavar="YAML", help="of section finetune; {}: the student as it is")
    parser.add_argument(
        "--main", type=Path, default=Path("data/latents"), help="latents to rehearse (finetune.replay_weight)"
    )
    parser.add_argument("--flip", action="store_true", help="learn the thing mirrored too")
    parser.add_argument("--adapter", type=Path, help="a LoRA's file that the student draws with")
    parser.add_argument("--work", type=Path, help="an empty folder in which the tuned pipeline is kept")
    parser.add_argument("--pictures", type=int, nargs=2, default=[100, 400], help="of the thing, and of old scenes")
    parser.add_argument("--inference-steps", type=int, default=25)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jsonl", type=Path, required=True, help="file of rows, to which this one is added")


def _add_draw_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--students", nargs="+", default=["all"], metavar="STUDENT", help=f"all, or each {STUDENT_HELP}"
    )
    parser.add_argument("--teacher", help=f"{TEACHER_HELP} (default: the original of each plan's family)")
    mode_group = parser.add_mutually_exclusive_group()
    mode_group.add_argument("--pictures", action="store_true", help="whole pictures (default on a GPU)")
    mode_group.add_argument("--steps-alone", action="store_true", help="one UNet step alone (default on a CPU)")
    parser.add_argument("--sampler-steps", type=int, default=25, help="of a whole picture")
    parser.add_argument("--tiny-vae", action="store_true", help="of a whole picture, as Segmind-Vega's chart has it")
    parser.add_argument("--resolution", type=int, help="pixels (default: the teacher's own on a GPU, 128 on a CPU)")
    precisions = ["fp32", "tf32", "bf16", "fp16"]
    parser.add_argument("--precision", nargs="+", choices=precisions, help="default: fp16 on a GPU, else fp32")
    parser.add_argument("--compile", nargs="+", choices=["no", "yes"], default=["no"])
    parser.add_argument("--channels-last", nargs="+", choices=["no", "yes"], default=["no"])
    parser.add_argument("--batch-size", nargs="+", type=int, default=[1])
    parser.add_argument("--rounds", type=int, default=7, help="times that teacher and student have their turn")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="file to append the figures to, a line of JSON a row")


def _add_data_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--rows", type=int, help="in place of the data: the criteria of a made-up table of so many rows"
    )
    parser.add_argument("--json", type=Path, help="file to write the figures to")


def _add_heal_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--student", required=True, help=STUDENT_HELP)
    parser.add_argument("--seed", type=int, default=0, help="of the training")
    parser.add_argument("--steps", type=int, nargs="+", default=[100, 300, 1000], help="milestones")
    parser.add_argument(
        "--sample-steps", type=int, nargs="+", default=[0, 100, 1000, 3000], help="milestones with images"
    )
    parser.add_argument("--prompts", type=int, default=400, help="pictures of a measurement")
    parser.add_argument("--learning-rate", type=float, help="constant (default: distill.learning_rate)")
    parser.add_argument("--ema-decay", type=float, default=0.99)
    parser.add_argument("--out", type=Path, default=HEALING_ROWS)


def _run_bench_train(args: argparse.Namespace) -> None:
    from prunella.bench import train_step
    from prunella.bench.baselines import Ours, Published
    from prunella.reporting.summary import format_table

    workload = _make_workload(args)
    timings = train_step.time_procedures(
        workload, args.steps, args.rounds, (Ours, Published) if args.published else (Ours,)
    )
    step_report = train_step.make_step_report(workload, timings)
    print(format_table(train_step.build_step_table(step_report)))
    print(train_step.format_step_summary(workload, step_report))
    _write_metrics_json(step_report, args.json)


def _run_bench_draw(args: argparse.Namespace) -> None:
    from prunella.bench import draw
    from prunella.bench.evidence import add_row, format_command_line
    from prunella.pipeline.stage import silence_libraries
    from prunella.profiling.cost import describe_hardware
    from prunella.reporting.summary import format_table

    silence_libraries()
    case = _make_generation_case(args)
    row_metadata = {"command": format_command_line(args.out), "hardware": describe_hardware(case.device)}
    rows = []
    for row in draw.measure_generation(case):
        rows.append(row)
        print(f"{row['model']}, {row['variant']}: done", file=sys.stderr, flush=True)
        if args.out:
            add_row(args.out, row | row_metadata)
    print(format_table(draw.build_generation_table(rows)))
    description = f"{case.steps} steps and the VAE" if case.steps else "one UNet step, twice the batch for guidance"
    print(
        f"{description}; random weights; in turns with the teacher, {case.rounds} rounds; the safety checker is "
        f"left out"
    )


def _make_generation_case(args: argparse.Namespace) -> GenerationCase:
    from prunella.bench.draw import GenerationCase, make_latency_variants
    from prunella.compute.device import resolve_device
    from prunella.params import Runtime, fill_section, validate_config
    from prunella.profiling.energy import EnergyMeter, make_energy_meter
    from prunella.pruning.plan import STUDENTS

    runtime = validate_config(Runtime, fill_section("runtime", {"device": args.device}), "bench")
    device_name = resolve_device(runtime)
    is_gpu = device_name.startswith("cuda")
    names = list(STUDENTS) if args.students == ["all"] else args.students
    plans = {name: load_student_plan(name) for name in names}
    precisions = args.precision or ["fp16" if is_gpu else "fp32"]
    switches = ([choice == "yes" for choice in args.compile], [choice == "yes" for choice in args.channels_last])
    meter = make_energy_meter(device_name)
    return GenerationCase(
        {plan.name: (plan, args.teacher or ORIGINAL_TEACHERS[plan.family]) for plan in plans.values()},
        make_latency_variants(precisions, *switches, args.batch_size),
        device_name,
        args.rounds,
        args.resolution or (None if is_gpu else CPU_RESOLUTION),
        args.sampler_steps if args.pictures or (is_gpu and not args.steps_alone) else None,
        args.tiny_vae,
        meter if isinstance(meter, EnergyMeter) else None,
    )


def _run_bench_tune(args: argparse.Namespace) -> None:
    from prunella.bench import tuning_step
    from prunella.reporting.summary import format_table

    workloads = {
        student: _make_workload(argparse.Namespace(**vars(args), student=student)) for student in args.students
    }
    first_workload = next(iter(workloads.values()))
    models = [("teacher", first_workload), *workloads.items()]
    results = [
        tuning_step.time_finetune_step(workload, model, method, args.steps)
        for method in tuning_step.FINETUNE_METHODS
        for model, workload in models
    ]
    print(format_table(tuning_step.build_finetune_table(results)))
    _write_metrics_json({"steps": [result._asdict() for result in results]}, args.json)


def _run_bench_thing(args: argparse.Namespace) -> None:
    import tempfile

    import yaml

    from prunella.pipeline.stage import silence_libraries

    silence_libraries()  # before what it quiets is imported
    from prunella.bench import new_thing
    from prunella.bench.evidence import add_row, format_command_line, read_rows
    from prunella.reporting.summary import format_table

    overrides = yaml.safe_load(args.set)
    with tempfile.TemporaryDirectory() as work_dir:
        names = ("student", "thing", "scenes", "device", "adapter", "main", "flip")
        case = new_thing.SubjectCase(work=args.work or Path(work_dir), **{name: getattr(args, name) for name in names})
        row = new_thing.measure_subject_finetuning(
            case, overrides, tuple(args.pictures), args.inference_steps, args.guidance
        )
    add_row(args.jsonl, row | {"command": format_command_line()})
    print(format_table(new_thing.build_subject_table(read_rows(args.jsonl))))


def _make_workload(args: argparse.Namespace) -> Workload:
    from prunella.bench.workload import Workload, make_distill_settings
    from prunella.compute.device import make_placement, resolve_device
    from prunella.models.reference_configs import load_teacher_config
    from prunella.params import Runtime, fill_section, validate_config

    plan = load_student_plan(args.student)
    runtime_overrides = {"device": args.device, "processes": 1, "threads": 0}
    runtime_overrides |= {"compile": SWITCH_VALUES[args.compile], "channels_last": SWITCH_VALUES[args.channels_last]}
    runtime = validate_config(Runtime, fill_section("runtime", runtime_overrides), "bench")
    placement = make_placement(runtime, resolve_device(runtime))
    teacher_name = args.teacher_config or ORIGINAL_TEACHERS[plan.family]
    distill_settings = make_distill_settings(
        batch_size=args.batch_size,
        gradient_accumulation_steps=args.accumulation,
        ema_decay=args.ema_decay,
        precision=args.precision or ("bf16" if placement.device.startswith("cuda") else "fp32"),
        gradient_checkpointing=args.gradient_checkpointing,
        optimizer=args.optimizer,
    )
    encoders_dir = Path(teacher_name) if Path(teacher_name).is_dir() else None
    return Workload(plan, load_teacher_config(teacher_name), distill_settings, placement, args.resolution, encoders_dir)


def _run_bench_data(args: argparse.Namespace) -> None:
    import tempfile

    from prunella.compute.device import resolve_device
    from prunella.params import read_params
    from prunella.pipeline.stage import silence_libraries

    silence_libraries()  # before what it quiets is imported
    from prunella.bench import data

    if args.rows:
        with tempfile.TemporaryDirectory() as folder:
            table_path = Path(folder) / "table.parquet"
            data.write_synthetic_table(table_path, args.rows)
            metrics = data.measure_row_filter(table_path)
        print(", ".join(f"{name} {value:,.2f}" for name, value in metrics.items()))
    else:
        params = read_params(args.params)
        runtime = params.runtime.model_copy(update={"device": args.device})
        metrics = data.measure_data_pipeline(params, resolve_device(runtime))
        print("\n".join(data.format_pipeline_metrics(metrics)))
    _write_metrics_json(metrics, args.json)


def _run_bench_heal(args: argparse.Namespace) -> None:
    from prunella.bench.healing import heal, make_healing_settings
    from prunella.bench.setting import load_local_setting
    from prunella.params import read_params
    from prunella.pipeline.stage import silence_libraries

    silence_libraries()
    setting = load_local_setting(read_params())
    learning_rate = args.learning_rate or setting.distill.learning_rate
    setting = setting._replace(
        distill=make_healing_settings(setting.distill, learning_rate, args.ema_decay),
        benchmark=setting.benchmark.model_copy(update={"prompts": args.prompts}),
    )
    for row in heal(setting, args.student, args.seed, args.steps, args.sample_steps, args.out, Path("work/healing")):
        print(json.dumps({name: value for name, value in row.items() if name != "verdicts"}), flush=True)


def _run_bench_healed(args: argparse.Namespace) -> None:
    from prunella.bench.evidence import read_rows
    from prunella.bench.healed import build_healing_table
    from prunella.errors import UserError
    from prunella.reporting.summary import format_table

    if not (rows := read_rows(args.rows)):
        raise UserError(f"{args.rows}: no rows; `prunella bench heal --student sd-tiny` measures")
    print(format_table(build_healing_table(rows)))


def _write_metrics_json(metrics: dict[str, Any], path: Path | None) -> None:
    if path:
        path.write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
