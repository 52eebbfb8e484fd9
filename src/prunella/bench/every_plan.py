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

COLUMNS = ("plan", "params", "macs", "predicted", "error")


def code(plan: Plan) -> str:
    """A plan on one line, by stage from above: pairs kept down / up, "d" or "u" where that has no attention; mid.

    sd-tiny: "0/02 0/02 0/02 - drop".
    """
    stages, words = len(plan.down), []
    for stage in range(stages):
        if plan.down[stage] is None:
            words.append("-")
            continue
        places = {"down": stage, "up": stages - 1 - stage}
        kept = ["".join(map(str, getattr(plan, way)[place])) for way, place in places.items()]
        plain = [way[0] for way, place in places.items() if getattr(plan.layers, way).get(place) == []]
        words.append("/".join(kept) + "".join(plain))
    return " ".join([*words, plan.mid])


def every(units: Sequence[Unit], stages: int) -> Iterator[RemovedUnits]:
    """Every choice of units, of which each group has one at most; layers are left out."""
    for removed in removable_levels(units):
        ends = [(unit,) for unit in units if isinstance(unit, DropDeepest) and unit.num_removed == removed]
        ways: list[list[tuple]] = [ends if removed else [(), *ends]]
        for stage in range(stages - removed):
            thins = [(unit,) for unit in units if isinstance(unit, ThinStage) and unit.stage == stage]
            ways.append([(), *thins])
        yield from (tuple(unit for part in parts for unit in part) for parts in product(*ways))


def measure_every(
    students: Sequence[RemovedUnits], measure: OutputError, prices: dict[str, CostTable], out: Path, show: bool = True
) -> None:
    """Append to `out` what is not there yet of the students that lack these units."""
    done = {row["plan"] for row in read(out)} if out.is_file() else set()
    alone = sorted({unit for lacking in students for unit in lacking}, key=lambda unit: unit.name)
    importance = dict(
        zip(alone, (error.mean for error in measure.measure_many([[unit] for unit in alone])), strict=True)
    )
    if not out.is_file():
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(",".join(COLUMNS) + "\n", encoding="utf-8")
    for number, lacking in enumerate(students):
        plan = plan_without(measure.family, lacking)
        if code(plan) in done:
            continue
        predicted = sum(importance[unit] for unit in lacking)
        cost = [round(prices[what].cost_of_plan(plan)) for what in ("params", "macs")]
        row = [code(plan), *cost, f"{predicted:.6g}", f"{measure.measure_uncached(plan).mean:.6g}"]
        with out.open("a", encoding="utf-8") as file:
            file.write(",".join(map(str, row)) + "\n")
        if show and number % 100 == 0:
            print(f"{number} of {len(students)}", flush=True)


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a file of measured plans; one that was cut off while it was written is left out.

    Raises UserError where the file is another's.
    """
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(whole)))
    if not whole.startswith(",".join(COLUMNS)):
        raise UserError(f"{path}: holds no measured plans: its columns should be {', '.join(COLUMNS)}")
    return rows


def sampled(students: Sequence[RemovedUnits], count: int, seed: int) -> list[RemovedUnits]:
    """So many of the students, drawn by seed, in their order."""
    chosen = np.random.default_rng(seed).permutation(len(students))[:count]
    return [students[number] for number in sorted(chosen)]
