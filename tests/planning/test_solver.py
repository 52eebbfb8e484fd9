import itertools
import random

import pytest
from known import SD15, SDXL

from prunella.planning.solver import find_smallest_student, solve_candidates
from prunella.planning.units import MID_ATTENTION, DropDeepest, DropLayer, ThinStage, list_units, plan_without
from prunella.pruning.mapping import student_config

STAGES = 4
UNITS = list_units("sd", SD15, may_drop_attention=False)
SAVED = {0: 7, 1: 19, 2: 83, 3: 43}  # by a thinned stage, per digit of what it keeps
GONE = {0: 0, 1: 120}


def cost(lacking) -> int:
    """Additive while no other stage is removed, as real costs are: the mid block costs less after another stage."""
    end = next((unit for unit in lacking if isinstance(unit, DropDeepest)), DropDeepest(0, "keep"))
    mid = {"keep": 31, "resnet": 17, "drop": 0}[end.mid] * (1 + 2 * end.num_removed)
    thins = sum(SAVED[unit.stage] + unit.up[0] for unit in lacking if isinstance(unit, ThinStage))
    return 700 + mid - GONE[end.num_removed] - thins


def everything():
    """All 720 choices."""
    for removed, stages in ((0, 4), (1, 3)):
        ends = [unit for unit in UNITS if isinstance(unit, DropDeepest) and unit.num_removed == removed]
        groups = [[[end] for end in ends] + ([[]] if not removed else [])]
        for stage in range(stages):
            groups.append([[]] + [[unit] for unit in UNITS if isinstance(unit, ThinStage) and unit.stage == stage])
        for combination in itertools.product(*groups):
            yield tuple(unit for each in combination for unit in each)


EVERY = list(everything())


def test_there_are_720_choices():
    assert len(EVERY) == 720


@pytest.mark.parametrize("seed", range(3))
def test_the_best_choices_are_those_of_trying_all(seed):
    source = random.Random(seed)
    importance = {unit: 10 ** source.uniform(-6, 0) for unit in UNITS}  # over six powers of ten, as real ones
    for most in (690, 571, 520):
        tried = sorted((sum(importance[unit] for unit in each), cost(each)) for each in EVERY if cost(each) <= most)
        found = solve_candidates(UNITS, STAGES, importance, cost, most, 5)
        assert [choice.predicted_error for choice in found] == pytest.approx(
            [value for value, _ in tried[:5]], rel=1e-9
        )
        assert all(cost(choice.removed_units) <= most for choice in found)
        assert len({frozenset(choice.removed_units) for choice in found}) == 5


def test_a_budget_is_kept_to_the_unit():
    importance = {unit: 1.0 for unit in UNITS}
    least = min(map(cost, EVERY))
    assert cost(find_smallest_student(UNITS, STAGES, cost)) == least
    assert solve_candidates(UNITS, STAGES, importance, cost, least - 1, 3) == []
    assert {cost(choice.removed_units) for choice in solve_candidates(UNITS, STAGES, importance, cost, least, 3)} == {
        least
    }


def test_a_budget_a_millionth_too_small_is_too_small():
    def scaled(lacking) -> int:
        return 1_000_000 * cost(lacking)

    importance = {unit: 1.0 for unit in UNITS}
    assert (
        solve_candidates(UNITS, STAGES, importance, scaled, scaled(find_smallest_student(UNITS, STAGES, scaled)) - 1, 1)
        == []
    )


def test_a_kept_mid_block_of_sdxl_has_as_many_layers_as_the_last_down_stage():
    found = list_units("sdxl", SDXL, may_drop_attention=True)
    # Layers of the mid block matter nothing and those of the down stage much: both must go, or none, or the block.
    importance = {unit: 1.0 for unit in found}
    importance |= {unit: 0.0 for unit in found if isinstance(unit, DropLayer) and unit.attention == MID_ATTENTION}
    importance |= {
        unit: 0.3 for unit in found if isinstance(unit, DropLayer) and unit.attention.startswith("down_blocks.2")
    }

    def layers(lacking) -> float:
        plan = plan_without("sdxl", lacking)
        return sum(
            len(kept)
            for way in ("down", "up")
            for stage, _ in plan.list_kept_stages(way)
            for kept in plan.list_kept_layers(way, stage)
        ) + len(plan.mid_layers)

    chosen = solve_candidates(found, 3, importance, layers, 66, 4)
    assert len(chosen) == 4
    for choice in chosen:
        assert layers(choice.removed_units) <= 66
        student_config(plan_without("sdxl", choice.removed_units), SDXL)  # raises where diffusers has no config for it
