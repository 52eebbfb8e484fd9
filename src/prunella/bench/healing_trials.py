"""What holds healing back: one change each of the long training of `prunella bench heal`, a training of its own."""

import time
from typing import Any

from prunella.bench.evidence import Row
from prunella.bench.healing import CONSTANT, Pictures
from prunella.bench.setting import Setting
from prunella.latents.encoders import open_latents
from prunella.models.pipeline import load_scheduler, load_unet
from prunella.pruning.mapping import feature_pairs
from prunella.pruning.plan import STUDENTS
from prunella.pruning.prune import prune
from prunella.training.data import heldout_batches, training_batches
from prunella.training.loop import averaged, ema_weights, train
from prunella.training.losses import OUTPUT, TASK, Distillation
from prunella.training.validate import evaluate_loss

TRIALS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "falling rate": {"lr_scheduler": "cosine", "ema_decay": 0.0},
    "half the rate": {"learning_rate": 1e-3},
    "no features": {"feature_weight": 0.0},
    "batches of 16": {"batch_size": 16},
}


def trial(setting: Setting, student: str, name: str, steps: int, seed: int) -> Row:
    """Train so; processor seconds and held-out errors, and where the setting asks for prompts what pictures show."""
    changes = CONSTANT | TRIALS[name] | {"steps": steps, "seed": seed}
    settings, plan = setting.distill.model_copy(update=changes), STUDENTS[student]
    teacher, scheduler = load_unet(setting.teacher, setting.device), load_scheduler(setting.teacher)
    last, unet = scheduler.config.num_train_timesteps, prune(teacher, plan)
    learned, heldout = open_latents(setting.latents, setting.teacher, setting.device)
    loss = Distillation(teacher, feature_pairs(plan, settings.features), scheduler, settings)
    batches, ema = training_batches(learned, settings.batch_size, settings, last), averaged(unet, settings)
    began = time.process_time()
    for _ in train(unet, loss, batches, settings, title=f"{student}, {name}, seed {seed}", ema=ema):
        pass
    seconds = time.process_time() - began
    with ema_weights(unet, ema):
        terms = evaluate_loss(unet, loss, heldout_batches(heldout, settings.batch_size, last))
        drawn = Pictures(setting).measured(unet) if setting.benchmark.prompts else {}
    return {**changes, "cpu_seconds": round(seconds, 1), **{each: terms[each] for each in (TASK, OUTPUT)}, **drawn}
