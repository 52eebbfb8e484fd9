"""The ablation: which part of distillation buys what, on the same teacher, data and seeds.

A run is a student, a variant of the loss and a seed. Each run's figures are written as soon as they are known, into a
file of its own, so that an interrupted ablation goes on where it stopped.
"""

import json
import statistics
import time
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import UNet2DConditionModel
from scipy.stats import t as student_t

from prunella.bench.setting import Setting
from prunella.latents.encoders import open_latents
from prunella.models.pipeline import load_scheduler, load_unet
from prunella.params import Distill
from prunella.profiling.cost import count_macs
from prunella.pruning.mapping import feature_pairs
from prunella.pruning.plan import STUDENTS, Plan
from prunella.pruning.prune import prune
from prunella.stats import estimate_fraction
from prunella.storage.files import atomic_write_text, json_digest, sha256
from prunella.training.data import heldout_batches, training_batches
from prunella.training.loop import train
from prunella.training.losses import OUTPUT, TASK, Distillation
from prunella.training.validate import evaluate_loss

ALONE = {"output_weight": 0.0, "feature_weight": 0.0}


class Variant(NamedTuple):
    """What differs from the parameters: their changes, the weights to start from, whether steps are added."""

    changes: dict
    random: bool = False  # start from random weights rather than the teacher's
    equal_flops: bool = False  # as many more steps as the teacher's forward passes would have cost


VARIANTS = {
    "task": Variant(ALONE),
    "task, as many operations": Variant(ALONE, equal_flops=True),
    "+ output": Variant({"feature_weight": 0.0}),
    "+ output + features": Variant({"feature_normalization": "none"}),
    "+ output + features, normalised": Variant({"feature_normalization": "teacher"}),
    "… from random weights": Variant({"feature_normalization": "teacher"}, random=True),
}


def by_steps(counts: list[int], settings: Distill) -> dict[str, Variant]:
    """Variants that differ in how long they learn; a short one's warm-up is a tenth of it."""
    return {
        f"{count} steps": Variant({"steps": count, "lr_warmup_steps": min(settings.lr_warmup_steps, count // 10)})
        for count in counts
    }


def ablation(
    setting: Setting, variants: dict[str, Variant], students: list[str], seeds: list[int], work: Path
) -> dict[str, list[dict]]:
    """The figures of every run, by "student / variant", each over all seeds."""
    results: dict[str, list[dict]] = {}
    for seed in seeds:  # one after the other, so that an early end leaves whole seeds
        for name, variant in variants.items():
            for student in students:
                figures = _kept(setting, student, name, variant, seed, work)
                results.setdefault(f"{student} / {name}", []).append(figures)
    return results


def _kept(setting: Setting, student: str, name: str, variant: Variant, seed: int, work: Path) -> dict:
    known = [setting.distill.model_dump(), setting.benchmark.model_dump(), student, variant, seed]
    known += [json.loads((setting.latents / "manifest.json").read_text()), sha256(setting.unet)]
    path = work / f"{json_digest(known)}.json"
    if not path.is_file():
        figures = run(setting, STUDENTS[student], variant, seed, f"{student} / {name} / seed {seed}")
        atomic_write_text(path, json.dumps(figures))
    return json.loads(path.read_text())


def run(setting: Setting, plan: Plan, variant: Variant, seed: int, title: str) -> dict:
    """Train and measure one student: steps, seconds, held-out errors, pictures right of how many."""
    teacher, scheduler = load_unet(setting.teacher, setting.device), load_scheduler(setting.teacher)
    student = prune(teacher, plan)
    if variant.random:
        torch.manual_seed(seed)
        student = UNet2DConditionModel.from_config(student.config).to(setting.device)
    settings = setting.distill.model_copy(update={**variant.changes, "seed": seed})
    if variant.equal_flops:
        settings = settings.model_copy(update=_longer(settings, teacher, student))
    pairs, last = feature_pairs(plan, settings.features), scheduler.config.num_train_timesteps
    learned, heldout = open_latents(setting.latents, setting.teacher, setting.device)
    batches = training_batches(learned, settings.batch_size, settings, last)
    began = time.perf_counter()
    for _ in train(student, Distillation(teacher, pairs, scheduler, settings), batches, settings, title=title):
        pass
    seconds = time.perf_counter() - began
    measured = Distillation(teacher, pairs, scheduler, setting.distill)  # the same terms for every variant
    terms = evaluate_loss(student.eval(), measured, heldout_batches(heldout, settings.batch_size, last))
    right = setting.drawn_right(student, heldout.captions[: setting.benchmark.prompts])
    return {"steps": settings.steps, "seconds": seconds, **terms, "right": sum(right), "pictures": len(right)}


def _longer(settings: Distill, teacher: UNet2DConditionModel, student: UNet2DConditionModel) -> dict[str, int]:
    """Steps and warm-up when the teacher's forward passes are spent on more steps."""
    whole, small = (count_macs(dict(unet.config))["macs"] for unet in (teacher, student))
    longer = (whole + 3 * small) / (3 * small)
    return {name: round(getattr(settings, name) * longer) for name in ("steps", "lr_warmup_steps")}


def rows(results: dict[str, list[dict]]) -> list[list[str]]:
    """A table, the head first: mean and 95 % interval over seeds; composition over all pictures of all seeds."""
    table = [["student / variant", "steps", "seconds", "task", "output", "composition"]]
    for name, runs in results.items():
        right, n = (sum(run[key] for run in runs) for key in ("right", "pictures"))
        found = estimate_fraction(right, n)
        table.append([
            name,
            str(runs[0]["steps"]),
            f"{statistics.median(run['seconds'] for run in runs):.0f}",
            *(_interval([run[term] for run in runs]) for term in (TASK, OUTPUT)),
            f"{found.value:.3f} ({found.low:.3f}–{found.high:.3f})",
        ])  # fmt: skip
    return table


def _interval(values: list[float]) -> str:
    """Mean and half the width of Student's t interval of 95 %."""
    if len(values) == 1:
        return f"{values[0]:.4f}"
    half = student_t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.mean(values):.4f} ± {half:.4f}"
