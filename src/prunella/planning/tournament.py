"""A short tournament of distillation: of students that err alike before training, which one recovers best?

The point that loss before training does not say how well a student recovers is TinyFusion's point (arXiv 2412.01199).
Rounds halve the field: after each, the half with the smaller held-out output error trains on.
"""

from collections.abc import Sequence
from pathlib import Path

from diffusers import DDPMScheduler, UNet2DConditionModel

from prunella.compute.launch import world_size
from prunella.latents.shards import LatentDataset
from prunella.params import Distill, PlanSearch, validate_config
from prunella.params.validation import fill_section
from prunella.planning.importance import ErrorStats, OutputError
from prunella.pruning.plan import Plan
from prunella.pruning.prune import prune
from prunella.storage.files import json_digest
from prunella.training.data import make_training_batches
from prunella.training.loop import train
from prunella.training.losses import DistillationLoss

# The plainest training there is: towards the teacher's output alone, at a constant rate, so that rounds add up.
PLAIN_DISTILLATION = {
    "task_weight": 0.0,
    "output_weight": 1.0,
    "feature_weight": 0.0,
    "features": None,
    "feature_normalization": "none",
    "gradient_accumulation_steps": 1,
    "optimizer": "adamw",
    "lr_warmup_steps": 0,
    "lr_scheduler": "constant",
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "ema_decay": 0.0,
    "snr_gamma": None,
    "noise_offset": 0.0,
    "caption_dropout": 0.0,
    "gradient_checkpointing": False,
    "storage": "fp32",
}


def tournament_settings(params: PlanSearch, steps: int) -> Distill:
    """The training of a student up to `steps`."""
    shared = params.model_dump(include={"batch_size", "learning_rate", "precision", "seed"})
    return validate_config(
        Distill,
        fill_section("distill", PLAIN_DISTILLATION | shared | {"steps": steps, "evaluate_every": steps}),
        "plan",
    )


def bracket_sizes(num_finalists: int, num_rounds: int) -> list[int]:
    """How many students train in each round; one alone has won."""
    sizes = []
    for _ in range(num_rounds):
        if num_finalists > 1:
            sizes.append(num_finalists)
            num_finalists = (num_finalists + 1) // 2
    return sizes


def run_tournament(
    params: PlanSearch,
    finalists: Sequence[Plan],
    teacher_unet: UNet2DConditionModel,
    scheduler: DDPMScheduler,
    latents: LatentDataset,
    output_error: OutputError,
    run_dir: Path,
) -> list[list[ErrorStats]]:
    """Each finalist's errors after the rounds that it took part in. The winner has most, of equals the least error."""
    errors: list[list[ErrorStats]] = [[] for _ in finalists]
    remaining = list(range(len(finalists)))
    for round_number, count in enumerate(bracket_sizes(len(finalists), params.tournament_rounds), 1):
        round_settings = tournament_settings(params, params.steps * round_number)
        for finalist in remaining[:count]:
            errors[finalist].append(
                _train_round(
                    round_settings, finalists[finalist], teacher_unet, scheduler, latents, output_error, run_dir
                )
            )
        remaining = sorted(remaining[:count], key=lambda finalist: errors[finalist][-1].mean)
    return errors


def _train_round(
    round_settings: Distill,
    plan: Plan,
    teacher_unet: UNet2DConditionModel,
    scheduler: DDPMScheduler,
    latents: LatentDataset,
    output_error: OutputError,
    run_dir: Path,
) -> ErrorStats:
    """The error of a student that has trained so long, going on from the round before."""
    student = prune(teacher_unet, plan)
    batches = make_training_batches(
        latents, round_settings.batch_size // world_size(), round_settings, scheduler.config.num_train_timesteps
    )
    identity = round_settings.model_dump(exclude={"steps", "evaluate_every"})
    checkpoint_dir = (
        run_dir / "tournament" / json_digest([plan.model_dump(include={"down", "mid", "up", "layers"}), identity])
    )
    loss = DistillationLoss(teacher_unet, [], scheduler, round_settings)
    for _ in train(student, loss, batches, round_settings, folder=checkpoint_dir, title="tournament"):
        pass
    return output_error.measure_student(student.eval())
