"""What the file of all measured plans says: rank correlations, where choices rank, and a picture."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import spearmanr

from prunella.bench.every_plan import code
from prunella.planning.cost_model import CostTable
from prunella.planning.importance import ErrorStats
from prunella.planning.solver import CostFunction, RemovedUnits
from prunella.planning.units import Unit, plan_without
from prunella.pruning.plan import Plan

Row = Mapping[str, str]
BEST = 16  # choices measured as wholes, as params.yaml has it
WIDTH, HEIGHT, MARGIN = 720, 420, 56  # pixels
LEAST, MOST = 1e-5, 2.0  # errors that the picture's scale spans


def correlation(rows: Sequence[Row]) -> float:
    """Spearman's, of predicted and measured errors."""
    predicted, error = ([float(row[name]) for row in rows] for name in ("predicted", "error"))
    return float(spearmanr(predicted, error).statistic)


def summary(rows: Sequence[Row], hand_made: Mapping[str, Plan], what: str = "params") -> list[list[str]]:
    """For each hand-made student, of the plans that cost no more: error and rank of what would be chosen, and its own.

    Chosen: the least predicted one; and of the 16 least predicted ones the one that errs least when measured.
    """
    table = [["at most as", what, "plans", "Spearman", "least predicted", "error, rank", "of the best 16", "hand-made"]]
    for name, plan in hand_made.items():
        own = next(row for row in rows if row["plan"] == code(plan))
        among = sorted((row for row in rows if int(row[what]) <= int(own[what])), key=lambda row: float(row["error"]))
        predicted = sorted(among, key=lambda row: float(row["predicted"]))[:BEST]
        measured = min(predicted, key=lambda row: float(row["error"]))
        ranked = [f"{float(row['error']):.3g}, {among.index(row) + 1}" for row in (predicted[0], measured, own)]
        known = [name, f"{int(own[what]):,}", f"{len(among):,}", f"{correlation(among):.3f}", predicted[0]["plan"]]
        table.append(known + ranked)
    return table


def normalised(rows: Sequence[Row], errors: Mapping[Unit, ErrorStats], students: Sequence[RemovedUnits]) -> float:
    """Spearman's where each bin of timesteps counts alike in the prediction: over its mean among all units."""
    bins = np.array([error.by_timestep for error in errors.values()], float)
    weights = dict(zip(errors, (bins / bins.mean(0)).mean(1), strict=True))
    known = {row["plan"]: float(row["error"]) for row in rows}
    predicted = [sum(weights[unit] for unit in lacking) for lacking in students]
    measured = [known[code(plan_without("sd", lacking))] for lacking in students]
    return float(spearmanr(predicted, measured).statistic)


def walked(
    rows: Sequence[Row], hand_made: Mapping[str, Plan], units: Sequence[Unit], price: CostTable
) -> list[list[str]]:
    """What a greedy walk by importance over cost gives in place of the exact choice, at hand-made students' costs."""
    known = {row["plan"]: row for row in rows}
    importance = {unit: float(known[code(plan_without("sd", [unit]))]["error"]) for unit in units}
    table = [["at most as", "greedy", "predicted", "error", "fits"]]
    for name, plan in hand_made.items():
        most = price.cost_of_plan(plan)
        found = plan_without(
            "sd", greedy(units, importance, lambda lacking: price.cost_of_plan(plan_without("sd", lacking)), most)
        )
        row = known[code(found)]
        table.append(
            [name, row["plan"], row["predicted"], row["error"], "yes" if price.cost_of_plan(found) <= most else "no"]
        )
    return table


def greedy(units: Sequence[Unit], importance: Mapping[Unit, float], cost: CostFunction, most: float) -> RemovedUnits:
    """The walk that an exact choice is compared with: again and again the unit that matters least for what it saves."""
    taken: RemovedUnits = ()
    while cost(taken) > most:
        groups = {unit.group for unit in taken}
        left = [unit for unit in units if unit.group not in groups and cost((*taken, unit)) < cost(taken)]
        if not left:
            return taken
        now = cost(taken)
        taken = (*taken, min(left, key=lambda unit: importance[unit] / (now - cost((*taken, unit)))))
    return taken


def picture(rows: Sequence[Row], marked: Mapping[str, str]) -> str:
    """SVG: a dot a plan, its error before training against its parameters; `marked` names some by their plans."""
    largest = max(int(row["params"]) for row in rows)

    def place(row: Row) -> tuple[float, float]:
        x = MARGIN + (WIDTH - 2 * MARGIN) * int(row["params"]) / largest
        decades = math.log10(min(max(float(row["error"]), LEAST), MOST) / LEAST) / math.log10(MOST / LEAST)
        return x, HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * decades

    shapes = [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2"/>' for x, y in map(place, rows)]
    labels = []
    for row in rows:
        if name := marked.get(row["plan"]):
            x, y = place(row)
            labels.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="#c2410c"/>')
            labels.append(f'<text x="{x + 8:.1f}" y="{y - 6:.1f}" fill="#333">{name}</text>')
    for power in range(-5, 1):
        y = place({"params": "0", "error": str(10.0**power)})[1]
        labels.append(f'<text x="8" y="{y + 4:.1f}" fill="#333">1e{power}</text>')
    axis = f"parameters of the UNet, to {largest / 1e6:.1f} million; up: output error before training"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">\n<rect width="100%" height="100%" fill="white"/>\n'
        f'<g fill="#3b7dd8" fill-opacity="0.35">{"".join(shapes)}</g>\n{"".join(labels)}\n'
        f'<text x="{MARGIN}" y="{HEIGHT - 16}" fill="#333">{axis}</text>\n</svg>\n'
    )
