"""A short tournament of distillation: of students that err alike before training, which one recovers best?

That loss before training does not say how well a student recovers is TinyFusion's point (arXiv 2412.01199). Rounds
halve the field: after each, the half with the smaller held-out output error trains on.
"""

from collections.abc import Sequence
from pathlib import Path

from diffusers import DDPMScheduler, UNet2DConditionModel

from prunella.compute.launch import size
from prunella.latents.shards import Latents
from prunella.params import Distill, Planning, check
from prunella.params.validation import completed
from prunella.planning.importance import Error, OutputError
from prunella.pruning.plan import Plan
from prunella.pruning.prune import prune
from prunella.storage.files import json_digest
from prunella.training.data import training_batches
from prunella.training.loop import train
from prunella.training.losses import Distillation

# The plainest training there is: towards the teacher's output alone, at a constant rate, so that rounds add up.
PLAIN = {
    "task_weight": 0.0,
    "output_weight": 1.0,
    "feature_weight": 0.0,
    "features": None,
    "feature_normalisation": "none",
    "accumulation": 1,
    "optimizer": "adamw",
    "warmup_steps": 0,
    "schedule": "constant",
    "weight_decay": 0.0,
    "clip_norm": 1.0,
    "ema_decay": 0.0,
    "snr_gamma": None,
    "noise_offset": 0.0,
    "caption_dropout": 0.0,
    "gradient_checkpointing": False,
    "storage": "fp32",
}


def settings(params: Planning, steps: int) -> Distill:
    """The training of a student up to `steps`."""
    shared = params.model_dump(include={"batch_size", "learning_rate", "precision", "seed"})
    return check(Distill, completed("distill", PLAIN | shared | {"steps": steps, "evaluate_every": steps}), "plan")


def fields(finalists: int, rounds: int) -> list[int]:
    """How many students train in each round; one alone has won."""
    found = []
    for _ in range(rounds):
        if finalists > 1:
            found.append(finalists)
            finalists = (finalists + 1) // 2
    return found


def tournament(
    params: Planning,
    finalists: Sequence[Plan],
    teacher: UNet2DConditionModel,
    scheduler: DDPMScheduler,
    latents: Latents,
    measure: OutputError,
    work: Path,
) -> list[list[Error]]:
    """Each finalist's errors after the rounds that it took part in. The winner has most, of equals the least error."""
    found: list[list[Error]] = [[] for _ in finalists]
    field = list(range(len(finalists)))
    for done, count in enumerate(fields(len(finalists), params.rounds), 1):
        now = settings(params, params.steps * done)
        for number in field[:count]:
            found[number].append(_after(now, finalists[number], teacher, scheduler, latents, measure, work))
        field = sorted(field[:count], key=lambda number: found[number][-1].mean)
    return found


def _after(
    now: Distill,
    plan: Plan,
    teacher: UNet2DConditionModel,
    scheduler: DDPMScheduler,
    latents: Latents,
    measure: OutputError,
    work: Path,
) -> Error:
    """The error of a student that has trained so long, going on from the round before."""
    student = prune(teacher, plan)
    batches = training_batches(latents, now.batch_size // size(), now, scheduler.config.num_train_timesteps)
    known = now.model_dump(exclude={"steps", "evaluate_every"})
    folder = work / "tournament" / json_digest([plan.model_dump(include={"down", "mid", "up", "layers"}), known])
    loss = Distillation(teacher, [], scheduler, now)
    for _ in train(student, loss, batches, now, folder=folder, title="tournament"):
        pass
    return measure.trained(student.eval())
