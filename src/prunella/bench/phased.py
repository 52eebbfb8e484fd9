"""Phases against one training of as many operations: a student cut little by little, and two teachers in succession.

All on the same pairs, seeds and rate, and measured against the first teacher. A row is a training; it is written as
soon as it is known and never measured again, and a training that was stopped goes on from its state.
"""

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from prunella.bench.evidence import EvidenceRow, load_or_measure_row
from prunella.bench.race import format_ratio_interval
from prunella.bench.setting import ExperimentSetting
from prunella.bench.workload import count_step_macs
from prunella.compute.device import Placement
from prunella.latents.encoders import open_latents
from prunella.models.pipeline import load_scheduler, load_unet
from prunella.models.teacher import pin_teacher
from prunella.params import Distill, Finetune, ModelSource, Prune, fill_section, validate_config
from prunella.pruning.mapping import feature_pairs, student_config
from prunella.pruning.plan import Plan, find_plan, read_plan
from prunella.pruning.progressive import plan_at_fraction
from prunella.pruning.prune import prune_to_folder
from prunella.storage.files import atomic_write_text
from prunella.training.data import iter_heldout_batches
from prunella.training.distill import distill
from prunella.training.finetune import finetune
from prunella.training.losses import OUTPUT, TASK, DistillationLoss
from prunella.training.validate import evaluate_loss

SECOND_TEACHER, SINGLE_TRAINING = "second", "at once"
EVAL_BATCH_SIZE = 32  # held-out pairs at once


class PhaseSpec(NamedTuple):
    """A phase: its share of all operations, the share of the student's cuts that are made, and who teaches."""

    flops_fraction: float
    plan_fraction: float = 1.0
    teacher_name: str | None = None


# Thirds and halves: a first guess, tuned on nothing.
PHASE_METHODS = {
    SINGLE_TRAINING: [PhaseSpec(1.0)],
    "progressive": [PhaseSpec(1 / 3, 0.4), PhaseSpec(1 / 3, 0.8), PhaseSpec(1 / 3)],
    "progressive, early": [PhaseSpec(0.1, 0.4), PhaseSpec(0.1, 0.8), PhaseSpec(0.8)],
    "second teacher alone": [PhaseSpec(1.0, teacher_name=SECOND_TEACHER)],
    "two teachers": [PhaseSpec(0.5), PhaseSpec(0.5, teacher_name=SECOND_TEACHER)],
}


class PhasesBenchmark(NamedTuple):
    """The common part of all trainings. `tuning` makes the second teacher of the first."""

    setting: ExperimentSetting
    finetune_params: Finetune
    student: str
    steps: int  # of the training at once
    out: Path
    work_dir: Path
    row_metadata: EvidenceRow  # written into each row: command and hardware


def run_phases_benchmark(
    benchmark: PhasesBenchmark, methods: Sequence[str], seeds: Sequence[int]
) -> Iterator[EvidenceRow]:
    """The row of each way and seed, seeds one after the other, so that an early end leaves whole ones."""
    settings_digest = _digest_phases_settings(benchmark)
    for seed in seeds:
        for method in methods:
            identity = {"student": benchmark.student, "way": method, "seed": seed, "settings": settings_digest}
            yield load_or_measure_row(benchmark.out, identity, partial(_make_phases_row, benchmark, method, seed))


def _make_phases_row(benchmark: PhasesBenchmark, method: str, seed: int) -> EvidenceRow:
    return train_phase_method(benchmark, method, seed) | benchmark.row_metadata


def train_phase_method(benchmark: PhasesBenchmark, method: str, seed: int) -> EvidenceRow:
    """Train one way: its steps by phase, all its operations, held-out errors against the first teacher."""
    setting, plan_file = benchmark.setting, find_plan(benchmark.student)
    plan, teacher_config = read_plan(plan_file), dict(load_unet(setting.teacher_dir).config)
    phases = [
        _make_phase_entry(setting.distill, plan, teacher_config, benchmark.steps, spec)
        for spec in PHASE_METHODS[method]
    ]
    total_steps = sum(phase["steps"] for phase in phases)
    changes = {"phases": phases, "steps": total_steps, "seed": seed, "storage": "fp32", "patience": None}
    params = validate_config(Distill, setting.distill.model_dump() | changes, "distill")
    student_dir, out_dir = (
        benchmark.work_dir / "pruned" / benchmark.student,
        benchmark.work_dir / "out" / f"{method}-{seed}".replace(" ", "-"),
    )
    if not student_dir.is_dir():
        prune_to_folder(Prune(storage="fp32"), setting.teacher_dir, plan_file, student_dir)
    distill(
        params,
        teacher=setting.teacher_dir,
        latents=setting.latents_dir,
        student=student_dir,
        out=out_dir,
        curves=out_dir / "curves",
        placement=Placement(setting.device),
        checkpoint_every=50,
        phases=_write_second_teacher_refs(benchmark)
        if any(spec.teacher_name for spec in PHASE_METHODS[method])
        else None,
    )
    phase_macs = [
        phase["steps"]
        * count_step_macs(teacher_config, student_config(plan_at_fraction(plan, phase["plan"]), teacher_config))
        for phase in phases
    ]
    total_flops = 2 * sum(phase_macs) * params.batch_size * params.gradient_accumulation_steps
    return {
        "steps": [phase["steps"] for phase in phases],
        "tflop": round(total_flops / 1e12, 3),
        **_evaluate_heldout_errors(setting, plan, out_dir),
    }


