"""A student that chooses itself: importance, the exact choice, the best measured together, a tournament.

The plan follows from the teacher, the held-out pairs, the parameters and, where milliseconds are asked for, the table
of latencies. Everything measured on the way is kept in work/, so that what was killed goes on, and the plan comes out
the same.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from prunella.compute.launch import rank, world_size
from prunella.compute.resume import DONE_FILE, compute_identity, digest_code, open_run_dir
from prunella.errors import UserError
from prunella.latents.encoders import open_latents
from prunella.models.families import FAMILIES
from prunella.models.pipeline import load_scheduler, load_unet
from prunella.params import PlanRequest, PlanSearch
from prunella.planning import latency
from prunella.planning.compatibility import compatibility_notes
from prunella.planning.constraints import filter_units, format_cost, resolve_budget
from prunella.planning.cost_model import CostTable, count_costs, list_kept_modules
from prunella.planning.importance import NUM_TIMESTEP_BINS, ErrorStats, OutputError
from prunella.planning.solver import Candidate, RemovedUnits, find_smallest_student, removable_levels, solve_candidates
from prunella.planning.tournament import bracket_sizes, run_tournament
from prunella.planning.units import DropDeepest, Unit, full_plan, list_units, plan_without
from prunella.pruning.layout import require_full_family
from prunella.pruning.plan import STUDENTS, Plan
from prunella.storage.files import atomic_write_text, read_json
from prunella.training.data import iter_heldout_batches

CODE_DEPS = ("compute", "latents", "models", "planning", "pruning", "training")
CURVE_POINTS = 8  # points of the curve of quality against size
PASSES_PER_STEP = 4.0  # forward passes that a training step is worth: the teacher's, the student's, and back


class SearchSpace(NamedTuple):
    """Removable units, their savings, and the budget."""

    family: str
    units: list[Unit]
    cost_tables: dict[str, CostTable]  # params, macs; ms where they are measured
    budget_unit: str  # the budget is of
    budget: float

    @property
    def num_stages(self) -> int:
        return len(FAMILIES[self.family].down_block_types)

    def cost(self, removed_units: RemovedUnits) -> float:
        return self.cost_tables[self.budget_unit].cost_of_plan(plan_without(self.family, removed_units))

    def costs(self, plan: Plan) -> dict[str, float]:
        return {cost_unit: cost_table.cost_of_plan(plan) for cost_unit, cost_table in self.cost_tables.items()}


def build_search_space(
    name: str,
    plan_request: PlanRequest,
    config: dict[str, Any],
    latency_table: Path,
    latent_size: tuple[int, int],
    table_settings: dict[str, Any],
) -> SearchSpace:
    """For a teacher with this UNet config. Raises UserError where the wishes do not fit it, before anything is
    measured.

    `latency_table` has latencies, `table_settings` what it must belong to.
    """
    family, (budget_unit,) = require_full_family(config, f"plan.students.{name}"), plan_request.budget
    all_units = list_units(family, config, plan_request.attention)
    removable_units = filter_units(all_units, plan_request.keep, family)
    cost_tables = count_costs(family, config, removable_levels(all_units), latent_size)
    if budget_unit == "ms":
        cost_tables["ms"] = latency.read_latency_table(latency_table, table_settings)
    unlimited = SearchSpace(family, removable_units, cost_tables, budget_unit, 0.0)
    limit = resolve_budget(
        name, plan_request, removable_units, all_units, family, unlimited.cost, cost_tables[budget_unit]
    )
    return unlimited._replace(budget=limit)


def search_plan(
    params: PlanSearch,
    name: str,
    *,
    teacher_dir: Path,
    latents_dir: Path,
    latency_table: Path,
    plan_path: Path,
    evidence_path: Path,
    device: str,
) -> dict[str, Any]:
    """Choose student `name` for the `teacher_dir` folder.

    Write its plan `plan_path`, after the `evidence_path`, and return that.
    """
    config = read_json(teacher_dir / "unet" / "config.json")
    train_latents, heldout = open_latents(latents_dir, teacher_dir, device)
    latent_size = latency.read_latent_size(heldout)
    table_settings = latency.latency_settings(config, latent_size, params.precision, device)
    space = build_search_space(name, params.students[name], config, latency_table, latent_size, table_settings)
    if params.tournament_rounds and params.batch_size % world_size():
        raise UserError(f"plan.batch_size: {params.batch_size} examples cannot be shared by {world_size()} processes")
    settings_identity = params.model_dump(include={"samples", "batch_size", "precision"}) | {
        "code": digest_code(CODE_DEPS)
    }
    run_identity = compute_identity(settings_identity, [latents_dir / "manifest.json", teacher_dir / "unet"], CODE_DEPS)
    with open_run_dir("plan", run_identity, is_main_process=rank() == 0) as run_dir:
        unet, scheduler = load_unet(teacher_dir, device), load_scheduler(teacher_dir)
        num_train_timesteps = scheduler.config.num_train_timesteps
        indices = np.arange(min(params.samples, len(heldout)))
        batches = iter_heldout_batches(heldout, params.batch_size, num_train_timesteps, indices)
        output_error = OutputError(unet, space.family, scheduler, batches, run_dir / "measured", params.precision)
        start_time = time.perf_counter()
        _print_cost_estimate(name, space, params, output_error)
        importance = dict(zip(space.units, output_error.measure_many([[unit] for unit in space.units]), strict=True))
        mean_errors = {unit: error.mean for unit, error in importance.items()}
        candidates = solve_candidates(
            space.units, space.num_stages, mean_errors, space.cost, space.budget, params.candidates
        )
        candidate_errors = output_error.measure_many([candidate.removed_units for candidate in candidates])
        order = sorted(
            range(len(candidates)),
            key=lambda number: (candidate_errors[number].mean, candidates[number].predicted_error),
        )
        plans = [plan_without(space.family, candidate.removed_units, name) for candidate in candidates]
        finalists = order[: 2**params.tournament_rounds]
        rounds = run_tournament(
            params, [plans[n] for n in finalists], unet, scheduler, train_latents, output_error, run_dir
        )
        errors_by_finalist = dict(zip(finalists, rounds, strict=True))
        winner = min(
            finalists,
            key=lambda number: (
                -len(errors_by_finalist[number]),
                [round_error.mean for round_error in errors_by_finalist[number][-1:]],
            ),
        )
        report = {
            "student": name,
            "chosen": True,
            "budget": {
                "of": space.budget_unit,
                "most": space.budget,
                "asked": next(iter(params.students[name].budget.values())),
            },
            "settings": params.model_dump(exclude={"students"}) | params.students[name].model_dump(exclude={"budget"}),
            "teacher": space.costs(full_plan(space.family)),
            "bins": NUM_TIMESTEP_BINS,
            "parts": _least_error_by_module(space, mean_errors),
            "units": [
                _report_unit(space, unit, importance[unit], candidates[winner].removed_units) for unit in space.units
            ],
            "kept_whole": _find_untouched_groups(space, candidates[winner].removed_units),
            "choices": [
                _report_candidate(space, candidates[n], candidate_errors[n], errors_by_finalist.get(n, []), n == winner)
                for n in [*finalists, *order[len(finalists) :]]
            ],
            "hand_made": _measure_published_students(space, output_error),
            "curve": _measure_curve(space, mean_errors, output_error),
            "notes": compatibility_notes(plans[winner]),
            "seconds": round(time.perf_counter() - start_time, 1),
        }
        if rank() == 0:
            _write_plan(name, space, candidates[winner], candidate_errors[winner], report, plan_path, evidence_path)
            atomic_write_text(run_dir / DONE_FILE, "{}")
    return report


def _print_cost_estimate(name: str, space: SearchSpace, params: PlanSearch, output_error: OutputError) -> None:
    """Say beforehand what choosing costs, by the time of the teacher's own forward pass."""
    start_time = time.perf_counter()
    num_samples = output_error.cache_teacher_outputs()
    seconds_per_student = time.perf_counter() - start_time
    num_students = len(space.units) + params.candidates + CURVE_POINTS + len(STUDENTS)
    steps = params.steps * sum(bracket_sizes(2**params.tournament_rounds, params.tournament_rounds))
    training = steps * PASSES_PER_STEP * seconds_per_student * params.batch_size / num_samples
    if rank() == 0:
        print(
            f"plan: {name} is to have {format_cost(space.budget, space.budget_unit)} at most: {num_students} students "
            "are measured on "
            f"{num_samples} held-out pairs, about {num_students * seconds_per_student / world_size():.0f} s; {steps} "
            "steps of a tournament, about "
            f"{training / world_size():.0f} s more",
            flush=True,
        )


