"""Distillation in phases: one training, at whose borders the student shrinks; teacher, rate and weights may change.

Steps run on over a border, and with them batches, noise, the schedule of the learning rate and the curves. The state
that crosses it is the state at its end: of every tensor that the next phase's student still has, the weight, its
moments and its average, none of which is begun anew. The state is put in the place of the one before, once and in one
piece, so a training that is killed on either side of a border goes on as if it had not been.
"""

import shutil
from itertools import accumulate
from pathlib import Path
from typing import Any

from diffusers import UNet2DConditionModel

from prunella.compute import distributed
from prunella.compute.device import Placement
from prunella.errors import UserError
from prunella.models.pipeline import build_meta_unet, load_unet
from prunella.params import Distill, LossWeights, Phase
from prunella.pruning.mapping import student_config
from prunella.pruning.plan import Plan
from prunella.pruning.progressive import weight_origins
from prunella.pruning.prune import prune
from prunella.pruning.succession import resolve_phase_plans
from prunella.pruning.within import keep_same_blocks
from prunella.training import checkpoint
from prunella.training.callback import TrainingCallback
from prunella.training.lesson import make_distillation_job
from prunella.training.loop import lr_multiplier
from prunella.training.metrics_log import MetricsLog
from prunella.training.phase_refs import PhaseRefs
from prunella.training.trainer import METRICS, run_job
from prunella.training.validation import BEST, BEST_AT_END, HELDOUT

PHASE_KEY = "phase"  # in a state at a border: the phase that it begins


def distill_in_phases(
    params: Distill,
    student_plan: Plan,
    phase_refs: PhaseRefs,
    *,
    teacher: Path,
    latents: Path,
    student: Path,
    placement: Placement,
    checkpoint_every: int,
    out: Path,
    curves: Path,
    work: Path,
    observer: TrainingCallback | None,
) -> dict:
    """Like `prunella.training.distill.distill`, phase after phase; `student_plan` is the plan of the `student` folder.

    The student's weights are `teacher`'s, whoever teaches. Raises UserError where the phases' plans do not follow from
    one another.
    """
    if missing_teachers := {phase.teacher for phase in params.phases if phase.teacher} - phase_refs.teachers.keys():
        raise UserError(f"distill.phases: teacher {min(missing_teachers)} is not pinned; `dvc repro phases` does that")
    plans, ends = (
        resolve_phase_plans(params.phases, student_plan, phase_refs.plans),
        list(accumulate(phase.steps for phase in params.phases)),
    )
    config = dict(UNet2DConditionModel.load_config(teacher / "unet"))
    accelerator, report = distributed.get_accelerator(placement.device), {}
    for number, (phase, plan, end) in enumerate(zip(params.phases, plans, ends, strict=True)):
        accelerator.wait_for_everyone()  # the first process may have waited for the folder, or crosses a border
        begin, last = end - phase.steps, end == params.steps
        if checkpoint.newest_step(work) >= end and not last:
            continue
        settings = phase_params(params, phase)
        if not begin:
            unet = load_unet(student) if keep_same_blocks(plan, student_plan) else prune(load_unet(teacher), plan)
        else:
            if accelerator.is_main_process:
                enter_phase(work, number, begin, make_tensor_map(config, plans[number - 1], plan), settings)
            accelerator.wait_for_everyone()
            unet = build_empty_student(config, plan).to_empty(device="cpu")  # its weights are in the state
        job = make_distillation_job(
            settings,
            unet.to(placement.device),
            plan,
            teacher=teacher,
            loss_teacher_dir=phase_refs.teachers[phase.teacher] if phase.teacher else None,
            latents=latents,
            student=student,
            placement=placement,
            checkpoint_every=checkpoint_every,
            title=f"distill, phase {number + 1} of {len(plans)}",
            stop_at_step=None if last else end,
            phase_ends=tuple(ends[:-1]),
        )
        report = run_job(job, out=out, curves=curves, work=work, observer=observer)
        del job, unet
    return report and report | {"phases": make_phase_reports(params, plans, config, work)}


