"""Students by their plans, trained and measured alike: does a choice before training hold after it?

One JSON line a student and seed, appended as soon as it is known; what is there is not trained again.
"""

import math
import time
from pathlib import Path

from scipy.stats import spearmanr

from prunella.bench.every_plan import encode_plan
from prunella.bench.evidence import add_row, read_rows
from prunella.bench.setting import ExperimentSetting
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
from prunella.training.data import iter_heldout_batches, make_training_batches
from prunella.training.loop import train
from prunella.training.losses import DistillationLoss

PROMPTS_SEED = 400  # a series of captions of its own, apart from the filter's


def train_plans(setting: ExperimentSetting, plans: dict[str, Plan], seeds: list[int], out: Path) -> list[dict]:
    """The rows of the plans and seeds; what `out` lacks is appended, seed by seed: an early end leaves whole seeds."""
    selected_rows: list[dict] = []
    for seed in seeds:
        for name, plan in plans.items():
            identity = {
                "plan": encode_plan(plan),
                "steps": setting.distill.steps,
                "seed": seed,
                "prompts": setting.benchmark.prompts,
            }
            if existing_rows := [row for row in read_rows(out) if identity.items() <= row.items()]:
                selected_rows.append(existing_rows[0])
                continue
            row = {"name": name, **identity, **train_and_measure_plan(setting, plan, seed)}
            add_row(out, row)
            selected_rows.append(row)
            print({key: value for key, value in row.items() if key != "right"}, flush=True)
    return selected_rows


def correlate_errors(rows: list[dict]) -> dict[str, float]:
    """{"plans", "rank", "low", "high"}: Spearman's correlation of errors before and after training, 95 % interval.

    The interval is Fisher's with Fieller's variance of ranks, 1.06 / (n - 3). Raises UserError for fewer than 5 plans.
    """
    if len(rows) < 5:
        raise UserError(f"a rank correlation is asked of {len(rows)} plans; give five or more")
    rank = float(spearmanr([row["before"] for row in rows], [row["after"]["value"] for row in rows]).statistic)
    margin = 1.96 * math.sqrt(1.06 / (len(rows) - 3))
    low, high = (math.tanh(math.atanh(min(max(rank, -0.999999), 0.999999)) + side * margin) for side in (-1, 1))
    return {"plans": len(rows), "rank": rank, "low": low, "high": high}


def train_and_measure_plan(setting: ExperimentSetting, plan: Plan, seed: int) -> dict:
    """Output errors before and after, with the interval over held-out pairs, and which pictures came out right."""
    teacher_unet, scheduler = load_unet(setting.teacher_dir, setting.device), load_scheduler(setting.teacher_dir)
    num_train_timesteps = scheduler.config.num_train_timesteps
    settings = setting.distill.model_copy(update={"seed": seed})
    train_latents, heldout_latents = open_latents(setting.latents_dir, setting.teacher_dir, setting.device)
    batches = iter_heldout_batches(heldout_latents, settings.batch_size, num_train_timesteps)
    output_error = OutputError(teacher_unet, plan.family, scheduler, batches, Path())
    student_unet, block_pairs = prune(teacher_unet, plan), feature_pairs(plan, settings.features)
    error_before = output_error.measure_student(student_unet).mean
    run_dir = work_root() / "bench" / json_digest([encode_plan(plan), settings.model_dump()])
    start_time = time.perf_counter()
    for _ in train(
        student_unet,
        DistillationLoss(teacher_unet, block_pairs, scheduler, settings),
        make_training_batches(train_latents, settings.batch_size, settings, num_train_timesteps),
        settings,
        folder=run_dir,
        checkpoint_every=50,
        title=f"{plan.name} seed {seed}",
    ):
        pass
    seconds = time.perf_counter() - start_time
    student_unet.eval()
    error_after = estimate_mean(output_error.per_sample_errors(student_unet)).to_report_dict()
    prompts = [make_caption(setting.vocabulary, PROMPTS_SEED, number) for number in range(setting.benchmark.prompts)]
    return {
        "params": student_unet.num_parameters(),
        "macs": count_macs(dict(student_unet.config))["macs"],
        "seconds": round(seconds),
        "before": error_before,
        "after": error_after,
        "right": "".join("01"[is_correct] for is_correct in setting.judge_generated_images(student_unet, prompts))
        if prompts
        else "",
    }