def _evaluate_heldout_errors(setting: ExperimentSetting, plan: Plan, student_dir: Path) -> EvidenceRow:
    teacher_unet, student_unet = (load_unet(folder, setting.device) for folder in (setting.teacher_dir, student_dir))
    scheduler = load_scheduler(setting.teacher_dir)
    loss = DistillationLoss(teacher_unet, feature_pairs(plan), scheduler, setting.distill)
    _, heldout_latents = open_latents(setting.latents_dir, setting.teacher_dir, setting.device)
    terms = evaluate_loss(
        student_unet.eval(),
        loss,
        iter_heldout_batches(heldout_latents, EVAL_BATCH_SIZE, scheduler.config.num_train_timesteps),
    )
    return {name: terms[name] for name in (TASK, OUTPUT)}


def _make_phase_entry(distill_params: Distill, plan: Plan, teacher_config: dict, steps: int, spec: PhaseSpec) -> dict:
    """The entry of `distill.phases`: as many steps as its share of the operations buys."""
    full_macs, phase_macs = (
        count_step_macs(teacher_config, student_config(phase_plan, teacher_config))
        for phase_plan in (plan, plan_at_fraction(plan, spec.plan_fraction))
    )
    step_fraction = spec.flops_fraction * full_macs / phase_macs
    loss_weights = distill_params.model_dump(
        include={"learning_rate", "task_weight", "output_weight", "feature_weight"}
    )
    return {
        "steps": max(1, round(steps * step_fraction)),
        "plan": spec.plan_fraction,
        "teacher": spec.teacher_name,
    } | loss_weights


def _write_second_teacher_refs(benchmark: PhasesBenchmark) -> Path:
    """The file that names the second teacher, which is made of the first where it is not there."""
    teacher_dir, setting = benchmark.work_dir / SECOND_TEACHER, benchmark.setting
    if not (teacher_dir / "model_index.json").is_file():
        finetune(
            benchmark.finetune_params.model_copy(update={"storage": "fp32"}),
            teacher=setting.teacher_dir,
            latents=setting.latents_dir,
            student=setting.teacher_dir,
            out=teacher_dir,
            curves=benchmark.work_dir / "second-curves",
            placement=Placement(setting.device),
            checkpoint_every=50,
        )
    teacher_pin = pin_teacher(
        validate_config(
            ModelSource, fill_section("teacher", {"source": "folder", "path": str(teacher_dir)}), SECOND_TEACHER
        )
    )
    refs_path = benchmark.work_dir / "phases.json"
    atomic_write_text(refs_path, json.dumps({"plans": {}, "teachers": {SECOND_TEACHER: teacher_pin}}))
    return refs_path


def _digest_phases_settings(benchmark: PhasesBenchmark) -> str:
    """Digest of what decides the rows, but for student, way and seed."""
    training_settings = benchmark.setting.distill.model_dump(exclude={"steps", "seed", "storage", "phases"})
    return benchmark.setting.compute_digest(training_settings, benchmark.finetune_params.model_dump(), benchmark.steps)


def build_phases_table(rows: Sequence[EvidenceRow]) -> list[list[str]]:
    """Cells, the head first: each student's ways over their seeds, and how many times the error of the one at once.

    Ratios are geometric means over the seeds that both have, with Student's t interval of 95 %.
    """
    table = [["student", "way", "steps", "TFLOP", "seeds", "output error", "times that at once", "task, times"]]
    for student, method in dict.fromkeys((row["student"], row["way"]) for row in rows):
        method_rows, baseline_rows = (
            {
                (row["seed"], row["settings"]): row
                for row in rows
                if (row["student"], row["way"]) == (student, group_method)
            }
            for group_method in (method, SINGLE_TRAINING)
        )
        common_keys = sorted(method_rows.keys() & baseline_rows.keys())
        first_row, errors = next(iter(method_rows.values())), [row[OUTPUT] for row in method_rows.values()]
        ratios = [
            format_ratio_interval([method_rows[seed][name] / baseline_rows[seed][name] for seed in common_keys])
            for name in (OUTPUT, TASK)
            if common_keys
        ]
        table.append([
            student,
            method,
            " + ".join(map(str, first_row["steps"])),
            f"{first_row['tflop']:.2f}",
            str(len(method_rows)),
            f"{min(errors):.4f}–{max(errors):.4f}",
            *(ratios if method != SINGLE_TRAINING and common_keys else ["", ""]),
        ])  # fmt: skip
    return table