def phase_params(params: Distill, phase: Phase) -> Distill:
    """The parameters of a phase: its own rate and weights, the others as they are; `steps` are those of the whole."""
    names = ("learning_rate", *LossWeights.model_fields)
    return params.model_copy(update={name: getattr(phase, name) for name in names})


def build_empty_student(config: dict[str, Any], plan: Plan) -> UNet2DConditionModel:
    """The student of a plan and a teacher with that UNet config, without weights."""
    return build_meta_unet(student_config(plan, config))


class TensorMap:
    """Two students, the second a part of the first: which of the first's tensors are the second's, in its order."""

    def __init__(self, before: UNet2DConditionModel, after: UNet2DConditionModel, outer: Plan, inner: Plan):
        self.tensors = weight_origins(inner, outer, list(after.state_dict()), list(before.state_dict()))
        places = {name: place for place, (name, _) in enumerate(before.named_parameters())}
        self.positions = [places[self.tensors[name]] for name, _ in after.named_parameters()]


def make_tensor_map(config: dict[str, Any], outer: Plan, inner: Plan) -> TensorMap:
    return TensorMap(build_empty_student(config, outer), build_empty_student(config, inner), outer, inner)


def enter_phase(work: Path, number: int, border_step: int, tensor_map: TensorMap, settings: Distill) -> None:
    """Make of the state that a phase has ended with the one that phase `number` begins with, unless that is done.

    The best weights so far are those of a larger student, and go.
    """
    if checkpoint.newest_step(work) != border_step:
        return
    state = checkpoint.load(work)
    if not state or state.get(PHASE_KEY) == number:
        return
    for folder in (BEST, BEST_AT_END):
        shutil.rmtree(work / folder, ignore_errors=True)
    checkpoint.save(work, border_step, slice_state(state, tensor_map, settings) | {PHASE_KEY: number})


def slice_state(state: dict[str, Any], tensor_map: TensorMap, settings: Distill) -> dict[str, Any]:
    """A state of `train` with what `tensor_map` keeps of its tensors, at the rate of `settings`."""
    optimizer, lr_scheduler, base = state["optimizer"], state["rates"], settings.learning_rate
    moments = optimizer["state"]
    (group,) = optimizer["param_groups"]
    current_lr = base * lr_multiplier(state["step"], settings)
    group = group | {"lr": current_lr, "initial_lr": base, "params": list(range(len(tensor_map.positions)))}
    changed = {
        "model": {name: state["model"][source_name] for name, source_name in tensor_map.tensors.items()},
        "optimizer": {
            "state": {ours: moments[theirs] for ours, theirs in enumerate(tensor_map.positions) if theirs in moments},
            "param_groups": [group],
        },
        "rates": lr_scheduler | {"base_lrs": [base], "_last_lr": [current_lr]},
    }
    if ema := state.get("ema"):
        changed["ema"] = ema | {"shadow_params": [ema["shadow_params"][place] for place in tensor_map.positions]}
    return state | changed


def make_phase_reports(params: Distill, plans: list[Plan], config: dict[str, Any], work: Path) -> dict[str, dict]:
    """For each phase, from "1" on, what it was and what its end measured."""
    rows = {row["step"]: row for row in MetricsLog(work / METRICS).rows(HELDOUT)}
    reports, done = {}, 0
    for number, (phase, plan) in enumerate(zip(params.phases, plans, strict=True), 1):
        done += phase.steps
        measured = {name: value for name, value in rows.get(done, {}).items() if name not in ("step", "split")}
        sizes = {"steps": phase.steps, "params": build_empty_student(config, plan).num_parameters()}
        reports[str(number)] = {"teacher": phase.teacher, "plan": plan.name, **sizes, "heldout": measured}
    return reports
