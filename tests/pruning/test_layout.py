"""A published student as a teacher: its layout, the students that keep less, where their weights come from."""

import copy
import json
from itertools import product
from typing import get_args

import pytest
import torch
import toyxl
from carving import carved
from diffusers import UNet2DConditionModel
from known import SD15, SD21, SDXL

from prunella import STUDENTS, feature_pairs, prune, student_config
from prunella.errors import UserError
from prunella.models.families import count_transformer_layers, strip_private_keys
from prunella.models.pipeline import load_unet
from prunella.params import FeatureMode, validate_config
from prunella.pruning.layout import find_matching_plan, require_full_family
from prunella.pruning.mapping import weight_map
from prunella.pruning.plan import Plan
from prunella.pruning.prune import prune_to_folder
from prunella.pruning.within import find_missing_block, keep_same_blocks
from prunella.training.feature_capture import capture_outputs

D, U, T = "down_blocks", "up_blocks", "transformer_blocks"
WHOLE = {"sd": SD15, "sdxl": SDXL}
# As in the published config.json files.
SSD_1B = SDXL | {
    "mid_block_type": "UNetMidBlock2D",
    "transformer_layers_per_block": [1, 2, 4],
    "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 1],
}
VEGA = SDXL | {"mid_block_type": "UNetMidBlock2D", "transformer_layers_per_block": [1, 1, 2]}
KOALA = SDXL | {"layers_per_block": 1, "mid_block_type": None, "transformer_layers_per_block": [1, 2, 5]}
SMALL = SD15 | {"layers_per_block": 1}
TINY = SMALL | {
    "mid_block_type": None,
    "down_block_types": SD15["down_block_types"][:3],
    "up_block_types": SD15["up_block_types"][1:],
    "block_out_channels": [320, 640, 1280],
}


def own(student: str, **changes) -> Plan:
    return validate_config(Plan, STUDENTS[student].model_dump() | changes, "own.yaml")


# Every student that keeps less than another of its family: (that, student).
LESS = [
    (outer, inner)
    for outer, inner in product(STUDENTS, STUDENTS)
    if STUDENTS[outer].family == STUDENTS[inner].family
    and not find_missing_block(STUDENTS[inner], STUDENTS[outer])
    and not keep_same_blocks(STUDENTS[inner], STUDENTS[outer])
]

# Those of them that differ: plans of one shape, such as sd-small and bk-sdm-base, would give the same again.
APART = [(outer, inner) for outer, inner in LESS if outer != "bk-sdm-base" and inner != "bk-sdm-tiny"]


def test_which_students_keep_less_than_which():
    assert [
        *[("bk-sdm-base", name) for name in ("bk-sdm-small", "bk-sdm-tiny", "sd-tiny")],
        *[("bk-sdm-small", name) for name in ("bk-sdm-tiny", "sd-tiny")],
        ("koala-1b", "koala-700m"),
        *[("sd-small", name) for name in ("bk-sdm-small", "bk-sdm-tiny", "sd-tiny")],
        ("ssd-1b", "segmind-vega"),
    ] == LESS


@pytest.mark.parametrize("config", [SD15, SD21, SDXL])
def test_a_whole_teacher_has_no_layout(config):
    assert find_matching_plan(config) is None


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (SSD_1B, "ssd-1b"),
        (VEGA, "segmind-vega"),
        (KOALA, "koala-700m"),
        (SMALL, "bk-sdm-base"),  # the same as sd-small, and the first of the two by name
        (SMALL | {"attention_head_dim": [5, 10, 20, 20]}, "bk-sdm-base"),
        (SMALL | {"mid_block_type": None}, "bk-sdm-small"),
        (TINY, "bk-sdm-tiny"),
        (TINY | {"layers_per_block": [1, 1, 1], "block_out_channels": [4, 4, 4]}, "bk-sdm-tiny"),
    ],
)
def test_a_published_config_is_told_by_its_shape(config, name):
    assert keep_same_blocks(find_matching_plan(config), STUDENTS[name])
    assert find_matching_plan(config).name == name


