"""Students by their plans, trained and measured alike: does a choice before training hold after it?

One JSON line a student and seed, appended as soon as it is known; what is there is not trained again.
"""

import time
from pathlib import Path

from prunella.bench.every_plan import code
from prunella.bench.evidence import add_row, read_rows
from prunella.bench.setting import Setting
from prunella.compute.workdir import work_root
from prunella.evaluation.cost import macs
from prunella.evaluation.stats import mean
from prunella.files import json_digest
from prunella.latents.encoders import open_latents
from prunella.models.pipeline import load_scheduler, load_unet
from prunella.planning.importance import OutputError
from prunella.pruning.mapping import feature_pairs
from prunella.pruning.plan import Plan
from prunella.pruning.prune import prune
from prunella.scenes.generator import caption
from prunella.training.batch import heldout_batches, training_batches
from prunella.training.loop import train
from prunella.training.losses import Distillation

PROMPTS_SEED = 400  # a series of captions of its own, apart from the filter's


def train_plans(setting: Setting, plans: dict[str, Plan], seeds: list[int], out: Path) -> None:
    """Append a row for each plan and seed that `out` lacks; seed by seed, so that an early end leaves whole seeds."""
    for seed in seeds:
        for name, plan in plans.items():
            identity = {
                "plan": code(plan),
                "steps": setting.distill.steps,
                "seed": seed,
                "prompts": setting.benchmark.prompts,
            }
            if any(identity.items() <= row.items() for row in read_rows(out)):
                continue
            row = {"name": name, **identity, **trained(setting, plan, seed)}
            add_row(out, row)
            print({key: value for key, value in row.items() if key != "right"}, flush=True)


def trained(setting: Setting, plan: Plan, seed: int) -> dict:
    """Output errors before and after, with the interval over held-out pairs, and which pictures came out right."""
    teacher, scheduler = load_unet(setting.teacher, setting.device), load_scheduler(setting.teacher)
    last = scheduler.config.num_train_timesteps
    settings = setting.distill.model_copy(update={"seed": seed})
    learned, heldout = open_latents(setting.latents, setting.teacher, setting.device)
    batches = heldout_batches(heldout, settings.batch_size, last)
    measure = OutputError(teacher, plan.family, scheduler, batches, Path())
    student, pairs = prune(teacher, plan), feature_pairs(plan, settings.features)
    before = measure.trained(student).mean
    folder = work_root() / "bench" / json_digest([code(plan), settings.model_dump()])
    began = time.perf_counter()
    for _ in train(
        student,
        Distillation(teacher, pairs, scheduler, settings),
        training_batches(learned, settings.batch_size, settings, last),
        settings,
        folder=folder,
        checkpoint_every=50,
        title=f"{plan.name} seed {seed}",
    ):
        pass
    seconds = time.perf_counter() - began
    student.eval()
    errors = mean(measure.errors(student)).rounded()
    prompts = [caption(setting.vocabulary, PROMPTS_SEED, number) for number in range(setting.benchmark.prompts)]
    return {
        "params": student.num_parameters(),
        "macs": macs(dict(student.config))["macs"],
        "seconds": round(seconds),
        "before": before,
        "after": errors,
        "right": "".join("01"[true] for true in setting.drawn_right(student, prompts)) if prompts else "",
    }
