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
from prunella.training.losses import OUTPUT, Distillation
from prunella.training.trainer import TrainingJob
from prunella.training.validation import Data


def lesson(
    params: Distill,
    unet: UNet2DConditionModel,
    plan: Plan,
    *,
    teacher: Path,
    taught_by: Path | None = None,
    latents: Path,
    student: Path,
    placement: Placement,
    checkpoint_every: int,
    **more: Any,
) -> TrainingJob:
    """The training of `unet`, the student of `plan`, by the pipeline folder `taught_by` (None: by `teacher`).

    `student` is the folder that its other parts are of; `teacher` made the latents; `more` are fields of the job.
    """
    taught_by = taught_by or teacher
    shown = load_unet(taught_by, placement.device)
    pairs = tuple(feature_pairs(plan, params.features, shown.config))
    return TrainingJob(
        unet=unet,
        loss=Distillation(shown, list(pairs), load_scheduler(taught_by), params, compile=placement.compile),
        params=params,
        data=Data(*open_latents(latents, teacher, placement.device, params.precision)),
        student=student,
        placement=placement,
        decided_by=OUTPUT,
        checkpoint_every=checkpoint_every,
        teacher=shown,
        pairs=pairs,
        **more,
    )