def _report_unit(space: SearchSpace, unit: Unit, error: ErrorStats, removed_units: RemovedUnits) -> dict[str, Any]:
    teacher_costs, student_costs = space.costs(full_plan(space.family)), space.costs(plan_without(space.family, [unit]))
    saves = {cost_unit: round(teacher_costs[cost_unit] - student_costs[cost_unit], 4) for cost_unit in student_costs}
    return {
        "name": unit.name,
        "group": unit.group,
        **_report_error(error),
        "saves": saves,
        "taken": unit in removed_units,
    }


def _find_untouched_groups(space: SearchSpace, removed_units: RemovedUnits) -> list[str]:
    """The groups of which something could go and nothing is gone."""
    num_removed_stages = max((unit.num_removed for unit in removed_units if isinstance(unit, DropDeepest)), default=0)
    removed_stages = {f"stage {stage}" for stage in range(space.num_stages - num_removed_stages, space.num_stages)}
    return sorted({unit.group for unit in space.units} - {unit.group for unit in removed_units} - removed_stages)


def _least_error_by_module(space: SearchSpace, importance: dict[Unit, float]) -> dict[str, float]:
    """By part of the teacher, the least error of a student that lacks it."""
    all_modules, least_errors = list_kept_modules(full_plan(space.family)), dict[str, float]()
    for unit, error in importance.items():
        for module_name in all_modules - list_kept_modules(plan_without(space.family, [unit])):
            least_errors[module_name] = min(error, least_errors.get(module_name, error))
    return dict(sorted(least_errors.items()))


