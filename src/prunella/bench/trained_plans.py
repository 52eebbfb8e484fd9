"""Students by their plans, trained and measured alike: does a choice before training hold after it?

One JSON line a student and seed, appended as soon as it is known; what is there is not trained again.
"""

import math
import time
from pathlib import Path

from scipy.stats import spearmanr

from prunella.bench.every_plan import code
from prunella.bench.evidence import add_row, read_rows
from prunella.bench.setting import Setting
from prunella.compute.resume import work_root
from prunella.errors import UserError
from prunella.latents.encoders import open_latents
from prunella.models.pipeline import load_scheduler, load_unet
from prunella.planning.importance import OutputError
from prunella.profiling.cost import count_macs
from prunella.pruning.mapping import feature_pairs
from prunella.pruning.plan import Plan
from prunella.pruning.prune import prune
from prunella.scenes.generator import make_caption
from prunella.stats import estimate_mean
from prunella.storage.files import json_digest
from prunella.training.data import heldout_batches, training_batches
from prunella.training.loop import train
from prunella.training.losses import Distillation

PROMPTS_SEED = 400  # a series of captions of its own, apart from the filter's


def train_plans(setting: Setting, plans: dict[str, Plan], seeds: list[int], out: Path) -> list[dict]:
    """The rows of the plans and seeds; what `out` lacks is appended, seed by seed: an early end leaves whole seeds."""
    asked: list[dict] = []
    for seed in seeds:
        for name, plan in plans.items():
            identity = {
                "plan": code(plan),
                "steps": setting.distill.steps,
                "seed": seed,
                "prompts": setting.benchmark.prompts,
            }
            if known := [row for row in read_rows(out) if identity.items() <= row.items()]:
                asked.append(known[0])
                continue
            row = {"name": name, **identity, **trained(setting, plan, seed)}
            add_row(out, row)
            asked.append(row)
            print({key: value for key, value in row.items() if key != "right"}, flush=True)
    return asked


def foretold(rows: list[dict]) -> dict[str, float]:
    """{"plans", "rank", "low", "high"}: Spearman's correlation of errors before and after training, 95 % interval.

    The interval is Fisher's with Fieller's variance of ranks, 1.06 / (n - 3). Raises UserError for fewer than 5 plans.
    """
    if len(rows) < 5:
        raise UserError(f"a rank correlation is asked of {len(rows)} plans; give five or more")
    rank = float(spearmanr([row["before"] for row in rows], [row["after"]["value"] for row in rows]).statistic)
    half = 1.96 * math.sqrt(1.06 / (len(rows) - 3))
    low, high = (math.tanh(math.atanh(min(max(rank, -0.999999), 0.999999)) + side * half) for side in (-1, 1))
    return {"plans": len(rows), "rank": rank, "low": low, "high": high}


def trained(setting: Setting, plan: Plan, seed: int) -> dict:
    """Output errors before and after, with the interval over held-out pairs, and which pictures came out right."""
    teacher, scheduler = load_unet(setting.teacher, setting.device), load_scheduler(setting.teacher)
    last = scheduler.config.num_train_timesteps
    settings = setting.distill.model_copy(update={"seed": seed})
    learned, heldout = open_latents(setting.latents, setting.teacher, setting.device)
    batches = heldout_batches(heldout, settings.batch_size, last)
    measure = OutputError(teacher, plan.family, scheduler, batches, Path())
    student, pairs = prune(teacher, plan), feature_pairs(plan, settings.features)
    before = measure.measure_student(student).mean
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
    errors = estimate_mean(measure.per_sample_errors(student)).to_report_dict()
    prompts = [make_caption(setting.vocabulary, PROMPTS_SEED, number) for number in range(setting.benchmark.prompts)]
    return {
        "params": student.num_parameters(),
        "macs": count_macs(dict(student.config))["macs"],
        "seconds": round(seconds),
        "before": before,
        "after": errors,
        "right": "".join("01"[true] for true in setting.drawn_right(student, prompts)) if prompts else "",
    }
