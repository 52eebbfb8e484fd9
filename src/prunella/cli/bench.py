"""`prunella bench train`, `tune`, `draw`, `data`: how fast this machine does each; `thing`: what tuning gives."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunella.cli import bench_paper, bench_phases, bench_plans, bench_race
from prunella.cli.arguments import ORIGINAL, STUDENT, TEACHER, Commands, add_command, named_plan

if TYPE_CHECKING:
    from prunella.bench.draw import Case
    from prunella.bench.workload import Workload

HEALING = Path("docs/evidence/healing.jsonl")
SMALL = 128  # pixels, where a CPU times a UNet step
SWITCH = {"auto": "auto", "yes": True, "no": False}  # of the line → of `runtime`


def register(commands: Commands) -> None:
    """Add the commands of this group."""
    about = (
        "measure: a training step (train), drawing (draw), what is done to the data (data), how students heal (heal)"
    )
    kinds = commands.add_parser("bench", help=about, description=about).add_subparsers(required=True, metavar="WHAT")
    _train_arguments(add_command(kinds, "train", "a training step with random weights, part by part", _train))
    _draw_arguments(add_command(kinds, "draw", "what drawing costs students, with random weights, in turns", _draw))
    _tune_arguments(add_command(kinds, "tune", "a step of each way of fine-tuning, with random weights", _tune))
    _thing_arguments(add_command(kinds, "thing", "tune to a thing the scenes never showed, and judge", _thing))
    _data_arguments(add_command(kinds, "data", "filter, encode and reading back, of the data in params.yaml", _data))
    _heal_arguments(add_command(kinds, "heal", "a long training of what `dvc repro` has encoded, at milestones", _heal))
    healed = add_command(kinds, "healed", "the table of what `bench heal` has measured", _healed)
    healed.add_argument("--rows", type=Path, default=HEALING)
    bench_plans.register(kinds)
    bench_race.register(kinds)
    bench_phases.register(kinds)
    bench_paper.register(kinds)


def _step_arguments(bench: argparse.ArgumentParser, batch_size: int) -> None:
    gpu = "on a GPU"
    bench.add_argument("--teacher-config", help=f"{TEACHER} (default: the original of the plan's family)")
    bench.add_argument("--resolution", type=int, help="pixels (default: the teacher's own)")
    bench.add_argument("--batch-size", type=int, default=batch_size)
    bench.add_argument("--accumulation", type=int, default=1, help="batches a step")
    bench.add_argument("--precision", choices=["fp32", "tf32", "bf16", "fp16"], help=f"default: bf16 {gpu}, else fp32")
    bench.add_argument("--device", default="auto")
    bench.add_argument("--compile", choices=list(SWITCH), default="auto", help=f"auto: {gpu}")
    bench.add_argument("--channels-last", choices=list(SWITCH), default="auto", help=f"auto: {gpu}")
    bench.add_argument("--gradient-checkpointing", action="store_true")
    bench.add_argument("--ema-decay", type=float, default=0.0, help="of an average of the weights; 0: none")
    bench.add_argument("--optimizer", choices=["adamw", "adamw-8bit"], default="adamw")
    bench.add_argument("--steps", type=int, default=5, help="steps timed at a time")
    bench.add_argument("--json", type=Path, help="file to write the figures to")


def _train_arguments(bench: argparse.ArgumentParser) -> None:
    bench.add_argument("--student", required=True, help=STUDENT)
    _step_arguments(bench, batch_size=4)
    bench.add_argument("--rounds", type=int, default=2, help="times that each way has its turn")
    bench.add_argument("--published", action="store_true", help="in turns with the published procedure, as a ratio")


def _tune_arguments(bench: argparse.ArgumentParser) -> None:
    bench.add_argument("--students", nargs="+", default=["sd-small", "sd-tiny"], help=STUDENT)
    _step_arguments(bench, batch_size=1)  # of 0 steps memory alone is reckoned


def _thing_arguments(bench: argparse.ArgumentParser) -> None:
    bench.add_argument("--student", type=Path, required=True, help="the pipeline folder to tune")
    bench.add_argument("--thing", type=Path, default=Path("data/arrow"), help="its pictures, and scenes.yaml with it")
    bench.add_argument("--scenes", type=Path, default=Path("data/scenes.yaml"), help="the vocabulary without it")
    bench.add_argument("--set", default="{}", metavar="YAML", help="of section finetune; {}: the student as it is")
    bench.add_argument(
        "--main", type=Path, default=Path("data/latents"), help="latents to rehearse (finetune.replay_weight)"
    )
    bench.add_argument("--flip", action="store_true", help="learn the thing mirrored too")
    bench.add_argument("--adapter", type=Path, help="a LoRA's file that the student draws with")
    bench.add_argument("--work", type=Path, help="an empty folder in which the tuned pipeline is kept")
    bench.add_argument("--pictures", type=int, nargs=2, default=[100, 400], help="of the thing, and of old scenes")
    bench.add_argument("--inference-steps", type=int, default=25)
    bench.add_argument("--guidance", type=float, default=4.0)
    bench.add_argument("--device", default="cpu")
    bench.add_argument("--jsonl", type=Path, required=True, help="file of rows, to which this one is added")


def _draw_arguments(bench: argparse.ArgumentParser) -> None:
    bench.add_argument("--students", nargs="+", default=["all"], metavar="STUDENT", help=f"all, or each {STUDENT}")
    bench.add_argument("--teacher", help=f"{TEACHER} (default: the original of each plan's family)")
    whole = bench.add_mutually_exclusive_group()
    whole.add_argument("--pictures", action="store_true", help="whole pictures (default on a GPU)")
    whole.add_argument("--steps-alone", action="store_true", help="one UNet step alone (default on a CPU)")
    bench.add_argument("--sampler-steps", type=int, default=25, help="of a whole picture")
    bench.add_argument("--tiny-vae", action="store_true", help="of a whole picture, as Segmind-Vega's chart has it")
    bench.add_argument("--resolution", type=int, help="pixels (default: the teacher's own on a GPU, 128 on a CPU)")
    precisions = ["fp32", "tf32", "bf16", "fp16"]
    bench.add_argument("--precision", nargs="+", choices=precisions, help="default: fp16 on a GPU, else fp32")
    bench.add_argument("--compile", nargs="+", choices=["no", "yes"], default=["no"])
    bench.add_argument("--channels-last", nargs="+", choices=["no", "yes"], default=["no"])
    bench.add_argument("--batch-size", nargs="+", type=int, default=[1])
    bench.add_argument("--rounds", type=int, default=7, help="times that teacher and student have their turn")
    bench.add_argument("--device", default="auto")
    bench.add_argument("--out", type=Path, help="file to append the figures to, a line of JSON a row")


def _data_arguments(bench: argparse.ArgumentParser) -> None:
    bench.add_argument("--params", type=Path, default=Path("params.yaml"))
    bench.add_argument("--device", default="auto")
    bench.add_argument("--rows", type=int, help="in place of the data: the criteria of a made-up table of so many rows")
    bench.add_argument("--json", type=Path, help="file to write the figures to")


def _heal_arguments(bench: argparse.ArgumentParser) -> None:
    bench.add_argument("--student", required=True, help=STUDENT)
    bench.add_argument("--seed", type=int, default=0, help="of the training")
    bench.add_argument("--steps", type=int, nargs="+", default=[100, 300, 1000], help="milestones")
    bench.add_argument("--drawn", type=int, nargs="+", default=[0, 100, 1000, 3000], help="those with pictures")
    bench.add_argument("--prompts", type=int, default=400, help="pictures of a measurement")
    bench.add_argument("--learning-rate", type=float, help="constant (default: distill.learning_rate)")
    bench.add_argument("--ema-decay", type=float, default=0.99)
    bench.add_argument("--out", type=Path, default=HEALING)


def _train(given: argparse.Namespace) -> None:
    from prunella.bench import train_step
    from prunella.bench.baselines import Ours, Published
    from prunella.reporting.summary import format_table

    case = _workload(given)
    timings = train_step.compared(case, given.steps, given.rounds, (Ours, Published) if given.published else (Ours,))
    figures = train_step.report(case, timings)
    print(format_table(train_step.rows(figures)))
    print(train_step.said(case, figures))
    _write(figures, given.json)


def _draw(given: argparse.Namespace) -> None:
    from prunella.bench import draw
    from prunella.bench.evidence import add_row, command_line
    from prunella.pipeline.stage import silence_libraries
    from prunella.profiling.cost import describe_hardware
    from prunella.reporting.summary import format_table

    silence_libraries()
    case = _drawing(given)
    told = {"command": command_line(given.out), "hardware": describe_hardware(case.device)}
    rows = []
    for row in draw.measured(case):
        rows.append(row)
        print(f"{row['model']}, {row['variant']}: done", file=sys.stderr, flush=True)
        if given.out:
            add_row(given.out, row | told)
    print(format_table(draw.table(rows)))
    what = f"{case.steps} steps and the VAE" if case.steps else "one UNet step, twice the batch for guidance"
    print(f"{what}; random weights; in turns with the teacher, {case.rounds} rounds; the safety checker is left out")


def _drawing(given: argparse.Namespace) -> Case:
    from prunella.bench.draw import Case, variants
    from prunella.compute.device import resolve_device
    from prunella.params import Runtime, fill_section, validate_config
    from prunella.profiling.energy import EnergyMeter, make_energy_meter
    from prunella.pruning.plan import STUDENTS

    runtime = validate_config(Runtime, fill_section("runtime", {"device": given.device}), "bench")
    where = resolve_device(runtime)
    gpu = where.startswith("cuda")
    names = list(STUDENTS) if given.students == ["all"] else given.students
    plans = {name: named_plan(name) for name in names}
    precisions = given.precision or ["fp16" if gpu else "fp32"]
    asked = ([each == "yes" for each in given.compile], [each == "yes" for each in given.channels_last])
    energy = make_energy_meter(where)
    return Case(
        {plan.name: (plan, given.teacher or ORIGINAL[plan.family]) for plan in plans.values()},
        variants(precisions, *asked, given.batch_size),
        where,
        given.rounds,
        given.resolution or (None if gpu else SMALL),
        given.sampler_steps if given.pictures or (gpu and not given.steps_alone) else None,
        given.tiny_vae,
        energy if isinstance(energy, EnergyMeter) else None,
    )


def _tune(given: argparse.Namespace) -> None:
    from prunella.bench import tuning_step
    from prunella.reporting.summary import format_table

    cases = {student: _workload(argparse.Namespace(**vars(given), student=student)) for student in given.students}
    first = next(iter(cases.values()))
    models = [("teacher", first), *cases.items()]
    found = [tuning_step.timed(case, model, way, given.steps) for way in tuning_step.WAYS for model, case in models]
    print(format_table(tuning_step.rows(found)))
    _write({"steps": [each._asdict() for each in found]}, given.json)


def _thing(given: argparse.Namespace) -> None:
    import tempfile

    import yaml

    from prunella.pipeline.stage import silence_libraries

    silence_libraries()  # before what it quiets is imported
    from prunella.bench import new_thing
    from prunella.bench.evidence import add_row, command_line, read_rows
    from prunella.reporting.summary import format_table

    changes = yaml.safe_load(given.set)
    with tempfile.TemporaryDirectory() as work:
        names = ("student", "thing", "scenes", "device", "adapter", "main", "flip")
        case = new_thing.Case(work=given.work or Path(work), **{name: getattr(given, name) for name in names})
        row = new_thing.measured(case, changes, tuple(given.pictures), given.inference_steps, given.guidance)
    add_row(given.jsonl, row | {"command": command_line()})
    print(format_table(new_thing.rows(read_rows(given.jsonl))))


def _workload(given: argparse.Namespace) -> Workload:
    from prunella.bench.workload import Workload, settings
    from prunella.compute.device import make_placement, resolve_device
    from prunella.models.reference_configs import load_teacher_config
    from prunella.params import Runtime, fill_section, validate_config

    plan = named_plan(given.student)
    asked = {"device": given.device, "processes": 1, "threads": 0}
    asked |= {"compile": SWITCH[given.compile], "channels_last": SWITCH[given.channels_last]}
    runtime = validate_config(Runtime, fill_section("runtime", asked), "bench")
    where = make_placement(runtime, resolve_device(runtime))
    name = given.teacher_config or ORIGINAL[plan.family]
    learning = settings(
        batch_size=given.batch_size,
        gradient_accumulation_steps=given.accumulation,
        ema_decay=given.ema_decay,
        precision=given.precision or ("bf16" if where.device.startswith("cuda") else "fp32"),
        gradient_checkpointing=given.gradient_checkpointing,
        optimizer=given.optimizer,
    )
    folder = Path(name) if Path(name).is_dir() else None
    return Workload(plan, load_teacher_config(name), learning, where, given.resolution, folder)


def _data(given: argparse.Namespace) -> None:
    import tempfile

    from prunella.compute.device import resolve_device
    from prunella.params import read_params
    from prunella.pipeline.stage import silence_libraries

    silence_libraries()  # before what it quiets is imported
    from prunella.bench import data

    if given.rows:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "table.parquet"
            data.table(path, given.rows)
            figures = data.judged_rows(path)
        print(", ".join(f"{name} {value:,.2f}" for name, value in figures.items()))
    else:
        params = read_params(given.params)
        runtime = params.runtime.model_copy(update={"device": given.device})
        figures = data.measured(params, resolve_device(runtime))
        print("\n".join(data.lines(figures)))
    _write(figures, given.json)


def _heal(given: argparse.Namespace) -> None:
    from prunella.bench.healing import heal, healing_settings
    from prunella.bench.setting import encoded_here
    from prunella.params import read_params
    from prunella.pipeline.stage import silence_libraries

    silence_libraries()
    setting = encoded_here(read_params())
    rate = given.learning_rate or setting.distill.learning_rate
    setting = setting._replace(
        distill=healing_settings(setting.distill, rate, given.ema_decay),
        benchmark=setting.benchmark.model_copy(update={"prompts": given.prompts}),
    )
    for row in heal(setting, given.student, given.seed, given.steps, given.drawn, given.out, Path("work/healing")):
        print(json.dumps({name: value for name, value in row.items() if name != "verdicts"}), flush=True)


def _healed(given: argparse.Namespace) -> None:
    from prunella.bench.evidence import read_rows
    from prunella.bench.healed import table
    from prunella.errors import UserError
    from prunella.reporting.summary import format_table

    if not (rows := read_rows(given.rows)):
        raise UserError(f"{given.rows}: no rows; `prunella bench heal --student sd-tiny` measures")
    print(format_table(table(rows)))


def _write(figures: dict[str, Any], path: Path | None) -> None:
    if path:
        path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
