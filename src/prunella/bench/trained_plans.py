"""Students by their plans, trained and measured alike: does a choice before training hold after it?

One JSON line a student and seed, appended as soon as it is known; what is there is not trained again.
"""

import json
import time
from pathlib import Path
from typing import NamedTuple

import torch

from prunella.bench.every_plan import code
from prunella.compute.workdir import work_root
from prunella.errors import UserError
from prunella.evaluation.cost import macs
from prunella.evaluation.drawing import draw
from prunella.evaluation.stats import mean
from prunella.files import json_digest
from prunella.latents.encoders import open_latents
from prunella.models.pipeline import load_pipeline, load_scheduler, load_unet
from prunella.params import Benchmark, Distill
from prunella.planning.importance import OutputError
from prunella.pruning.mapping import feature_pairs
from prunella.pruning.plan import Plan
from prunella.pruning.prune import prune
from prunella.scenes.generator import Vocabulary, caption
from prunella.scenes.judge import judge
from prunella.training.batch import heldout_batches, training_batches
from prunella.training.loop import train
from prunella.training.losses import Distillation

PROMPTS_SEED = 400  # a series of captions of its own, apart from the filter's


class Setting(NamedTuple):
    """What all students share."""

    distill: Distill
    benchmark: Benchmark
    teacher: Path
    latents: Path
    vocabulary: Vocabulary
    device: str
    prompts: int  # pictures drawn of each; 0: none


def train_plans(setting: Setting, plans: dict[str, Plan], seeds: list[int], out: Path) -> None:
    """Append a row for each plan and seed that `out` lacks; seed by seed, so that an early end leaves whole seeds."""
    for seed in seeds:
        for name, plan in plans.items():
            identity = {"plan": code(plan), "steps": setting.distill.steps, "seed": seed, "prompts": setting.prompts}
            if any(identity.items() <= row.items() for row in rows(out)):
                continue
            row = {"name": name, **identity, **trained(setting, plan, seed)}
            out.parent.mkdir(parents=True, exist_ok=True)
            with out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print({key: value for key, value in row.items() if key != "right"}, flush=True)


def rows(path: Path) -> list[dict]:
    """What is known already. Raises UserError where a line is not whole."""
    if not path.is_file():
        return []
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except ValueError as error:
        raise UserError(f"{path}: a line is no JSON ({error}); remove it") from None


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
    return {
        "params": student.num_parameters(),
        "macs": macs(dict(student.config))["macs"],
        "seconds": round(seconds),
        "before": before,
        "after": errors,
        "right": right(setting, student),
    }


def right(setting: Setting, student: torch.nn.Module | None = None) -> str:
    """A letter a prompt: 1 where every claim of its caption is true of the picture. None draws the teacher's."""
    prompts = [caption(setting.vocabulary, PROMPTS_SEED, number) for number in range(setting.prompts)]
    if not prompts:
        return ""
    unet = {} if student is None else {"unet": student}
    pipeline = load_pipeline(setting.teacher, setting.device, **unet)
    pictures = draw(pipeline, prompts, batch_size=setting.benchmark.batch_size, **setting.benchmark.drawing)
    verdicts = (
        judge(picture, prompt, setting.vocabulary) or {} for picture, prompt in zip(pictures, prompts, strict=True)
    )
    return "".join(str(int(bool(verdict) and all(verdict.values()))) for verdict in verdicts)
