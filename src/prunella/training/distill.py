"""Distillation: the pruned student learns from the teacher."""

from pathlib import Path

from prunella.compute.device import Placement
from prunella.latents.encoders import open_latents
from prunella.models.pipeline import load_scheduler, load_unet
from prunella.params import Distill
from prunella.pruning.mapping import feature_pairs
from prunella.pruning.plan import BESIDE, read_plan
from prunella.training.job import TrainingJob, run_job, state_folder
from prunella.training.losses import OUTPUT, Distillation
from prunella.training.observer import Observer
from prunella.training.validation import Data


def distill(
    params: Distill,
    *,
    teacher: Path,
    latents: Path,
    student: Path,
    out: Path,
    curves: Path,
    placement: Placement,
    checkpoint_every: int,
    observer: Observer | None = None,
) -> dict:
    """Teach the pruned `student` folder with the `teacher` folder; write the pipeline `out` and return the report."""
    pairs = tuple(feature_pairs(read_plan(student / "unet" / BESIDE), params.features))
    inputs = [student, latents / "manifest.json", teacher / "unet"]
    with state_folder("distill", params, inputs, continuable=continuable(params)) as work:
        unet, taught_by = load_unet(student, placement.device), load_unet(teacher, placement.device)
        job = TrainingJob(
            title="distill",
            unet=unet,
            loss=Distillation(taught_by, list(pairs), load_scheduler(teacher), params, compile=placement.compile),
            params=params,
            data=Data(*open_latents(latents, teacher, placement.device, params.precision)),
            student=student,
            placement=placement,
            decided_by=OUTPUT,
            checkpoint_every=checkpoint_every,
            teacher=taught_by,
            pairs=pairs,
        )
        return run_job(job, out=out, curves=curves, work=work, observer=observer)


def continuable(params: Distill) -> bool:
    """Whether a step does not depend on how many there are: a constant rate, and weights that are numbers."""
    weights = (params.task_weight, params.output_weight, params.feature_weight)
    return params.schedule == "constant" and not any(isinstance(weight, list) for weight in weights)
