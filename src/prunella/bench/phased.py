"""Phases against one training of as many operations: a student cut little by little, and two teachers in succession.

All on the same pairs, seeds and rate, and measured against the first teacher. A row is a training; it is written as
soon as it is known and never measured again, and a training that was stopped goes on from its state.
"""

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from prunella.bench.evidence import Row, known_row
from prunella.bench.race import interval
from prunella.bench.setting import Setting
from prunella.bench.workload import step_macs
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
from prunella.training.data import heldout_batches
from prunella.training.distill import distill
from prunella.training.finetune import finetune
from prunella.training.losses import OUTPUT, TASK, Distillation
from prunella.training.validate import evaluate_loss

SECOND, AT_ONCE = "second", "at once"
MEASURED = 32  # held-out pairs at once


class Part(NamedTuple):
    """A phase: its share of all operations, the share of the student's cuts that are made, and who teaches."""

    operations: float
    cuts: float = 1.0
    teacher: str | None = None


# Thirds and halves: a first guess, tuned on nothing.
WAYS = {
    AT_ONCE: [Part(1.0)],
    "progressive": [Part(1 / 3, 0.4), Part(1 / 3, 0.8), Part(1 / 3)],
    "progressive, early": [Part(0.1, 0.4), Part(0.1, 0.8), Part(0.8)],
    "second teacher alone": [Part(1.0, teacher=SECOND)],
    "two teachers": [Part(0.5), Part(0.5, teacher=SECOND)],
}


class Contest(NamedTuple):
    """What all trainings share. `tuning` makes the second teacher of the first."""

    setting: Setting
    tuning: Finetune
    student: str
    steps: int  # of the training at once
    out: Path
    work: Path
    told: Row  # written into each row: command and hardware


def contest(what: Contest, ways: Sequence[str], seeds: Sequence[int]) -> Iterator[Row]:
    """The row of each way and seed, seeds one after the other, so that an early end leaves whole ones."""
    settings = _settings(what)
    for seed in seeds:
        for way in ways:
            name = {"student": what.student, "way": way, "seed": seed, "settings": settings}
            yield known_row(what.out, name, partial(_row, what, way, seed))


def _row(what: Contest, way: str, seed: int) -> Row:
    return trained(what, way, seed) | what.told


def trained(what: Contest, way: str, seed: int) -> Row:
    """Train one way: its steps by phase, all its operations, held-out errors against the first teacher."""
    setting, plan_file = what.setting, find_plan(what.student)
    plan, config = read_plan(plan_file), dict(load_unet(setting.teacher).config)
    phases = [_phase(setting.distill, plan, config, what.steps, part) for part in WAYS[way]]
    total = sum(phase["steps"] for phase in phases)
    changes = {"phases": phases, "steps": total, "seed": seed, "storage": "fp32", "patience": None}
    params = validate_config(Distill, setting.distill.model_dump() | changes, "distill")
    student, out = what.work / "pruned" / what.student, what.work / "out" / f"{way}-{seed}".replace(" ", "-")
    if not student.is_dir():
        prune_to_folder(Prune(storage="fp32"), setting.teacher, plan_file, student)
    distill(
        params,
        teacher=setting.teacher,
        latents=setting.latents,
        student=student,
        out=out,
        curves=out / "curves",
        placement=Placement(setting.device),
        checkpoint_every=50,
        phases=_named(what) if any(part.teacher for part in WAYS[way]) else None,
    )
    each = [
        phase["steps"] * step_macs(config, student_config(plan_at_fraction(plan, phase["plan"]), config))
        for phase in phases
    ]
    flop = 2 * sum(each) * params.batch_size * params.gradient_accumulation_steps
    return {
        "steps": [phase["steps"] for phase in phases],
        "tflop": round(flop / 1e12, 3),
        **_errors(setting, plan, out),
    }


def _errors(setting: Setting, plan: Plan, out: Path) -> Row:
    teacher, student = (load_unet(folder, setting.device) for folder in (setting.teacher, out))
    scheduler = load_scheduler(setting.teacher)
    loss = Distillation(teacher, feature_pairs(plan), scheduler, setting.distill)
    _, heldout = open_latents(setting.latents, setting.teacher, setting.device)
    terms = evaluate_loss(
        student.eval(), loss, heldout_batches(heldout, MEASURED, scheduler.config.num_train_timesteps)
    )
    return {name: terms[name] for name in (TASK, OUTPUT)}


def _phase(distill: Distill, plan: Plan, config: dict, steps: int, part: Part) -> dict:
    """The entry of `distill.phases`: as many steps as its share of the operations buys."""
    whole, cut = (step_macs(config, student_config(each, config)) for each in (plan, plan_at_fraction(plan, part.cuts)))
    share = part.operations * whole / cut
    terms = distill.model_dump(include={"learning_rate", "task_weight", "output_weight", "feature_weight"})
    return {"steps": max(1, round(steps * share)), "plan": part.cuts, "teacher": part.teacher} | terms


def _named(what: Contest) -> Path:
    """The file that names the second teacher, which is made of the first where it is not there."""
    folder, setting = what.work / SECOND, what.setting
    if not (folder / "model_index.json").is_file():
        finetune(
            what.tuning.model_copy(update={"storage": "fp32"}),
            teacher=setting.teacher,
            latents=setting.latents,
            student=setting.teacher,
            out=folder,
            curves=what.work / "second-curves",
            placement=Placement(setting.device),
            checkpoint_every=50,
        )
    pinned = pin_teacher(
        validate_config(ModelSource, fill_section("teacher", {"source": "folder", "path": str(folder)}), SECOND)
    )
    file = what.work / "phases.json"
    atomic_write_text(file, json.dumps({"plans": {}, "teachers": {SECOND: pinned}}))
    return file


def _settings(what: Contest) -> str:
    """Digest of what decides the rows, but for student, way and seed."""
    learned = what.setting.distill.model_dump(exclude={"steps", "seed", "storage", "phases"})
    return what.setting.digest(learned, what.tuning.model_dump(), what.steps)


def table(rows: Sequence[Row]) -> list[list[str]]:
    """Cells, the head first: each student's ways over their seeds, and how many times the error of the one at once.

    Ratios are geometric means over the seeds that both have, with Student's t interval of 95 %.
    """
    made = [["student", "way", "steps", "TFLOP", "seeds", "output error", "times that at once", "task, times"]]
    for student, way in dict.fromkeys((row["student"], row["way"]) for row in rows):
        ours, plain = (
            {(row["seed"], row["settings"]): row for row in rows if (row["student"], row["way"]) == (student, each)}
            for each in (way, AT_ONCE)
        )
        both = sorted(ours.keys() & plain.keys())
        first, errors = next(iter(ours.values())), [row[OUTPUT] for row in ours.values()]
        ratios = [interval([ours[seed][name] / plain[seed][name] for seed in both]) for name in (OUTPUT, TASK) if both]
        made.append([
            student,
            way,
            " + ".join(map(str, first["steps"])),
            f"{first['tflop']:.2f}",
            str(len(ours)),
            f"{min(errors):.4f}–{max(errors):.4f}",
            *(ratios if way != AT_ONCE and both else ["", ""]),
        ])  # fmt: skip
    return made
