"""The exact choice for published teachers, on the meta device, importances drawn by lot; `-s` prints figures."""

import random
import resource
import time
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from known import SD15, SD21, SDXL

from prunella.params import PlanRequest
from prunella.planning.search import build_search_space
from prunella.planning.solver import solve_candidates
from prunella.planning.units import DropLayer, plan_without
from prunella.pruning.mapping import student_config
from prunella.pruning.prune import prune

BUDGETS = [("params", "sd-tiny"), ("params", 0.45), ("macs", 0.5)]
CASES = [*(("SD 1.5", SD15, 64, *budget) for budget in BUDGETS), ("SD 2.1", SD21, 64, "params", "sd-small")]
CASES += [("SDXL", SDXL, 128, *budget) for budget in (("params", "ssd-1b"), ("params", "segmind-vega"), ("macs", 0.5))]


def on_meta(config: dict) -> UNet2DConditionModel:
    with torch.device("meta"):
        return UNet2DConditionModel.from_config(config)


@pytest.mark.slow
@pytest.mark.parametrize(("title", "config", "size", "what", "given"), CASES)
def test_budgets_are_kept_and_stock_diffusers_builds_what_is_chosen(title, config, size, what, given):
    began = time.perf_counter()
    asked = PlanRequest(budget={what: given}, keep=[], attention=True)
    found = build_search_space("auto", asked, config, Path("none.json"), (size, size), {})
    source = random.Random(3)
    # Layers matter less than stages, as there are many; each over four powers of ten.
    importance = {
        unit: 10 ** source.uniform(-6, -2) * (1 if isinstance(unit, DropLayer) else 20) for unit in found.units
    }
    opened, began = time.perf_counter() - began, time.perf_counter()
    choices = solve_candidates(found.units, found.num_stages, importance, found.cost, found.budget, 5)
    solved = time.perf_counter() - began
    assert len(choices) == 5
    teacher = on_meta(config)
    for choice in choices[:2]:
        plan = plan_without(found.family, choice.removed_units)
        student = prune(teacher, plan)  # strict: every weight has a counterpart of its shape
        assert on_meta(student_config(plan, config)).num_parameters() == student.num_parameters()
        assert student.num_parameters() == found.cost_tables["params"].cost_of_plan(plan)
        assert found.cost(choice.removed_units) <= found.budget
    spent = found.cost(choices[0].removed_units) / found.budget
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"\n{title}, {what} {given}: {len(found.units)} units priced in {opened:.1f} s, five best found in "
        f"{solved:.1f} s, {100 * spent:.2f} % of the budget used, {peak:.1f} GB at the peak"
    )
