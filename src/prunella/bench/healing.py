"""How far students heal: one training of each, measured as it goes on, one row a measurement.

A row is written as soon as it is known and never measured again; a training goes on from its last checkpoint.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from diffusers import UNet2DConditionModel

from prunella.bench.evidence import EvidenceRow, load_or_measure_row
from prunella.bench.setting import ExperimentSetting, judge_images
from prunella.evaluation.latent_features import pool_latents
from prunella.evaluation.mmd import evaluate_cubic_kernel, measure_mmd
from prunella.latents.encoders import encode_images, open_latents
from prunella.models.pipeline import load_scheduler, load_unet
from prunella.params import Distill
from prunella.pruning.mapping import feature_pairs
from prunella.pruning.plan import STUDENTS
from prunella.pruning.prune import prune
from prunella.sampling.generate import generate, load_for_inference
from prunella.scenes.generator import render_sample
from prunella.stats import estimate_fraction
from prunella.training.data import iter_heldout_batches, make_training_batches
from prunella.training.loop import ema_weights, make_ema, train
from prunella.training.losses import OUTPUT, TASK, DistillationLoss
from prunella.training.validate import evaluate_loss

UNSEEN_SEED = 10_000  # seed of scenes that no training has seen
TEACHER = "teacher"
CHECKPOINT_EVERY = 50  # steps
CONSTANT_RATE_SETTINGS: dict[str, Any] = {
    "lr_scheduler": "constant",
    "ema_decay": 0.99,
}  # how it trains where nothing else is said


class EvidenceLedger:
    """Rows of evidence, known by student, seed, step and what decides their figures: each is measured once."""

    def __init__(self, path: Path, settings_digest: str):
        self.path, self.settings_digest = path, settings_digest

    def load_or_measure(self, student: str, seed: int, step: int, measure: Callable[[], EvidenceRow]) -> EvidenceRow:
        """The row of that name, measured and written where there is none."""
        identity = {"student": student, "seed": seed, "step": step, "settings": self.settings_digest}
        return load_or_measure_row(self.path, identity, measure)


def heal(
    setting: ExperimentSetting,
    student_name: str,
    seed: int,
    milestones: Sequence[int],
    image_milestones: Sequence[int],
    out: Path,
    work_dir: Path,
) -> Iterator[EvidenceRow]:
    """Train `student` to the last milestone; yield the teacher's row, then its own at 0 steps and at each milestone.

    Held-out errors are measured at all, pictures at those that are in `drawn_at`; all of the averaged weights. A
    training that goes on from a checkpoint does not yield the milestones before it again: their rows are in `out`.
    """
    settings = setting.distill.model_copy(update={"seed": seed, "steps": max(milestones)})
    ledger = EvidenceLedger(out, _digest_healing_settings(setting))
    teacher_unet, scheduler = load_unet(setting.teacher_dir, setting.device), load_scheduler(setting.teacher_dir)
    image_evaluator = SceneImageEvaluator(setting)
    yield ledger.load_or_measure(TEACHER, 0, 0, lambda: image_evaluator.measure_images(teacher_unet))
    student_unet, plan = prune(teacher_unet, STUDENTS[student_name]), STUDENTS[student_name]
    block_pairs, num_train_timesteps = feature_pairs(plan, settings.features), scheduler.config.num_train_timesteps
    train_latents, heldout_latents = open_latents(setting.latents_dir, setting.teacher_dir, setting.device)
    loss, ema = DistillationLoss(teacher_unet, block_pairs, scheduler, settings), make_ema(student_unet, settings)
    start_time = time.perf_counter()

    def measure_step(step: int) -> EvidenceRow:
        seconds = time.perf_counter() - start_time
        with ema_weights(student_unet, ema if step else None):
            terms = evaluate_loss(
                student_unet, loss, iter_heldout_batches(heldout_latents, settings.batch_size, num_train_timesteps)
            )
            image_metrics = image_evaluator.measure_images(student_unet) if step in image_milestones else {}
        return {"seconds": round(seconds, 1), **{name: terms[name] for name in (TASK, OUTPUT)}, **image_metrics}

    yield ledger.load_or_measure(student_name, seed, 0, partial(measure_step, 0))
    batches, student_dir = (
        make_training_batches(train_latents, settings.batch_size, settings, num_train_timesteps),
        work_dir / ledger.settings_digest / student_name,
    )
    step_iterator = train(
        student_unet,
        loss,
        batches,
        settings,
        folder=student_dir / str(seed),
        checkpoint_every=CHECKPOINT_EVERY,
        ema=ema,
        title=f"{student_name}, seed {seed}",
    )
    for step, _ in step_iterator:
        if step in milestones:
            yield ledger.load_or_measure(student_name, seed, step, partial(measure_step, step))


def _digest_healing_settings(setting: ExperimentSetting) -> str:
    """Digest of what decides the rows: parameters of training but for its length, of drawing, data and teacher."""
    training_settings, benchmark = setting.distill.model_dump(exclude={"steps", "seed", "storage"}), setting.benchmark
    return setting.compute_digest(training_settings, benchmark.prompts, benchmark.sampling_kwargs)


class SceneImageEvaluator:
    """Pictures of scenes that nobody learned from, judged: composition claim by claim, and distance from real ones."""

    def __init__(self, setting: ExperimentSetting):
        benchmark, num_prompts = setting.benchmark, setting.benchmark.prompts
        self.vocabulary, self.sampling_kwargs = (
            setting.vocabulary,
            {"batch_size": benchmark.batch_size, **benchmark.sampling_kwargs},
        )
        scenes = [render_sample(setting.vocabulary, UNSEEN_SEED, index) for index in range(2 * num_prompts)]
        self.prompts = [caption for caption, _ in scenes[:num_prompts]]
        self.pipeline = load_for_inference(setting.teacher_dir, setting.device)
        self.reference_features = self._compute_features([image for _, image in scenes[num_prompts:]])

    def measure_images(self, unet: UNet2DConditionModel) -> EvidenceRow:
        """{"composition", "kid": estimates; "verdicts": a "1" for each prompt whose claims are all true, else "0"}."""
        self.pipeline.unet = unet
        images = list(generate(self.pipeline, self.prompts, **self.sampling_kwargs))
        verdicts = judge_images(images, self.prompts, self.vocabulary)
        return {
            "composition": estimate_fraction(sum(verdicts), len(verdicts)).to_report_dict(),
            "kid": measure_mmd(self._compute_features(images), self.reference_features, evaluate_cubic_kernel)
            .estimate()
            .to_report_dict(),
            "verdicts": "".join("01"[is_correct] for is_correct in verdicts),
        }

    def _compute_features(self, images: list[np.ndarray]) -> np.ndarray:
        vae = self.pipeline.vae
        mean, _ = encode_images(vae, np.stack(images), batch_size=self.sampling_kwargs["batch_size"])
        return pool_latents(mean * vae.config.scaling_factor)


def make_healing_settings(distill: Distill, learning_rate: float, ema_decay: float) -> Distill:
    """Like `distill`, at a constant rate and with averaged weights, so that every milestone is of one training."""
    return distill.model_copy(update=CONSTANT_RATE_SETTINGS | {"learning_rate": learning_rate, "ema_decay": ema_decay})
