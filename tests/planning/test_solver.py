import itertools
import random

import pytest
from known import SD15, SDXL

from prunella.planning.solver import choose, smallest
from prunella.planning.units import MID, End, Layer, Thin, planned, units
from prunella.pruning.mapping import student_config

STAGES = 4
UNITS = units("sd", SD15, attention=False)
SAVED = {0: 7, 1: 19, 2: 83, 3: 43}  # by a thinned stage, per digit of what it keeps
GONE = {0: 0, 1: 120}


def cost(lacking) -> int:
    """Additive while no other stage is removed, as real costs are: the mid block costs less after another stage."""
    end = next((unit for unit in lacking if isinstance(unit, End)), End(0, "keep"))
    mid = {"keep": 31, "resnet": 17, "drop": 0}[end.mid] * (1 + 2 * end.removed)
    thins = sum(SAVED[unit.stage] + unit.up[0] for unit in lacking if isinstance(unit, Thin))
    return 700 + mid - GONE[end.removed] - thins


def everything():
    """All 720 choices."""
    for removed, stages in ((0, 4), (1, 3)):
        ends = [unit for unit in UNITS if isinstance(unit, End) and unit.removed == removed]
        groups = [[[end] for end in ends] + ([[]] if not removed else [])]
        for stage in range(stages):
            groups.append([[]] + [[unit] for unit in UNITS if isinstance(unit, Thin) and unit.stage == stage])
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
        found = choose(UNITS, STAGES, importance, cost, most, 5)
        assert [choice.predicted for choice in found] == pytest.approx([value for value, _ in tried[:5]], rel=1e-9)
        assert all(cost(choice.lacking) <= most for choice in found)
        assert len({frozenset(choice.lacking) for choice in found}) == 5


def test_a_budget_is_kept_to_the_unit():
    importance = {unit: 1.0 for unit in UNITS}
    least = min(map(cost, EVERY))
    assert cost(smallest(UNITS, STAGES, cost)) == least
    assert choose(UNITS, STAGES, importance, cost, least - 1, 3) == []
    assert {cost(choice.lacking) for choice in choose(UNITS, STAGES, importance, cost, least, 3)} == {least}


def test_a_budget_a_millionth_too_small_is_too_small():
    def scaled(lacking) -> int:
        return 1_000_000 * cost(lacking)

    importance = {unit: 1.0 for unit in UNITS}
    assert choose(UNITS, STAGES, importance, scaled, scaled(smallest(UNITS, STAGES, scaled)) - 1, 1) == []


def test_a_kept_mid_block_of_sdxl_has_as_many_layers_as_the_last_down_stage():
    found = units("sdxl", SDXL, attention=True)
    # Layers of the mid block matter nothing and those of the down stage much: both must go, or none, or the block.
    importance = {unit: 1.0 for unit in found}
    importance |= {unit: 0.0 for unit in found if isinstance(unit, Layer) and unit.attention == MID}
    importance |= {
        unit: 0.3 for unit in found if isinstance(unit, Layer) and unit.attention.startswith("down_blocks.2")
    }

    def layers(lacking) -> float:
        plan = planned("sdxl", lacking)
        return sum(
            len(kept) for way in ("down", "up") for stage, _ in plan.stages(way) for kept in plan.layers_of(way, stage)
        ) + len(plan.mid_layers)

    chosen = choose(found, 3, importance, layers, 66, 4)
    assert len(chosen) == 4
    for choice in chosen:
        assert layers(choice.lacking) <= 66
        student_config(planned("sdxl", choice.lacking), SDXL)  # raises where diffusers has no config for it