def _report_candidate(
    space: SearchSpace, candidate: Candidate, error: ErrorStats, round_errors: Sequence[ErrorStats], is_winner: bool
) -> dict[str, Any]:
    plan = plan_without(space.family, candidate.removed_units)
    return {
        "lacking": [unit.name for unit in candidate.removed_units],
        **space.costs(plan),
        "predicted": candidate.predicted_error,
        **_report_error(error),
        "after_rounds": [_report_error(round_error) for round_error in round_errors],
        "chosen": is_winner,
    }


def _report_error(error: ErrorStats) -> dict[str, Any]:
    return {"error": error.mean, "by_timestep": list(error.by_timestep)}


def _measure_published_students(space: SearchSpace, output_error: OutputError) -> list[dict[str, Any]]:
    """Costs and errors of the catalogue's students of this family, where their weights fit this teacher."""
    rows, seen_layouts = [], []
    for name, plan in STUDENTS.items():
        plan_layout = plan.model_dump(include={"down", "mid", "up", "layers"})
        if plan.family != space.family or plan_layout in seen_layouts:
            continue
        seen_layouts.append(plan_layout)
        try:
            rows.append({"name": name, **space.costs(plan), **_report_error(output_error.error_of_plan(plan))})
        except UserError:
            continue  # this teacher's weights do not fit
    return rows


def _measure_curve(
    space: SearchSpace, importance: dict[Unit, float], output_error: OutputError
) -> list[dict[str, Any]]:
    """The best choice at several budgets, from the smallest student's on, and what it errs before training."""
    teacher_cost = space.cost_tables[space.budget_unit].cost_of_plan(full_plan(space.family))
    min_cost = space.cost(find_smallest_student(space.units, space.num_stages, space.cost))
    points = []
    for limit in np.geomspace(min_cost, teacher_cost, CURVE_POINTS + 1)[:-1].tolist():
        for candidate in solve_candidates(
            space.units, space.num_stages, importance, space.cost, max(limit, min_cost), 1
        ):
            costs = space.costs(plan_without(space.family, candidate.removed_units))
            points.append(
                {
                    **costs,
                    "predicted": candidate.predicted_error,
                    **_report_error(output_error.error_without(candidate.removed_units)),
                }
            )
    return points


def _write_plan(
    name: str,
    space: SearchSpace,
    candidate: Candidate,
    error: ErrorStats,
    report: dict,
    plan_path: Path,
    evidence_path: Path,
) -> None:
    cost = space.cost(candidate.removed_units)
    source = (
        f"prunella's choice: {format_cost(cost, space.budget_unit)} of {format_cost(space.budget, space.budget_unit)} "
        "at most, "
        f"output error {error.mean:.3g} before training, {candidate.predicted_error:.3g} predicted"
    )
    plan = plan_without(space.family, candidate.removed_units, name, source)
    content = plan.model_dump(exclude={"published"}, exclude_defaults=True)
    atomic_write_text(evidence_path, json.dumps(report, indent=1) + "\n")
    atomic_write_text(plan_path, yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=120))


def format_search_result(report: dict[str, Any]) -> str:
    """In a line: what was chosen, of how much, and how it compares."""
    winner = next(candidate for candidate in report["choices"] if candidate["chosen"])
    budget_unit, final_error = report["budget"]["of"], [winner, *winner["after_rounds"]][-1]
    comparison = ", ".join(f"{student['name']} {student['error']:.3g}" for student in report["hand_made"])
    return (
        f"{report['student']}: {format_cost(winner[budget_unit], budget_unit)} of "
        f"{format_cost(report['budget']['most'], budget_unit)} at most, "
        f"output error {winner['error']:.3g} before training ({comparison}), {final_error['error']:.3g} after the "
        "tournament"
    )
