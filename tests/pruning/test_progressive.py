from itertools import pairwise

import pytest
import torch
from diffusers import UNet2DConditionModel
from known import SD15, SDXL

from prunella.errors import UserError
from prunella.pruning.mapping import feature_pairs, student_config
from prunella.pruning.plan import STUDENTS, Plan
from prunella.pruning.progressive import intermediate_plans, plan_at_fraction, weight_origins
from prunella.pruning.within import check_subset, keep_same_blocks

CONFIGS = {"sd": SD15, "sdxl": SDXL}


def empty(plan: Plan) -> UNet2DConditionModel:
    with torch.device("meta"):
        return UNet2DConditionModel.from_config(student_config(plan, CONFIGS[plan.family]))


def test_the_deepest_parts_go_first_and_pairs_with_their_up_stage():
    whole, up = [0, 1], [0, 1, 2]
    assert [(plan.mid, plan.down, plan.up) for plan in intermediate_plans(STUDENTS["sd-tiny"])] == [
        ("drop", [whole] * 4, [up] * 4),
        ("drop", [whole, whole, whole, None], [None, up, up, up]),
        ("drop", [whole, whole, [0], None], [None, [0, 2], up, up]),
        ("drop", [whole, [0], [0], None], [None, [0, 2], [0, 2], up]),
        ("drop", [[0], [0], [0], None], [None, [0, 2], [0, 2], [0, 2]]),
    ]


def test_layers_go_the_last_first_and_in_all_attentions_that_lose_some():
    some = [plan.layers for plan in intermediate_plans(STUDENTS["ssd-1b"])]
    assert len(some) == 1 + 6 + 1  # the mid block's attention, 10 → 4 layers, 2 → 1
    ten = list(range(10))
    assert some[1].down[2] == [[*ten[:9]]] * 2 and some[1].up[0] == [[*ten[:9]], [*ten[:9]], ten]
    assert some[3].down[2] == [[0, 1, 2, 3, 4, 5, 6]] * 2  # 9, 8, 7 of the six that go
    assert some[6].down[2] == [[0, 1, 2, 6]] * 2 and 1 not in some[6].up and some[7].up[1] == [None, [0], [0]]


def test_the_mid_block_has_as_many_layers_as_the_stage_above_it():
    for plan in intermediate_plans(STUDENTS["koala-1b"])[1:]:
        (deepest,) = plan.list_kept_layers("down", 2)
        assert plan.mid_layers == deepest


@pytest.mark.parametrize("name", ["sd-tiny", "segmind-vega"])
def test_every_plan_on_the_way_can_be_built_and_is_part_of_the_one_before(name):
    sizes, before, theirs = [], None, {}
    for after in intermediate_plans(STUDENTS[name]):
        unet = empty(after)
        sizes.append(unet.num_parameters())
        modules, ours = dict(unet.named_modules()), {key: value.shape for key, value in unet.state_dict().items()}
        assert all(pair.student in modules for pair in feature_pairs(after))
        if before:
            check_subset(after, before)
            kept = weight_origins(after, before, list(ours), list(theirs))
            assert all(shape == theirs[kept[key]] for key, shape in ours.items())
        before, theirs = after, ours
    assert sizes == sorted(set(sizes), reverse=True) and before == STUDENTS[name]


@pytest.mark.parametrize("name", STUDENTS)
def test_no_two_plans_on_the_way_are_the_same_and_diffusers_can_hold_each(name):
    every = intermediate_plans(STUDENTS[name])
    for before, after in pairwise(every):
        check_subset(after, before)
        assert not keep_same_blocks(after, before)
        student_config(before, CONFIGS[before.family])


@pytest.mark.parametrize(("share", "made"), [(0.01, 1), (0.2, 1), (0.21, 2), (0.6, 3), (1.0, 5)])
def test_a_share_of_the_cuts_is_rounded_up(share, made):
    plan = STUDENTS["sd-tiny"]
    assert (
        plan_at_fraction(plan, share) is plan
        if made == 5
        else keep_same_blocks(plan_at_fraction(plan, share), intermediate_plans(plan)[made - 1])
    )
    assert plan_at_fraction(plan, share).name == ("sd-tiny" if made == 5 else f"sd-tiny ({made} of 5 cuts)")


def test_tensors_come_from_those_of_the_same_origin():
    small, tiny = STUDENTS["sd-small"], STUDENTS["sd-tiny"]
    kept = weight_origins(
        tiny, small, ["up_blocks.0.resnets.1.norm1.bias", "conv_in.bias"], list(empty(small).state_dict())
    )
    assert kept == {
        "up_blocks.0.resnets.1.norm1.bias": "up_blocks.1.resnets.1.norm1.bias",
        "conv_in.bias": "conv_in.bias",
    }


@pytest.mark.parametrize(
    ("inner", "outer", "said"),
    [
        ("sd-small", "sd-tiny", "sd-small keeps more of the mid block, which sd-tiny does not"),
        ("ssd-1b", "segmind-vega", "ssd-1b keeps layer 1 of down stage 1, pair 0, which segmind-vega does not"),
        ("segmind-vega", "koala-1b", "segmind-vega keeps down stage 0, pair 1, which koala-1b does not"),
        ("sd-tiny", "ssd-1b", "sd-tiny keeps blocks of family 'sd', which ssd-1b does not"),
    ],
)
def test_what_is_no_part_is_named(inner, outer, said):
    with pytest.raises(UserError) as caught:
        check_subset(STUDENTS[inner], STUDENTS[outer])
    assert str(caught.value) == said


def test_the_same_plan_under_two_names_is_the_same():
    assert keep_same_blocks(STUDENTS["sd-small"], STUDENTS["bk-sdm-base"]) and not keep_same_blocks(
        STUDENTS["sd-small"], STUDENTS["sd-tiny"]
    )
