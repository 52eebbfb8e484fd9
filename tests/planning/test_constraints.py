import re
from pathlib import Path

import pytest
from known import SD15, SDXL

from prunella.errors import UserError
from prunella.params import PlanRequest, validate_config
from prunella.planning import search
from prunella.planning.constraints import filter_units
from prunella.planning.search import SearchSpace, build_search_space
from prunella.planning.units import MID_ATTENTION, DropDeepest, DropLayer, ThinStage, list_units


def asked(budget, keep=(), attention=False) -> PlanRequest:
    return validate_config(PlanRequest, {"budget": budget, "keep": list(keep), "attention": attention}, "plan")


def opened(budget, keep=(), attention=False) -> SearchSpace:
    return build_search_space("auto", asked(budget, keep, attention), SD15, Path("none.json"), (64, 64), {})


@pytest.fixture(scope="module", autouse=True)
def counted_once():
    """SD 1.5 is priced once for all tests."""
    prices = search.count_costs("sd", SD15, (0, 1), (64, 64))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "count_costs", lambda *_: dict(prices))
        yield


def said(budget, **wishes) -> str:
    with pytest.raises(UserError) as caught:
        opened(budget, **wishes)
    return str(caught.value)


def test_what_must_stay_takes_units_away():
    every = list_units("sd", SD15, may_drop_attention=True)
    left = filter_units(every, ["mid"], "sd")
    assert set(every) - set(left) == {end for end in every if isinstance(end, DropDeepest) and end.mid != "keep"}
    left = filter_units(every, ["up.0"], "sd")  # the deepest stage's: it can neither go nor be thinned
    assert not [unit for unit in left if isinstance(unit, ThinStage) and unit.stage == 3]
    assert not [unit for unit in left if isinstance(unit, DropDeepest) and unit.num_removed]
    left = filter_units(every, ["down.0.1"], "sd")
    assert all(unit.keeps_attention("down", 1) for unit in left if isinstance(unit, ThinStage) and unit.stage == 0)
    assert [unit for unit in left if isinstance(unit, ThinStage) and unit.stage == 0 and "up" in unit.without_attention]


def test_what_must_stay_keeps_its_layers():
    every = list_units("sdxl", SDXL, may_drop_attention=False)
    left = {unit.attention for unit in filter_units(every, ["mid", "up.0.2"], "sdxl") if isinstance(unit, DropLayer)}
    assert MID_ATTENTION not in left and "up_blocks.0.attentions.2" not in left and "up_blocks.0.attentions.1" in left


def test_budgets_are_numbers_shares_and_students():
    assert opened({"params": 500_000_000}).budget == 500_000_000
    assert opened({"params": 0.5}).budget == 859_520_964 / 2
    assert opened({"params": "sd-tiny"}).budget == 323_384_964
    assert opened({"macs": "sd-tiny"}).budget == pytest.approx(242.8e9, rel=1e-3)


def test_a_budget_out_of_range_names_the_range():
    range_ = (
        "the smallest student of this teacher has 323,384,964 parameters and the teacher has 859,520,964 parameters"
    )
    assert f"plan.students.auto: at most 1,000,000 parameters is out of range: {range_}" in said({"params": 1_000_000})
    assert "attention: true makes smaller ones possible" in said({"params": 1_000_000})
    assert range_ in said({"params": 859_520_964})
    assert "attention: true" not in said({"params": 10}, attention=True)


def test_contradictory_wishes_are_named():
    message = said({"params": "sd-tiny"}, keep=["mid", "down.3.0"])
    assert "at most 323,384,964 parameters cannot be had where mid, down.3.0 must stay" in message
    assert re.search(r"the smallest such student has \d{3},\d{3},\d{3} parameters", message)


def test_a_block_that_the_teacher_lacks_is_named():
    assert "no down.4: down has stages 0 to 3 of 2 pairs" in said({"params": 0.5}, keep=["down.4"])
    assert "no down.1.2: down has stages 0 to 3 of 2 pairs" in said({"params": 0.5}, keep=["down.1.2"])


def test_a_student_of_another_family_is_no_budget():
    assert "ssd-1b is a student of a teacher of family 'sdxl'" in said({"params": "ssd-1b"})


@pytest.mark.parametrize(
    "wrong",
    [
        {"budget": {}},
        {"budget": {"params": 1, "ms": 2}},
        {"budget": {"flops": 1}},
        {"budget": {"params": -1}},
        {"keep": ["middle"]},
    ],
)
def test_descriptions_that_make_no_sense_are_refused(wrong):
    with pytest.raises(UserError, match=r"plan: (budget|keep)"):
        validate_config(PlanRequest, {"budget": {"params": 0.5}, "keep": [], "attention": False} | wrong, "plan")
