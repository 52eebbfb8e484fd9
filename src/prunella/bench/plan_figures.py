"""Summary of the file of all measured plans: rank correlations, where choices rank, and a picture."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import spearmanr

from prunella.bench.every_plan import encode_plan
from prunella.planning.cost_model import CostTable
from prunella.planning.importance import ErrorStats
from prunella.planning.solver import CostFunction, RemovedUnits
from prunella.planning.units import Unit, plan_without
from prunella.pruning.plan import Plan

PlanRow = Mapping[str, str]
NUM_CANDIDATES = 16  # choices measured as wholes, as params.yaml has it
WIDTH, HEIGHT, MARGIN = 720, 420, 56  # pixels
MIN_ERROR, MAX_ERROR = 1e-5, 2.0  # errors that the picture's scale spans


def compute_rank_correlation(rows: Sequence[PlanRow]) -> float:
    """Spearman's, of predicted and measured errors."""
    predicted_errors, measured_errors = ([float(row[name]) for row in rows] for name in ("predicted", "error"))
    return float(spearmanr(predicted_errors, measured_errors).statistic)


def build_selection_table(
    rows: Sequence[PlanRow], published_plans: Mapping[str, Plan], cost_name: str = "params"
) -> list[list[str]]:
    """For each hand-made student, of the plans that cost no more: error and rank of what would be chosen, and its own.

    Chosen: the least predicted one; and of the 16 least predicted ones the one that errs least when measured.
    """
    table = [
        ["at most as", cost_name, "plans", "Spearman", "least predicted", "error, rank", "of the best 16", "hand-made"]
    ]
    for name, plan in published_plans.items():
        student_row = next(row for row in rows if row["plan"] == encode_plan(plan))
        candidates = sorted(
            (row for row in rows if int(row[cost_name]) <= int(student_row[cost_name])),
            key=lambda row: float(row["error"]),
        )
        best_predicted = sorted(candidates, key=lambda row: float(row["predicted"]))[:NUM_CANDIDATES]
        best_measured = min(best_predicted, key=lambda row: float(row["error"]))
        rank_cells = [
            f"{float(row['error']):.3g}, {candidates.index(row) + 1}"
            for row in (best_predicted[0], best_measured, student_row)
        ]
        cells = [
            name,
            f"{int(student_row[cost_name]):,}",
            f"{len(candidates):,}",
            f"{compute_rank_correlation(candidates):.3f}",
            best_predicted[0]["plan"],
        ]
        table.append(cells + rank_cells)
    return table


def correlate_normalized_errors(
    rows: Sequence[PlanRow], errors: Mapping[Unit, ErrorStats], choices: Sequence[RemovedUnits]
) -> float:
    """Spearman's where each bin of timesteps counts alike in the prediction: over its mean among all units."""
    bins = np.array([error.by_timestep for error in errors.values()], float)
    weights = dict(zip(errors, (bins / bins.mean(0)).mean(1), strict=True))
    error_by_plan = {row["plan"]: float(row["error"]) for row in rows}
    predicted_errors = [sum(weights[unit] for unit in missing_units) for missing_units in choices]
    measured_errors = [error_by_plan[encode_plan(plan_without("sd", missing_units))] for missing_units in choices]
    return float(spearmanr(predicted_errors, measured_errors).statistic)


def build_greedy_table(
    rows: Sequence[PlanRow], published_plans: Mapping[str, Plan], units: Sequence[Unit], cost_table: CostTable
) -> list[list[str]]:
    """Plans that a greedy walk by importance over cost gives in place of the exact choice, at hand-made students'
    costs."""
    row_by_plan = {row["plan"]: row for row in rows}
    importance = {unit: float(row_by_plan[encode_plan(plan_without("sd", [unit]))]["error"]) for unit in units}
    table = [["at most as", "greedy", "predicted", "error", "fits"]]
    for name, plan in published_plans.items():
        budget = cost_table.cost_of_plan(plan)
        greedy_plan = plan_without(
            "sd",
            select_greedily(
                units,
                importance,
                lambda missing_units: cost_table.cost_of_plan(plan_without("sd", missing_units)),
                budget,
            ),
        )
        row = row_by_plan[encode_plan(greedy_plan)]
        table.append(
            [
                name,
                row["plan"],
                row["predicted"],
                row["error"],
                "yes" if cost_table.cost_of_plan(greedy_plan) <= budget else "no",
            ]
        )
    return table


def select_greedily(
    units: Sequence[Unit], importance: Mapping[Unit, float], cost: CostFunction, budget: float
) -> RemovedUnits:
    """The walk that an exact choice is compared with: again and again the unit that matters least for what it saves."""
    removed: RemovedUnits = ()
    while cost(removed) > budget:
        groups = {unit.group for unit in removed}
        remaining = [unit for unit in units if unit.group not in groups and cost((*removed, unit)) < cost(removed)]
        if not remaining:
            return removed
        current_cost = cost(removed)
        removed = (
            *removed,
            min(remaining, key=lambda unit: importance[unit] / (current_cost - cost((*removed, unit)))),
        )
    return removed


def plot_plans_svg(rows: Sequence[PlanRow], label_by_plan: Mapping[str, str]) -> str:
    """SVG: a dot a plan, its error before training against its parameters; `marked` names some by their plans."""
    max_params = max(int(row["params"]) for row in rows)

    def to_point(row: PlanRow) -> tuple[float, float]:
        x = MARGIN + (WIDTH - 2 * MARGIN) * int(row["params"]) / max_params
        log_fraction = math.log10(min(max(float(row["error"]), MIN_ERROR), MAX_ERROR) / MIN_ERROR) / math.log10(
            MAX_ERROR / MIN_ERROR
        )
        return x, HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * log_fraction

    dots = [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2"/>' for x, y in map(to_point, rows)]
    labels = []
    for row in rows:
        if name := label_by_plan.get(row["plan"]):
            x, y = to_point(row)
            labels.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="#c2410c"/>')
            labels.append(f'<text x="{x + 8:.1f}" y="{y - 6:.1f}" fill="#333">{name}</text>')
    for power in range(-5, 1):
        y = to_point({"params": "0", "error": str(10.0**power)})[1]
        labels.append(f'<text x="8" y="{y + 4:.1f}" fill="#333">1e{power}</text>')
    axis = f"parameters of the UNet, to {max_params / 1e6:.1f} million; up: output error before training"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">\n<rect width="100%" height="100%" fill="white"/>\n'
        f'<g fill="#3b7dd8" fill-opacity="0.35">{"".join(dots)}</g>\n{"".join(labels)}\n'
        f'<text x="{MARGIN}" y="{HEIGHT - 16}" fill="#333">{axis}</text>\n</svg>\n'
    )
