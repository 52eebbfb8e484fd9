"""Distillation: the pruned student learns from the teacher."""

from pathlib import Path
from typing import Any

from prunella.compute.device import Placement
from prunella.models.pipeline import load_unet
from prunella.params import Distill
from prunella.pruning.plan import PLAN_FILE, read_plan
from prunella.training.callback import Observer
from prunella.training.lesson import lesson
from prunella.training.phase_refs import read_named
from prunella.training.phases import taught_in_phases
from prunella.training.trainer import run_job, state_folder


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
    phases: Path | None = None,
) -> dict:
    """Teach the pruned `student` folder with the `teacher` folder; write the pipeline `out` and return the report.

    `phases` holds the plans and further teachers that the phases name, as `prunella.training.phase_refs` writes it;
    without it plans are looked up.
    """
    plan, inputs = read_plan(student / "unet" / PLAN_FILE), [student, latents / "manifest.json", teacher / "unet"]
    if params.phases and phases:
        inputs.append(phases)
    given: dict[str, Any] = {"teacher": teacher, "latents": latents, "student": student, "placement": placement}
    given |= {"checkpoint_every": checkpoint_every}
    with state_folder("distill", params, inputs, continuable=continuable(params)) as work:
        paths: dict[str, Any] = {"out": out, "curves": curves, "work": work, "observer": observer}
        if params.phases:
            return taught_in_phases(params, plan, read_named(phases), **given, **paths)
        unet = load_unet(student, placement.device)
        job = lesson(params, unet, plan, title="distill", **given)
        return run_job(job, **paths)


def continuable(params: Distill) -> bool:
    """Whether a step does not depend on how many there are: a constant rate, and weights that are numbers."""
    weights = (params.task_weight, params.output_weight, params.feature_weight)
    return (
        params.lr_scheduler == "constant" and not params.phases and not any(isinstance(each, list) for each in weights)
    )
