"""Causes that hold healing back: one change each of the long training of `prunella bench heal`, a training of its
own."""

import time
from typing import Any

from prunella.bench.evidence import EvidenceRow
from prunella.bench.healing import CONSTANT_RATE_SETTINGS, SceneImageEvaluator
from prunella.bench.setting import ExperimentSetting
from prunella.latents.encoders import open_latents
from prunella.models.pipeline import load_scheduler, load_unet
from prunella.pruning.mapping import feature_pairs
from prunella.pruning.plan import STUDENTS
from prunella.pruning.prune import prune
from prunella.training.data import iter_heldout_batches, make_training_batches
from prunella.training.loop import ema_weights, make_ema, train
from prunella.training.losses import OUTPUT, TASK, DistillationLoss
from prunella.training.validate import evaluate_loss

TRIALS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "falling rate": {"lr_scheduler": "cosine", "ema_decay": 0.0},
    "half the rate": {"learning_rate": 1e-3},
    "no features": {"feature_weight": 0.0},
    "batches of 16": {"batch_size": 16},
}


def run_healing_trial(setting: ExperimentSetting, student_name: str, name: str, steps: int, seed: int) -> EvidenceRow:
    """Train so; processor seconds and held-out errors, and where the setting asks for prompts what pictures show."""
    changes = CONSTANT_RATE_SETTINGS | TRIALS[name] | {"steps": steps, "seed": seed}
    settings, plan = setting.distill.model_copy(update=changes), STUDENTS[student_name]
    teacher_unet, scheduler = load_unet(setting.teacher_dir, setting.device), load_scheduler(setting.teacher_dir)
    num_train_timesteps, student_unet = scheduler.config.num_train_timesteps, prune(teacher_unet, plan)
    train_latents, heldout_latents = open_latents(setting.latents_dir, setting.teacher_dir, setting.device)
    loss = DistillationLoss(teacher_unet, feature_pairs(plan, settings.features), scheduler, settings)
    batches, ema = (
        make_training_batches(train_latents, settings.batch_size, settings, num_train_timesteps),
        make_ema(student_unet, settings),
    )
    start_time = time.process_time()
    for _ in train(student_unet, loss, batches, settings, title=f"{student_name}, {name}, seed {seed}", ema=ema):
        pass
    seconds = time.process_time() - start_time
    with ema_weights(student_unet, ema):
        terms = evaluate_loss(
            student_unet, loss, iter_heldout_batches(heldout_latents, settings.batch_size, num_train_timesteps)
        )
        image_metrics = SceneImageEvaluator(setting).measure_images(student_unet) if setting.benchmark.prompts else {}
    return {
        **changes,
        "cpu_seconds": round(seconds, 1),
        **{term: terms[term] for term in (TASK, OUTPUT)},
        **image_metrics,
    }
