"""Distillation: the pruned student learns from the teacher."""

from pathlib import Path
from typing import Any

from prunella.compute.device import Placement
from prunella.models.pipeline import load_unet
from prunella.params import Distill
from prunella.pruning.plan import PLAN_FILE, read_plan
from prunella.training.callback import TrainingCallback
from prunella.training.lesson import make_distillation_job
from prunella.training.phase_refs import read_phase_refs
from prunella.training.phases import distill_in_phases
from prunella.training.trainer import open_training_dir, run_job


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
    observer: TrainingCallback | None = None,
    phases: Path | None = None,
) -> dict:
    """Teach the pruned `student` folder with the `teacher` folder; write the pipeline `out` and return the report.

    `phases` holds the plans and further teachers that the phases name, as `prunella.training.phase_refs` writes it;
    without it plans are looked up.
    """
    plan, inputs = read_plan(student / "unet" / PLAN_FILE), [student, latents / "manifest.json", teacher / "unet"]
    if params.phases and phases:
        inputs.append(phases)
    start_inputs: dict[str, Any] = {"teacher": teacher, "latents": latents, "student": student, "placement": placement}
    start_inputs |= {"checkpoint_every": checkpoint_every}
    with open_training_dir("distill", params, inputs, continuable=is_continuable(params)) as work:
        paths: dict[str, Any] = {"out": out, "curves": curves, "work": work, "observer": observer}
        if params.phases:
            return distill_in_phases(params, plan, read_phase_refs(phases), **start_inputs, **paths)
        unet = load_unet(student, placement.device)
        job = make_distillation_job(params, unet, plan, title="distill", **start_inputs)
        return run_job(job, **paths)


def is_continuable(params: Distill) -> bool:
    """Whether a step does not depend on how many there are: a constant rate, and weights that are numbers."""
    weights = (params.task_weight, params.output_weight, params.feature_weight)
    return (
        params.lr_scheduler == "constant" and not params.phases and not any(isinstance(each, list) for each in weights)
    )
