"""A student and the teacher that it learns from, as a training: what all of a distillation and a phase of it share."""

from pathlib import Path
from typing import Any

from diffusers import UNet2DConditionModel

from prunella.compute.device import Placement
from prunella.latents.encoders import open_latents
from prunella.models.pipeline import load_scheduler, load_unet
from prunella.params import Distill
from prunella.pruning.mapping import feature_pairs
from prunella.pruning.plan import Plan
from prunella.training.losses import OUTPUT, DistillationLoss
from prunella.training.trainer import TrainingJob
from prunella.training.validation import TrainingData


def make_distillation_job(
    params: Distill,
    unet: UNet2DConditionModel,
    plan: Plan,
    *,
    teacher: Path,
    loss_teacher_dir: Path | None = None,
    latents: Path,
    student: Path,
    placement: Placement,
    checkpoint_every: int,
    **job_fields: Any,
) -> TrainingJob:
    """The training of `unet`, the student of `plan`, by the pipeline folder `loss_teacher_dir` (None: by `teacher`).

    `student` is the folder that its other parts are of; `teacher` made the latents; `job_fields` are fields of the job.
    """
    loss_teacher_dir = loss_teacher_dir or teacher
    teacher_unet = load_unet(loss_teacher_dir, placement.device)
    pairs = tuple(feature_pairs(plan, params.features, teacher_unet.config))
    return TrainingJob(
        unet=unet,
        loss=DistillationLoss(
            teacher_unet, list(pairs), load_scheduler(loss_teacher_dir), params, compile=placement.compile
        ),
        params=params,
        data=TrainingData(*open_latents(latents, teacher, placement.device, params.precision)),
        student=student,
        placement=placement,
        monitor=OUTPUT,
        checkpoint_every=checkpoint_every,
        teacher=teacher_unet,
        pairs=pairs,
        **job_fields,
    )
