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

from prunella.bench.setting import ExperimentSetting
from prunella.latents.encoders import open_latents
from prunella.models.pipeline import load_scheduler, load_unet
from prunella.params import Distill
from prunella.profiling.cost import count_macs
from prunella.pruning.mapping import feature_pairs
from prunella.pruning.plan import STUDENTS, Plan
from prunella.pruning.prune import prune
from prunella.stats import estimate_fraction
from prunella.storage.files import atomic_write_text, json_digest, sha256
from prunella.training.data import iter_heldout_batches, make_training_batches
from prunella.training.loop import train
from prunella.training.losses import OUTPUT, TASK, DistillationLoss
from prunella.training.validate import evaluate_loss

TASK_LOSS_ONLY = {"output_weight": 0.0, "feature_weight": 0.0}


class AblationVariant(NamedTuple):
    """Differences from the parameters: their changes, the weights to start from, whether steps are added."""

    changes: dict
    random: bool = False  # start from random weights rather than the teacher's
    equal_flops: bool = False  # as many more steps as the teacher's forward passes would have cost


VARIANTS = {
    "task": AblationVariant(TASK_LOSS_ONLY),
    "task, as many operations": AblationVariant(TASK_LOSS_ONLY, equal_flops=True),
    "+ output": AblationVariant({"feature_weight": 0.0}),
    "+ output + features": AblationVariant({"feature_normalization": "none"}),
    "+ output + features, normalised": AblationVariant({"feature_normalization": "teacher"}),
    "… from random weights": AblationVariant({"feature_normalization": "teacher"}, random=True),
}


def make_step_variants(step_counts: list[int], settings: Distill) -> dict[str, AblationVariant]:
    """Variants that differ in how long they learn; a short one's warm-up is a tenth of it."""
    return {
        f"{num_steps} steps": AblationVariant(
            {"steps": num_steps, "lr_warmup_steps": min(settings.lr_warmup_steps, num_steps // 10)}
        )
        for num_steps in step_counts
    }


def run_ablation(
    setting: ExperimentSetting,
    variants: dict[str, AblationVariant],
    students: list[str],
    seeds: list[int],
    work_dir: Path,
) -> dict[str, list[dict]]:
    """The figures of every run, by "student / variant", each over all seeds."""
    results: dict[str, list[dict]] = {}
    for seed in seeds:  # one after the other, so that an early end leaves whole seeds
        for name, variant in variants.items():
            for student in students:
                metrics = _load_or_run(setting, student, name, variant, seed, work_dir)
                results.setdefault(f"{student} / {name}", []).append(metrics)
    return results


def _load_or_run(
    setting: ExperimentSetting, student: str, name: str, variant: AblationVariant, seed: int, work_dir: Path
) -> dict:
    identity = [setting.distill.model_dump(), setting.benchmark.model_dump(), student, variant, seed]
    identity += [json.loads((setting.latents_dir / "manifest.json").read_text()), sha256(setting.unet_weights_path)]
    result_path = work_dir / f"{json_digest(identity)}.json"
    if not result_path.is_file():
        metrics = train_and_measure_variant(
            setting, STUDENTS[student], variant, seed, f"{student} / {name} / seed {seed}"
        )
        atomic_write_text(result_path, json.dumps(metrics))
    return json.loads(result_path.read_text())


def train_and_measure_variant(
    setting: ExperimentSetting, plan: Plan, variant: AblationVariant, seed: int, title: str
) -> dict:
    """Train and measure one student: steps, seconds, held-out errors, pictures right of how many."""
    teacher_unet, scheduler = load_unet(setting.teacher_dir, setting.device), load_scheduler(setting.teacher_dir)
    student_unet = prune(teacher_unet, plan)
    if variant.random:
        torch.manual_seed(seed)
        student_unet = UNet2DConditionModel.from_config(student_unet.config).to(setting.device)
    settings = setting.distill.model_copy(update={**variant.changes, "seed": seed})
    if variant.equal_flops:
        settings = settings.model_copy(update=_match_teacher_flops(settings, teacher_unet, student_unet))
    block_pairs, num_train_timesteps = feature_pairs(plan, settings.features), scheduler.config.num_train_timesteps
    train_latents, heldout_latents = open_latents(setting.latents_dir, setting.teacher_dir, setting.device)
    batches = make_training_batches(train_latents, settings.batch_size, settings, num_train_timesteps)
    start_time = time.perf_counter()
    for _ in train(
        student_unet, DistillationLoss(teacher_unet, block_pairs, scheduler, settings), batches, settings, title=title
    ):
        pass
    seconds = time.perf_counter() - start_time
    eval_loss = DistillationLoss(
        teacher_unet, block_pairs, scheduler, setting.distill
    )  # the same terms for every variant
    terms = evaluate_loss(
        student_unet.eval(), eval_loss, iter_heldout_batches(heldout_latents, settings.batch_size, num_train_timesteps)
    )
    correct = setting.judge_generated_images(student_unet, heldout_latents.captions[: setting.benchmark.prompts])
    return {"steps": settings.steps, "seconds": seconds, **terms, "right": sum(correct), "pictures": len(correct)}


def _match_teacher_flops(
    settings: Distill, teacher_unet: UNet2DConditionModel, student_unet: UNet2DConditionModel
) -> dict[str, int]:
    """Steps and warm-up when the teacher's forward passes are spent on more steps."""
    teacher_macs, student_macs = (count_macs(dict(unet.config))["macs"] for unet in (teacher_unet, student_unet))
    step_ratio = (teacher_macs + 3 * student_macs) / (3 * student_macs)
    return {name: round(getattr(settings, name) * step_ratio) for name in ("steps", "lr_warmup_steps")}


def build_ablation_table(results: dict[str, list[dict]]) -> list[list[str]]:
    """A table, the head first: mean and 95 % interval over seeds; composition over all pictures of all seeds."""
    table = [["student / variant", "steps", "seconds", "task", "output", "composition"]]
    for name, runs in results.items():
        num_correct, num_images = (sum(run[key] for run in runs) for key in ("right", "pictures"))
        composition = estimate_fraction(num_correct, num_images)
        table.append([
            name,
            str(runs[0]["steps"]),
            f"{statistics.median(run['seconds'] for run in runs):.0f}",
            *(_format_mean_interval([run[term] for run in runs]) for term in (TASK, OUTPUT)),
            f"{composition.value:.3f} ({composition.low:.3f}–{composition.high:.3f})",
        ])  # fmt: skip
    return table


def _format_mean_interval(values: list[float]) -> str:
    """Mean and half the width of Student's t interval of 95 %."""
    if len(values) == 1:
        return f"{values[0]:.4f}"
    margin = student_t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.mean(values):.4f} ± {margin:.4f}"
