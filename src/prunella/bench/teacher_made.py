"""Comparison of what a student learns from pictures that its teacher made, against what it learns from the pictures
themselves.

A unit is a student, an arm (`rendered` or `generated`: whose latents are learned from) and a seed. Each unit is a row
of figures, written as soon as it is known; what was interrupted goes on from its last checkpoint. Both arms are
measured alike: on the same held-out pairs, and by the same pictures of captions that no arm has learned from.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from prunella.bench.setting import ExperimentSetting
from prunella.data.filter import filter_dataset
from prunella.encoding.encode import encode_dataset
from prunella.latents.encoders import open_latents
from prunella.latents.shards import MANIFEST, LatentDataset
from prunella.models.pipeline import load_scheduler, load_unet
from prunella.params import Generate, Params
from prunella.pruning.mapping import feature_pairs
from prunella.pruning.plan import STUDENTS
from prunella.pruning.prune import prune
from prunella.sampling.training_images import generate_images
from prunella.scenes.generator import make_caption
from prunella.stats import Estimate, estimate_paired_difference
from prunella.storage.files import atomic_write_text
from prunella.training.data import iter_heldout_batches, make_training_batches
from prunella.training.loop import train
from prunella.training.losses import OUTPUT, TASK, DistillationLoss
from prunella.training.validate import evaluate_loss

RENDERED, GENERATED = "rendered", "generated"
CHECKPOINT_EVERY = 25  # steps


class TrainingUnit(NamedTuple):
    student: str
    arm: str
    seed: int


def prepare_arm_latents(
    setting: ExperimentSetting, params: Params, arms: list[str], num_inference_steps: int, work_dir: Path
) -> dict[str, Path]:
    """The latents of each arm; those of teacher-made pictures are made first, in `steps` of the sampler each."""
    latents_dirs = {RENDERED: setting.latents_dir}
    return latents_dirs | (
        {GENERATED: make_generated_latents(setting, params, num_inference_steps, work_dir)} if GENERATED in arms else {}
    )


def make_generated_latents(
    setting: ExperimentSetting, params: Params, num_inference_steps: int, work_dir: Path
) -> Path:
    """The latents of pictures that the teacher makes of the captions of `setting.latents`' training pairs.

    Through the very stages: generate, filter, encode; in `work`, where an interrupted one goes on.
    """
    latents_dir = work_dir / "latents"
    if (latents_dir / MANIFEST).is_file():
        return latents_dir
    captions = LatentDataset(setting.latents_dir, "train", texts=dict).captions
    prompts_path = work_dir / "captions.jsonl"
    atomic_write_text(prompts_path, "".join(json.dumps({"prompt": text}) + "\n" for text in captions))
    generate_params = Generate(
        prompts=str(prompts_path), samples=len(captions), images_per_prompt=1, model=str(setting.teacher_dir), id=None,
        revision="main",
        negative_prompt="", guidance_scale=setting.benchmark.guidance_scale, scheduler="DPMSolverMultistepScheduler",
        num_inference_steps=num_inference_steps, sizes=[(params.encode.resolution,) * 2],
        batch_size=setting.benchmark.batch_size,
        precision="fp32", storage="fp32", seed=0, store=None,
    )  # fmt: skip
    images_dir = work_dir / "pictures"
    print(
        generate_images(generate_params, "teacher-made", prompts_path, setting.teacher_dir, images_dir, setting.device),
        flush=True,
    )
    filter_params = params.filter.model_copy(
        update={"source": "generated", "path": str(images_dir), "min_contrast": 0.0}
    )
    filter_dataset(filter_params, params.seed, work_dir / "pairs")
    encode_params = params.encode.model_copy(update={"heldout": 1})
    print(
        encode_dataset(
            encode_params, params.seed, setting.teacher_dir, work_dir / "pairs", latents_dir, setting.device
        ),
        flush=True,
    )
    return latents_dir


def measure_unit(
    setting: ExperimentSetting,
    unit: TrainingUnit,
    train_latents_dir: Path,
    first_unseen: int,
    num_images: int,
    work_dir: Path,
) -> dict[str, Any]:
    """Train and measure one unit on the latents `learned_from`; held-out errors are those of `setting.latents`.

    The row: the unit, "steps", "pairs", held-out "task" and "output", and "right", a 0 or 1 for each of `pictures`
    scenes from number `first_unseen` of the series on.
    """
    teacher_unet, scheduler = load_unet(setting.teacher_dir, setting.device), load_scheduler(setting.teacher_dir)
    student_unet = prune(teacher_unet, STUDENTS[unit.student])
    settings = setting.distill.model_copy(update={"seed": unit.seed})
    run_dir = work_dir / "-".join(map(str, [*unit, settings.steps]))
    loss = DistillationLoss(teacher_unet, feature_pairs(STUDENTS[unit.student], settings.features), scheduler, settings)
    num_train_timesteps = scheduler.config.num_train_timesteps
    train_latents, _ = open_latents(train_latents_dir, setting.teacher_dir, setting.device)
    _, heldout_latents = open_latents(setting.latents_dir, setting.teacher_dir, setting.device)
    batches, title = (
        make_training_batches(train_latents, settings.batch_size, settings, num_train_timesteps),
        " ".join(map(str, unit)),
    )
    for _ in train(
        student_unet, loss, batches, settings, folder=run_dir, checkpoint_every=CHECKPOINT_EVERY, title=title
    ):
        pass
    terms = evaluate_loss(
        student_unet.eval(), loss, iter_heldout_batches(heldout_latents, settings.batch_size, num_train_timesteps)
    )
    correct = setting.judge_generated_images(
        student_unet, [make_caption(setting.vocabulary, 0, first_unseen + i) for i in range(num_images)]
    )
    shutil.rmtree(run_dir, ignore_errors=True)
    return {
        **unit._asdict(), "steps": settings.steps, "pairs": len(train_latents),
        TASK: terms[TASK], OUTPUT: terms[OUTPUT], "right": list(map(int, correct)),
    }  # fmt: skip


def select_unmeasured_units(
    rows: list[dict[str, Any]], units: list[TrainingUnit], num_steps: int
) -> Iterator[TrainingUnit]:
    """The units that have no row of so many steps."""
    measured_units = {(TrainingUnit(row["student"], row["arm"], row["seed"]), row["steps"]) for row in rows}
    return (unit for unit in units if (unit, num_steps) not in measured_units)


class ArmComparison(NamedTuple):
    """Generated against rendered: the ratio of output errors, seed by seed, and the difference of composition."""

    ratios: list[float]
    composition: Estimate  # difference of shares of pictures right, paired by seed and caption


def compare_arms(rows: list[dict[str, Any]]) -> dict[tuple[str, int], ArmComparison]:
    """(student, steps) → comparison over the seeds that both arms have."""
    rows_by_key: dict[tuple[str, int], dict[int, dict[str, dict]]] = {}
    for row in rows:
        rows_by_key.setdefault((row["student"], row["steps"]), {}).setdefault(row["seed"], {})[row["arm"]] = row
    comparisons = {}
    for key, seeds in rows_by_key.items():
        complete_arms = [arms for _, arms in sorted(seeds.items()) if len(arms) == 2]
        if complete_arms:
            ratios = [arms[GENERATED][OUTPUT] / arms[RENDERED][OUTPUT] for arms in complete_arms]
            correct = {
                arm: [hit for arms in complete_arms for hit in arms[arm]["right"]] for arm in (GENERATED, RENDERED)
            }
            comparisons[key] = ArmComparison(ratios, estimate_paired_difference(correct[GENERATED], correct[RENDERED]))
    return comparisons