@pytest.mark.parametrize("name", sorted(STUDENTS))
def test_what_a_plan_makes_is_of_its_layout(name):
    assert keep_same_blocks(
        find_matching_plan(student_config(STUDENTS[name], WHOLE[STUDENTS[name].family])), STUDENTS[name]
    )


@pytest.mark.parametrize(
    "config",
    [
        SSD_1B | {"reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 2], 1]},
        SSD_1B | {"reverse_transformer_layers_per_block": None},
        SSD_1B | {"mid_block_type": "UNetMidBlock2DCrossAttn"},
        SSD_1B | {"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"},
        SSD_1B | {"addition_embed_type": None},
        SSD_1B | {"addition_embed_type": "image"},
        KOALA | {"down_block_types": ["AttnDownBlock2D"] * 3},
        KOALA | {"transformer_layers_per_block": []},
        TINY | {"layers_per_block": [1, 1]},
        {"down_block_types": []},
        {},
    ],
)
def test_another_shape_is_of_no_layout(config):
    assert find_matching_plan(config) is None
    with pytest.raises(UserError, match="of no known family"):
        student_config(STUDENTS["koala-700m"], config)


def test_blocks_by_hand():
    assert count_transformer_layers(TINY) == ([[1], [1], [1]], None, [[1, 1], [1, 1], [1, 1]])
    assert count_transformer_layers(SSD_1B) == ([[0, 0], [2, 2], [4, 4]], 0, [[4, 4, 10], [2, 1, 1], [0, 0, 0]])
    assert count_transformer_layers(SD15)[1:] == (1, [[0, 0, 0], [1, 1, 1], [1, 1, 1], [1, 1, 1]])


def test_vega_from_ssd_1b_has_the_shape_of_vega_from_sdxl():
    plan = STUDENTS["segmind-vega"]
    config = student_config(plan, SSD_1B)
    assert config.pop("reverse_transformer_layers_per_block") is None  # SSD-1B's own is gone
    assert config == student_config(plan, SDXL) == strip_private_keys(VEGA)
    with torch.device("meta"):
        teacher = UNet2DConditionModel.from_config(SSD_1B)
        published = UNet2DConditionModel.from_config(VEGA)
    made = prune(teacher, plan)
    assert made.num_parameters() == 745_225_604
    shapes = [{name: value.shape for name, value in unet.state_dict().items()} for unet in (made, published)]
    assert shapes[0] == shapes[1]


def test_the_config_of_sd_tiny_from_sd_small():
    assert student_config(STUDENTS["sd-tiny"], SMALL) == strip_private_keys(TINY)


@pytest.fixture(scope="module")
def distinct(teacher, xl_teacher):
    """Teachers by family, no two elements of which are the same by any likelihood."""
    teachers = {"sd": copy.deepcopy(load_unet(teacher)), "sdxl": load_unet(xl_teacher)}
    source = torch.Generator().manual_seed(2)
    for unet in teachers.values():
        for weight in unet.parameters():
            weight.data = torch.randn(weight.shape, generator=source) * 0.1
    return teachers


@pytest.mark.parametrize(("outer", "inner"), APART)
def test_pruned_twice_is_pruned_once(distinct, outer, inner):
    whole = distinct[STUDENTS[inner].family]
    once, twice = prune(whole, STUDENTS[inner]), prune(prune(whole, STUDENTS[outer]), STUDENTS[inner])
    expected = once.state_dict()
    assert {name for name, value in twice.state_dict().items() if torch.equal(value, expected[name])} == set(expected)
    assert count_transformer_layers(twice.config) == count_transformer_layers(once.config)


def test_sd_tiny_from_sd_small_by_hand(distinct):
    small = prune(distinct["sd"], STUDENTS["sd-small"])
    lists = {"down_blocks.2.downsamplers": [], "down_blocks": [0, 1, 2], "up_blocks": [1, 2, 3], "mid_block": []}
    expected, found = carved(small, lists), prune(small, STUDENTS["sd-tiny"]).state_dict()
    assert set(found) == set(expected)
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


def test_vega_from_ssd_1b_by_hand(distinct):
    ssd = prune(distinct["sdxl"], STUDENTS["ssd-1b"])
    # SSD-1B's layers 0, 1, 2, 6 (and 2, 1, 1) are its own 0 to 3 (and 0, 1; 0; 0): Vega keeps the first two (one).
    lists = {f"{D}.1.attentions.{i}.{T}": [0] for i in (0, 1)} | {f"{D}.2.attentions.{i}.{T}": [0, 1] for i in (0, 1)}
    for i in (0, 1, 2):
        lists |= {f"{U}.0.attentions.{i}.{T}": [0, 1], f"{U}.1.attentions.{i}.{T}": [0]}
    expected, found = carved(ssd, lists), prune(ssd, STUDENTS["segmind-vega"]).state_dict()
    assert set(found) == set(expected)
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


def test_layers_that_a_layout_has_under_other_numbers():
    plan = own(
        "segmind-vega",
        layers={"down": {1: [[1], [0]], 2: [[2, 6], [0, 6]]}, "up": {0: [[1, 6]] * 3, 1: [[1], [0], [0]]}},
    )
    places = weight_map(plan, SSD_1B)
    there = {name: places[name] for name in places if name.startswith((f"{D}.2.attentions.0.t", f"{U}.0.attentions.2"))}
    assert there == {
        f"{D}.2.attentions.0.{T}.0": f"{D}.2.attentions.0.{T}.2",
        f"{D}.2.attentions.0.{T}.1": f"{D}.2.attentions.0.{T}.3",  # the whole teacher's layer 6
        f"{U}.0.attentions.2": f"{U}.0.attentions.2",
        f"{U}.0.attentions.2.{T}.0": f"{U}.0.attentions.2.{T}.1",
        f"{U}.0.attentions.2.{T}.1": f"{U}.0.attentions.2.{T}.6",  # SSD-1B keeps all of this one
    }


def pairs_of(student: str, mode: str, teacher: dict) -> list[tuple[str, str]]:
    return [pair[1:] for pair in feature_pairs(STUDENTS[student], mode, teacher)]


def test_pairs_of_sd_tiny_with_sd_small():
    outer, up = [(f"{D}.0",) * 2, (f"{D}.1",) * 2], [(f"{U}.{i}", f"{U}.{i + 1}") for i in range(3)]
    assert pairs_of("sd-tiny", "block-segmind", SMALL) == [*outer, (f"{D}.2", f"{U}.0"), *up]
    deepest = (f"{D}.2.attentions.0.proj_out",) * 2  # SD-Small has one attention there, SD 1.5 two
    assert pairs_of("sd-tiny", "block-bk", SMALL) == [*outer, deepest, *up]
    attention = pairs_of("sd-tiny", "self-attention", SMALL)
    assert (f"{U}.2.attentions.1.{T}.0.attn1", f"{U}.3.attentions.1.{T}.0.attn1") in attention and len(attention) == 9


def test_pairs_of_a_student_that_has_lost_no_stage_more():
    plan = own("sd-tiny", layers={"up": {1: []}})
    same_places = [(f"{way}.{i}",) * 2 for way in (D, U) for i in range(3)]
    assert [pair[1:] for pair in feature_pairs(plan, "block-segmind", TINY)] == same_places
    assert [pair[1:] for pair in feature_pairs(plan, "block-bk", TINY)] == same_places


def test_pairs_of_vega_with_ssd_1b():
    places = pairs_of("segmind-vega", "sub-block", SSD_1B)
    assert len(places) == 26 and places[-1] == ("mid_block.resnets.0", "mid_block")
    assert {pair for pair in places if pair[0] != pair[1]} == {places[-1]}
    assert (f"{U}.0.attentions.1.{T}.1.attn1",) * 2 in pairs_of("segmind-vega", "self-attention", SSD_1B)


@pytest.mark.parametrize("mode", get_args(FeatureMode))
@pytest.mark.parametrize(("outer", "inner"), APART)
def test_compared_features_have_the_same_shape(distinct, noise, outer, inner, mode):
    plan = STUDENTS[inner]
    teacher = prune(distinct[plan.family], STUDENTS[outer])
    small, pairs = prune(teacher, plan), feature_pairs(plan, mode, teacher.config)
    assert pairs and len({pair.name for pair in pairs}) == len(pairs)
    given = {"encoder_hidden_states": noise(2, 19, 24)}
    if plan.family == "sdxl":
        added = {"text_embeds": noise(2, toyxl.POOLED), "time_ids": torch.tensor([[32, 40, 0, 4, 32, 32]] * 2)}
        given = {"encoder_hidden_states": noise(2, 19, sum(toyxl.WIDTHS)), "added_cond_kwargs": added}
    with (
        torch.no_grad(),
        capture_outputs(teacher, {pair.teacher for pair in pairs}) as theirs,
        capture_outputs(small, {pair.student for pair in pairs}) as ours,
    ):
        for unet in (teacher, small):
            unet(noise(2, 4, 8, 8), torch.tensor([3, 700]), **given)
    for pair in pairs:
        assert theirs[pair.teacher].shape == ours[pair.student].shape, pair


@pytest.mark.parametrize(
    ("student", "config", "said"),
    [
        (
            "sd-small",
            TINY,
            "student sd-small keeps more of the mid block of a whole teacher; this teacher is a student itself, of the "
            "layout of bk-sdm-tiny (BK-SDM-Tiny (= SD-Tiny)), and lacks that",
        ),
        (
            "koala-700m",
            VEGA,
            "student koala-700m keeps layer 1 of down stage 1, pair 0 of a whole teacher; this teacher is a student "
            "itself, of the layout of segmind-vega (Segmind-Vega), and lacks that",
        ),
        (
            "sd-small",
            SMALL,
            "student sd-small keeps all that this teacher has, which is a student itself, of the layout of bk-sdm-base "
            "(BK-SDM-Base (= SD-Small)): name a student that keeps less",
        ),
        (
            "sd-tiny",
            SSD_1B,
            "student sd-tiny is made from a teacher of family 'sd' (Stable Diffusion 1.x or 2.x); this teacher is a "
            "student of the layout of ssd-1b (SSD-1B)",
        ),
    ],
)
def test_what_a_student_lacks_is_named(student, config, said):
    with pytest.raises(UserError) as caught:
        student_config(STUDENTS[student], config)
    assert str(caught.value) == said


def test_a_student_that_keeps_more_than_its_teacher_has_nothing_to_compare():
    for asked in (lambda: weight_map(STUDENTS["sd-small"], TINY), lambda: pairs_of("sd-small", "block-bk", TINY)):
        with pytest.raises(UserError, match="keeps more of the mid block of a whole teacher"):
            asked()


def test_who_chooses_asks_for_a_whole_teacher():
    assert require_full_family(SDXL, "plan.students.mine") == "sdxl"
    with pytest.raises(
        UserError, match=r"^plan\.students\.mine: this teacher's UNet is a student itself, of the .*ssd"
    ):
        require_full_family(SSD_1B, "plan.students.mine")
    with pytest.raises(UserError, match=r"^latency: this teacher's UNet is of no known family"):
        require_full_family(SSD_1B | {"mid_block_type": None}, "latency")


def test_a_saved_student_is_pruned_further_as_its_folder_says(params, pruned_xl, tmp_path):
    from prunella.pruning.plan import SHIPPED_PLANS

    kept, whole = prune_to_folder(params.prune, pruned_xl, SHIPPED_PLANS / "segmind-vega.yaml", tmp_path / "vega")
    assert kept < whole == load_unet(pruned_xl).num_parameters()
    config = json.loads((tmp_path / "vega" / "unet" / "config.json").read_text())
    assert keep_same_blocks(find_matching_plan(config), STUDENTS["segmind-vega"])
    stock = UNet2DConditionModel.from_pretrained(tmp_path / "vega" / "unet")  # by stock diffusers
    assert stock.num_parameters() == kept
