import itertools
import random

import pytest
import torch
import toyxl
from diffusers import UNet2DConditionModel
from known import SD15, SD21, SDXL

from prunella.errors import UserError
from prunella.planning.units import DropDeepest, DropLayer, ThinStage, full_plan, list_units, plan_without
from prunella.pruning.plan import STUDENTS, Plan
from prunella.pruning.prune import prune

TOY = SD15 | {"block_out_channels": [8, 16, 32, 32], "norm_num_groups": 4, "cross_attention_dim": 24}
TOY |= {"attention_head_dim": 2, "sample_size": 8}


def kinds(found) -> tuple[int, int, int]:
    return tuple(sum(isinstance(unit, kind) for unit in found) for kind in (ThinStage, DropDeepest, DropLayer))


def test_how_many_units_there_are():
    # Widths 320, 640, 1280, 1280. Stage 0 loses either pair down, and the middle or last up: 4 ways; stage 1 the one
    # of the inner pairs: 1; stage 2 the first or middle up: 2; stage 3 any: 6. With attention each of the three stages
    # that have some can lose it down, up or both: (4 + 1) · 4 - 1, (1 + 1) · 4 - 1, (2 + 1) · 4 - 1.
    assert (
        kinds(list_units("sd", SD15, may_drop_attention=False))
        == kinds(list_units("sd", SD21, may_drop_attention=False))
        == (13, 5, 0)
    )
    assert kinds(list_units("sd", SD15, may_drop_attention=True)) == (19 + 7 + 11 + 6, 5, 0)
    # 70 transformer layers: 2 · 2 + 2 · 10 down, 10 in the middle, 3 · 10 + 3 · 2 up.
    assert kinds(list_units("sdxl", SDXL, may_drop_attention=False))[2] == 70


def test_the_whole_and_sd_tiny_by_its_units():
    assert full_plan("sdxl").layers == Plan.model_fields["layers"].default
    thins = [ThinStage(stage, (0,), (0, 2)) for stage in (0, 1, 2)]
    plan = plan_without("sd", [DropDeepest(1, "drop"), *thins])
    shape = {"down", "mid", "up", "layers"}
    assert plan.model_dump(include=shape) == STUDENTS["sd-tiny"].model_dump(include=shape)


def test_stages_are_numbered_from_above_and_attention_goes_by_direction():
    plan = plan_without("sd", [ThinStage(1, (0,), (0, 2), ("up",))])
    assert (plan.down[1], plan.up[2]) == ([0], [0, 2])
    assert (plan.layers.down, plan.layers.up) == ({}, {2: []})


def test_layers_of_sdxl():
    gone = [DropLayer("down_blocks.2.attentions.1", 3), DropLayer("mid_block.attentions.0", 0)]
    plan = plan_without("sdxl", gone)
    assert plan.layers.down == {2: [None, [0, 1, 2, 4, 5, 6, 7, 8, 9]]} and plan.layers.mid == [
        1,
        2,
        3,
        4,
        5,
        6,
        7,
        8,
        9,
    ]
    assert plan.layers.up == {}


def on_meta(config: dict) -> UNet2DConditionModel:
    with torch.device("meta"):
        return UNet2DConditionModel.from_config(config)


@pytest.mark.parametrize(("family", "config"), [("sd", TOY), ("sdxl", toyxl.UNET)])
def test_a_unit_is_one_whose_weights_fit_and_no_other_is(family, config):
    """Against pruning itself: all ways of each stage, of which those that are left out must be refused."""
    teacher, there = on_meta(config), set(list_units(family, config, may_drop_attention=False))
    stages = len(config["block_out_channels"])
    ups = [(0, 1), (0, 2), (1, 2)]
    every = [ThinStage(stage, (down,), up) for stage in range(stages) for down in (0, 1) for up in ups]
    every += [
        DropDeepest(removed, mid)
        for removed in range(stages)
        for mid in ("keep", "drop")
        if (removed, mid) != (0, "keep")
    ]
    for unit in random.Random(5).sample(every, 12 if family == "sd" else 6):
        assert (unit in there) == fits(teacher, plan_without(family, [unit])), unit.name


def fits(teacher: UNet2DConditionModel, plan: Plan) -> bool:
    try:
        prune(teacher, plan, shared=True)
    except UserError:
        return False
    return True


@pytest.mark.slow
def test_every_combination_of_units_fits():
    teacher, found = on_meta(TOY), list_units("sd", TOY, may_drop_attention=True)
    groups = [[unit for unit in found if unit.group == f"stage {stage}"] for stage in range(4)]
    combinations = list(itertools.product(*groups))
    for combination in random.Random(1).sample(combinations, 60):
        assert fits(teacher, plan_without("sd", [DropDeepest(0, "resnet"), *combination]))
        assert fits(teacher, plan_without("sd", [DropDeepest(1, "drop"), *combination[:3]]))
