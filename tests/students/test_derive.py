import pytest
from known import SD15, SDXL

from prunella import STUDENTS, feature_pairs, student_config
from prunella.errors import UserError
from prunella.students.derive import teacher_key, weight_map

D, U = "down_blocks", "up_blocks"


def test_the_config_of_sd_small_by_hand():
    config = student_config(STUDENTS["sd-small"], SD15)
    changed = {name: value for name, value in config.items() if SD15.get(name) != value}
    assert changed == {"layers_per_block": 1}


def test_the_config_of_sd_tiny_by_hand():
    config = student_config(STUDENTS["sd-tiny"], SD15)
    changed = {name: value for name, value in config.items() if SD15.get(name) != value}
    assert changed == {
        "layers_per_block": 1,
        "mid_block_type": None,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3,
        "up_block_types": ["CrossAttnUpBlock2D"] * 3,
        "block_out_channels": [320, 640, 1280],
    }


def test_values_per_stage_are_cut_and_others_left():
    lists = SD15 | {"attention_head_dim": [5, 10, 20, 20], "only_cross_attention": [True, True, True, False]}
    config = student_config(STUDENTS["sd-tiny"], lists)
    assert config["attention_head_dim"] == [5, 10, 20]
    assert config["only_cross_attention"] == [True, True, True]
    assert config["cross_attention_dim"] == 768
    assert lists["attention_head_dim"] == [5, 10, 20, 20]  # the teacher's config is as it was


def test_diffusers_notes_are_left_behind():
    # "_use_default_values" naming mid_block_type would make from_config ignore that we drop the mid block.
    noted = SD15 | {"_use_default_values": ["mid_block_type"]}
    assert not [name for name in student_config(STUDENTS["sd-tiny"], noted) if name.startswith("_")]


def test_a_plan_of_another_family_is_refused():
    with pytest.raises(UserError, match="teacher of family 'sd'; this teacher is sdxl"):
        student_config(STUDENTS["sd-small"], SDXL)
    with pytest.raises(UserError, match="of no known family"):
        student_config(STUDENTS["sd-small"], SD15 | {"down_block_types": ["DownBlock2D"]})


def test_a_pair_that_the_teacher_lacks_is_named():
    with pytest.raises(UserError, match="up stage 0 keeps pair 2, but the teacher has pairs 0 to 1"):
        student_config(STUDENTS["sd-small"], SD15 | {"layers_per_block": 1})


@pytest.mark.parametrize(
    ("student", "key", "origin"),
    [
        ("sd-small", "conv_in.weight", "conv_in.weight"),
        ("sd-small", "mid_block.resnets.1.conv1.bias", "mid_block.resnets.1.conv1.bias"),
        ("sd-small", "down_blocks.1.resnets.0.conv1.weight", "down_blocks.1.resnets.0.conv1.weight"),
        ("sd-small", "down_blocks.2.downsamplers.0.conv.bias", "down_blocks.2.downsamplers.0.conv.bias"),
        ("sd-small", "up_blocks.1.resnets.1.norm1.weight", "up_blocks.1.resnets.2.norm1.weight"),
        ("sd-small", "up_blocks.3.attentions.1.proj_in.bias", "up_blocks.3.attentions.2.proj_in.bias"),
        ("sd-tiny", "up_blocks.0.resnets.0.conv2.bias", "up_blocks.1.resnets.0.conv2.bias"),
        ("sd-tiny", "up_blocks.0.resnets.1.conv2.bias", "up_blocks.1.resnets.2.conv2.bias"),
        ("sd-tiny", "up_blocks.2.attentions.1.norm.bias", "up_blocks.3.attentions.2.norm.bias"),
        ("sd-tiny", "up_blocks.1.upsamplers.0.conv.weight", "up_blocks.2.upsamplers.0.conv.weight"),
        ("sd-tiny", "down_blocks.2.attentions.0.norm.bias", "down_blocks.2.attentions.0.norm.bias"),
    ],
)
def test_where_a_weight_comes_from(student, key, origin):
    assert teacher_key(key, weight_map(STUDENTS[student])) == origin


# Expected pairs as in the sources: BK-SDM's training script leaves the mid block out; distill-sd takes it where
# there is one, and compares Tiny's deepest down stage with the teacher's removed up stage.


def test_pairs_of_sd_small():
    down = [(f"{D}.{i}", f"{D}.{i}") for i in range(4)]
    up = [(f"{U}.{i}", f"{U}.{i}") for i in range(4)]
    assert [pair[1:] for pair in feature_pairs(STUDENTS["sd-small"], "block-bk")] == down + up
    mid = [("mid_block", "mid_block")]
    assert [pair[1:] for pair in feature_pairs(STUDENTS["sd-small"], "block-segmind")] == down + mid + up


def test_pairs_of_sd_tiny():
    up = [(f"{U}.0", f"{U}.1"), (f"{U}.1", f"{U}.2"), (f"{U}.2", f"{U}.3")]
    outer = [(f"{D}.0", f"{D}.0"), (f"{D}.1", f"{D}.1")]
    deepest = (f"{D}.2.attentions.0.proj_out", f"{D}.2.attentions.1.proj_out")
    assert [pair[1:] for pair in feature_pairs(STUDENTS["sd-tiny"], "block-bk")] == [*outer, deepest, *up]
    deepest = (f"{D}.2", f"{U}.0")
    assert [pair[1:] for pair in feature_pairs(STUDENTS["sd-tiny"], "block-segmind")] == [*outer, deepest, *up]


def test_without_a_mode_the_plan_decides_and_names_are_unique():
    for plan in STUDENTS.values():
        pairs = feature_pairs(plan)
        assert pairs == feature_pairs(plan, plan.features)
        assert len({pair.name for pair in pairs}) == len(pairs)
