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

from prunella.bench.evidence import Row, known_row
from prunella.bench.setting import Setting, right
from prunella.evaluation.latent_features import pool_latents
from prunella.evaluation.mmd import evaluate_cubic_kernel, measure_mmd
from prunella.latents.encoders import open_latents, raw_latents
from prunella.models.pipeline import load_scheduler, load_unet
from prunella.params import Distill
from prunella.pruning.mapping import feature_pairs
from prunella.pruning.plan import STUDENTS
from prunella.pruning.prune import prune
from prunella.sampling.generate import generate, load_for_inference
from prunella.scenes.generator import render_sample
from prunella.stats import estimate_fraction
from prunella.training.data import heldout_batches, training_batches
from prunella.training.loop import averaged, ema_weights, train
from prunella.training.losses import OUTPUT, TASK, Distillation
from prunella.training.validate import evaluate_loss

UNSEEN = 10_000  # seed of scenes that no training has seen
TEACHER = "teacher"
KEPT_EVERY = 50  # steps
CONSTANT: dict[str, Any] = {"lr_scheduler": "constant", "ema_decay": 0.99}  # how it trains where nothing else is said


class Ledger:
    """Rows of evidence, known by student, seed, step and what decides their figures: each is measured once."""

    def __init__(self, path: Path, settings: str):
        self.path, self.settings = path, settings

    def row(self, student: str, seed: int, step: int, measure: Callable[[], Row]) -> Row:
        """The row of that name, measured and written where there is none."""
        name = {"student": student, "seed": seed, "step": step, "settings": self.settings}
        return known_row(self.path, name, measure)


def heal(
    setting: Setting, student: str, seed: int, milestones: Sequence[int], drawn_at: Sequence[int], out: Path, work: Path
) -> Iterator[Row]:
    """Train `student` to the last milestone; yield the teacher's row, then its own at 0 steps and at each milestone.

    Held-out errors are measured at all, pictures at those that are in `drawn_at`; all of the averaged weights. A
    training that goes on from a checkpoint does not yield the milestones before it again: their rows are in `out`.
    """
    settings = setting.distill.model_copy(update={"seed": seed, "steps": max(milestones)})
    ledger = Ledger(out, _settings(setting))
    teacher, scheduler = load_unet(setting.teacher, setting.device), load_scheduler(setting.teacher)
    pictures = Pictures(setting)
    yield ledger.row(TEACHER, 0, 0, lambda: pictures.measured(teacher))
    unet, plan = prune(teacher, STUDENTS[student]), STUDENTS[student]
    pairs, last = feature_pairs(plan, settings.features), scheduler.config.num_train_timesteps
    learned, heldout = open_latents(setting.latents, setting.teacher, setting.device)
    loss, ema = Distillation(teacher, pairs, scheduler, settings), averaged(unet, settings)
    began = time.perf_counter()

    def measured(step: int) -> Row:
        seconds = time.perf_counter() - began
        with ema_weights(unet, ema if step else None):
            terms = evaluate_loss(unet, loss, heldout_batches(heldout, settings.batch_size, last))
            drawn = pictures.measured(unet) if step in drawn_at else {}
        return {"seconds": round(seconds, 1), **{name: terms[name] for name in (TASK, OUTPUT)}, **drawn}

    yield ledger.row(student, seed, 0, partial(measured, 0))
    batches, folder = training_batches(learned, settings.batch_size, settings, last), work / ledger.settings / student
    steps = train(
        unet,
        loss,
        batches,
        settings,
        folder=folder / str(seed),
        checkpoint_every=KEPT_EVERY,
        ema=ema,
        title=f"{student}, seed {seed}",
    )
    for step, _ in steps:
        if step in milestones:
            yield ledger.row(student, seed, step, partial(measured, step))


def _settings(setting: Setting) -> str:
    """Digest of what decides the rows: parameters of training but for its length, of drawing, data and teacher."""
    learned, drawn = setting.distill.model_dump(exclude={"steps", "seed", "storage"}), setting.benchmark
    return setting.digest(learned, drawn.prompts, drawn.sampling_kwargs)


class Pictures:
    """Pictures of scenes that nobody learned from, judged: composition claim by claim, and distance from real ones."""

    def __init__(self, setting: Setting):
        params, count = setting.benchmark, setting.benchmark.prompts
        self.vocabulary, self.drawing = setting.vocabulary, {"batch_size": params.batch_size, **params.sampling_kwargs}
        real = [render_sample(setting.vocabulary, UNSEEN, index) for index in range(2 * count)]
        self.prompts = [caption for caption, _ in real[:count]]
        self.pipeline = load_for_inference(setting.teacher, setting.device)
        self.others = self._features([picture for _, picture in real[count:]])

    def measured(self, unet: UNet2DConditionModel) -> Row:
        """{"composition", "kid": estimates; "verdicts": a "1" for each prompt whose claims are all true, else "0"}."""
        self.pipeline.unet = unet
        pictures = list(generate(self.pipeline, self.prompts, **self.drawing))
        found = right(pictures, self.prompts, self.vocabulary)
        return {
            "composition": estimate_fraction(sum(found), len(found)).to_report_dict(),
            "kid": measure_mmd(self._features(pictures), self.others, evaluate_cubic_kernel)
            .estimate()
            .to_report_dict(),
            "verdicts": "".join("01"[true] for true in found),
        }

    def _features(self, pictures: list[np.ndarray]) -> np.ndarray:
        vae = self.pipeline.vae
        mean, _ = raw_latents(vae, np.stack(pictures), batch_size=self.drawing["batch_size"])
        return pool_latents(mean * vae.config.scaling_factor)


def healing_settings(distill: Distill, learning_rate: float, ema_decay: float) -> Distill:
    """As `distill`, at a constant rate and with averaged weights, so that every milestone is of one training."""
    return distill.model_copy(update=CONSTANT | {"learning_rate": learning_rate, "ema_decay": ema_decay})
