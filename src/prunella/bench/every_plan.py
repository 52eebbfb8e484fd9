"""Every plan of a teacher, measured before training: what an additive prediction is worth, against all there is.

One row a plan, appended to a CSV file as soon as it is known; rows that are there are not measured again.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

import numpy as np

from prunella.errors import UserError
from prunella.planning.cost_model import CostTable
from prunella.planning.importance import OutputError
from prunella.planning.solver import RemovedUnits, removable_levels
from prunella.planning.units import DropDeepest, ThinStage, Unit, plan_without
from prunella.pruning.plan import Plan

PLAN_COLUMNS = ("plan", "params", "macs", "predicted", "error")


def encode_plan(plan: Plan) -> str:
    """A plan on one line, by stage from above: pairs kept down / up, "d" or "u" where that has no attention; mid.

    sd-tiny: "0/02 0/02 0/02 - drop".
    """
    num_stages, stage_codes = len(plan.down), []
    for stage in range(num_stages):
        if plan.down[stage] is None:
            stage_codes.append("-")
            continue
        stage_positions = {"down": stage, "up": num_stages - 1 - stage}
        retained_codes = [
            "".join(map(str, getattr(plan, direction)[position])) for direction, position in stage_positions.items()
        ]
        attention_free_codes = [
            direction[0]
            for direction, position in stage_positions.items()
            if getattr(plan.layers, direction).get(position) == []
        ]
        stage_codes.append("/".join(retained_codes) + "".join(attention_free_codes))
    return " ".join([*stage_codes, plan.mid])


def iter_unit_choices(units: Sequence[Unit], num_stages: int) -> Iterator[RemovedUnits]:
    """Every choice of units, of which each group has one at most; layers are left out."""
    for num_removed in removable_levels(units):
        end_units = [(unit,) for unit in units if isinstance(unit, DropDeepest) and unit.num_removed == num_removed]
        options_by_stage: list[list[tuple]] = [end_units if num_removed else [(), *end_units]]
        for stage in range(num_stages - num_removed):
            thin_units = [(unit,) for unit in units if isinstance(unit, ThinStage) and unit.stage == stage]
            options_by_stage.append([(), *thin_units])
        yield from (tuple(unit for option in options for unit in option) for options in product(*options_by_stage))


def measure_choices(
    choices: Sequence[RemovedUnits],
    measure: OutputError,
    cost_tables: dict[str, CostTable],
    out: Path,
    show_progress: bool = True,
) -> None:
    """Append to `out` what is not there yet of the students that lack these units."""
    measured_codes = {row["plan"] for row in read_measured_plans(out)} if out.is_file() else set()
    single_units = sorted({unit for missing_units in choices for unit in missing_units}, key=lambda unit: unit.name)
    importance = dict(
        zip(
            single_units, (error.mean for error in measure.measure_many([[unit] for unit in single_units])), strict=True
        )
    )
    if not out.is_file():
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(",".join(PLAN_COLUMNS) + "\n", encoding="utf-8")
    for number, missing_units in enumerate(choices):
        plan = plan_without(measure.family, missing_units)
        if encode_plan(plan) in measured_codes:
            continue
        predicted_error = sum(importance[unit] for unit in missing_units)
        cost = [round(cost_tables[cost_name].cost_of_plan(plan)) for cost_name in ("params", "macs")]
        row = [encode_plan(plan), *cost, f"{predicted_error:.6g}", f"{measure.measure_uncached(plan).mean:.6g}"]
        with out.open("a", encoding="utf-8") as file:
            file.write(",".join(map(str, row)) + "\n")
        if show_progress and number % 100 == 0:
            print(f"{number} of {len(choices)}", flush=True)


def read_measured_plans(path: Path) -> list[dict[str, str]]:
    """The rows of a file of measured plans; one that was cut off while it was written is left out.

    Raises UserError where the file is another's.
    """
    text = path.read_text(encoding="utf-8")
    complete_text = text[: text.rfind("\n") + 1]
    if complete_text != text:
        path.write_text(complete_text, encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(complete_text)))
    if not complete_text.startswith(",".join(PLAN_COLUMNS)):
        raise UserError(f"{path}: holds no measured plans: its columns should be {', '.join(PLAN_COLUMNS)}")
    return rows


def sample_choices(choices: Sequence[RemovedUnits], count: int, seed: int) -> list[RemovedUnits]:
    """A sample of the students, by seed, in their order."""
    indices = np.random.default_rng(seed).permutation(len(choices))[:count]
    return [choices[number] for number in sorted(indices)]
