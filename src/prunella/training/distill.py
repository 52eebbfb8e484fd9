"""Distillation: the pruned student learns from the teacher."""

from pathlib import Path

from prunella.compute.device import Placement, placed
from prunella.compute.launch import rank
from prunella.compute.workdir import identity, resume_dir
from prunella.latents.encoders import open_latents
from prunella.models.pipeline import load_scheduler, load_unet
from prunella.params import Distill
from prunella.pruning.mapping import feature_pairs
from prunella.pruning.plan import BESIDE, read_plan
from prunella.training.job import ROOMS, TrainingJob, adopt_shorter, deciding, run_job
from prunella.training.losses import OUTPUT, Distillation
from prunella.training.observer import NoObserver, Observer
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
    ours = identity(deciding(params), [student, latents / "manifest.json", teacher / "unet"], ROOMS)
    with resume_dir("distill", ours, first=rank() == 0) as work:
        if rank() == 0 and continuable(params):
            adopt_shorter("distill", work, ours)
        unet, taught_by = load_unet(student, placement.device), load_unet(teacher, placement.device)
        job = TrainingJob(
            title="distill",
            unet=unet,
            loss=Distillation(taught_by, list(pairs), load_scheduler(teacher), params),
            params=params,
            data=Data(*open_latents(latents, teacher, placement.device)),
            student=student,
            placement=placement,
            decided_by=OUTPUT,
            checkpoint_every=checkpoint_every,
            teacher=taught_by,
            pairs=pairs,
        )
        with (
            placed(taught_by, [pair.teacher for pair in pairs], placement),
            placed(unet, [pair.student for pair in pairs], placement),
        ):
            return run_job(job, out=out, curves=curves, work=work, observer=observer or NoObserver())


def continuable(params: Distill) -> bool:
    """Whether a step does not depend on how many there are: a constant rate, and weights that are numbers."""
    weights = (params.task_weight, params.output_weight, params.feature_weight)
    return params.schedule == "constant" and not any(isinstance(weight, list) for weight in weights)
