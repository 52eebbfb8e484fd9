import pytest
from known import SD15, SDXL

from prunella import STUDENTS, feature_pairs, student_config
from prunella.errors import UserError
from prunella.params import validate_config
from prunella.pruning.mapping import teacher_key, weight_map
from prunella.pruning.plan import Plan

D, U, T = "down_blocks", "up_blocks", "transformer_blocks"


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
    with pytest.raises(UserError, match=r"family 'sd' \(Stable .* 2.x\); this teacher is Stable Diffusion XL"):
        student_config(STUDENTS["sd-small"], SDXL)
    with pytest.raises(UserError, match=r"of no known family \(down blocks DownBlock2D of 2 pairs"):
        student_config(STUDENTS["sd-small"], SD15 | {"down_block_types": ["DownBlock2D"]})


@pytest.mark.parametrize("student", sorted(STUDENTS))
def test_a_student_is_no_teacher_of_its_own_plan(student):
    plan = STUDENTS[student]
    config = student_config(plan, SDXL if plan.family == "sdxl" else SD15)
    with pytest.raises(UserError, match=rf"student {student} keeps all that this teacher has"):
        student_config(plan, config)


# Changed entries as in the published config.json files.
@pytest.mark.parametrize(
    ("student", "expected"),
    [
        (
            "ssd-1b",
            {
                "mid_block_type": "UNetMidBlock2D",
                "transformer_layers_per_block": [1, 2, 4],
                "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 1],
            },
        ),
        ("segmind-vega", {"mid_block_type": "UNetMidBlock2D", "transformer_layers_per_block": [1, 1, 2]}),
        ("koala-1b", {"layers_per_block": 1, "transformer_layers_per_block": [1, 2, 6]}),
        ("koala-700m", {"layers_per_block": 1, "mid_block_type": None, "transformer_layers_per_block": [1, 2, 5]}),
    ],
)
def test_the_configs_of_sdxls_students_by_hand(student, expected):
    config = student_config(STUDENTS[student], SDXL)
    assert {name: value for name, value in config.items() if name not in SDXL or SDXL[name] != value} == expected


def own(student: str, **changes) -> Plan:
    return validate_config(Plan, STUDENTS[student].model_dump() | changes, "own.yaml")


def test_pairs_of_one_stage_may_keep_different_layers():
    plan = own("koala-700m", down=[[0], [0, 1], [0]], up=[[0, 2], [0, 1, 2], [0, 2]], layers={"down": {1: [None, [1]]}})
    config = student_config(plan, SDXL)
    assert config["layers_per_block"] == [1, 2, 1]
    assert config["transformer_layers_per_block"] == [1, [2, 1], 10]
    # Nested down numbers need the up stages' beside them, or diffusers refuses the config.
    assert config["reverse_transformer_layers_per_block"] == [10, 2, 1]
    key = "down_blocks.1.attentions.1.transformer_blocks.0.norm1.bias"
    assert teacher_key(key, weight_map(plan)) == "down_blocks.1.attentions.1.transformer_blocks.1.norm1.bias"


def test_a_mid_block_of_other_depth_than_the_last_down_stage_is_refused():
    plan = own("koala-1b", layers=STUDENTS["koala-1b"].layers.model_dump() | {"mid": [0, 1]})
    with pytest.raises(UserError, match="mid block keeps 2 transformer layers and the last down stage 6"):
        student_config(plan, SDXL)


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
        ("ssd-1b", f"{D}.2.attentions.1.{T}.3.ff.net.2.bias", f"{D}.2.attentions.1.{T}.6.ff.net.2.bias"),
        ("ssd-1b", f"{U}.0.attentions.2.{T}.9.attn2.to_k.weight", f"{U}.0.attentions.2.{T}.9.attn2.to_k.weight"),
        ("ssd-1b", "mid_block.resnets.0.conv1.weight", "mid_block.resnets.0.conv1.weight"),
        ("koala-1b", f"{U}.0.attentions.1.{T}.5.norm1.bias", f"{U}.0.attentions.2.{T}.5.norm1.bias"),
        ("koala-1b", f"mid_block.attentions.0.{T}.5.norm1.bias", f"mid_block.attentions.0.{T}.5.norm1.bias"),
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


def modules(student: str, mode: str) -> list[tuple[str, str]]:
    return [pair[1:] for pair in feature_pairs(STUDENTS[student], mode)]


def test_pairs_of_sdxls_students_by_blocks():
    blocks = [(f"{D}.{i}", f"{D}.{i}") for i in range(3)], [(f"{U}.{i}", f"{U}.{i}") for i in range(3)]
    assert modules("ssd-1b", "block-bk") == [*blocks[0], *blocks[1]]
    assert modules("koala-1b", "block-segmind") == [*blocks[0], ("mid_block", "mid_block"), *blocks[1]]
    assert modules("koala-700m", "block-segmind") == [*blocks[0], *blocks[1]]


def test_block_pairs_where_the_last_kept_stage_has_no_attention():
    plan = own("koala-700m", down=[[0], None, None], up=[None, None, [0, 2]], layers={})
    pairs = [pair[1:] for pair in feature_pairs(plan, "block-bk")]
    assert pairs == [(f"{D}.0.resnets.0", f"{D}.0.resnets.1"), (f"{U}.0", f"{U}.2")]


def test_the_26_terms_of_ssd_1b():
    # Each resnet and each attention of each block; the teacher's whole mid block with the student's one resnet.
    same = [f"{D}.{stage}.resnets.{i}" for stage in (0, 1, 2) for i in (0, 1)]
    same += [f"{D}.{stage}.attentions.{i}" for stage in (1, 2) for i in (0, 1)]
    same += [f"{U}.{stage}.resnets.{i}" for stage in (0, 1, 2) for i in (0, 1, 2)]
    same += [f"{U}.{stage}.attentions.{i}" for stage in (0, 1) for i in (0, 1, 2)]
    expected = {(name, name) for name in same} | {("mid_block.resnets.0", "mid_block")}
    assert len(expected) == 26 and len(modules("ssd-1b", "sub-block")) == 26
    assert set(modules("ssd-1b", "sub-block")) == expected


def test_sub_block_pairs_of_sd_tiny():
    expected = {(f"{D}.{i}.{kind}.0",) * 2 for i in (0, 1, 2) for kind in ("resnets", "attentions")}
    for i in (0, 1, 2):
        for kind in ("resnets", "attentions"):
            expected |= {(f"{U}.{i}.{kind}.0", f"{U}.{i + 1}.{kind}.0"), (f"{U}.{i}.{kind}.1", f"{U}.{i + 1}.{kind}.2")}
    assert set(modules("sd-tiny", "sub-block")) == expected


def test_self_attention_pairs_of_sd_small():
    expected = {(f"{D}.{i}.attentions.0.{T}.0.attn1",) * 2 for i in (0, 1, 2)}
    expected |= {(f"{U}.{i}.attentions.0.{T}.0.attn1",) * 2 for i in (1, 2, 3)}
    expected |= {(f"{U}.{i}.attentions.1.{T}.0.attn1", f"{U}.{i}.attentions.2.{T}.0.attn1") for i in (1, 2, 3)}
    expected |= {(f"mid_block.attentions.0.{T}.0.attn1",) * 2}
    assert set(modules("sd-small", "self-attention")) == expected


def test_self_attention_pairs_of_koala_700m():
    expected = {(f"{D}.1.attentions.0.{T}.{k}.attn1",) * 2 for k in range(2)}
    expected |= {(f"{D}.2.attentions.0.{T}.{k}.attn1",) * 2 for k in range(5)}
    for stage, layers in ((0, 5), (1, 2)):
        for ours, theirs in ((0, 0), (1, 2)):
            ends = [f"{T}.{k}.attn1" for k in range(layers)]
            expected |= {(f"{U}.{stage}.attentions.{ours}.{e}", f"{U}.{stage}.attentions.{theirs}.{e}") for e in ends}
    assert set(modules("koala-700m", "self-attention")) == expected


def test_self_attention_of_a_kept_layer_is_compared_with_its_own():
    assert (f"{D}.2.attentions.0.{T}.3.attn1", f"{D}.2.attentions.0.{T}.6.attn1") in modules("ssd-1b", "self-attention")


def test_without_a_mode_the_plan_decides_and_names_are_unique():
    for plan in STUDENTS.values():
        pairs = feature_pairs(plan)
        assert pairs == feature_pairs(plan, plan.features)
        assert len({pair.name for pair in pairs}) == len(pairs)


def test_a_stage_without_attention_is_a_plain_block():
    config = student_config(own("sd-small", layers={"down": {1: []}, "up": {2: []}}), SD15)
    cross = "CrossAttnDownBlock2D"
    assert config["down_block_types"] == [cross, "DownBlock2D", cross, "DownBlock2D"]
    assert config["up_block_types"] == ["UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"]
    places = weight_map(own("sd-small", layers={"down": {1: []}, "up": {2: []}}))
    assert not [name for name in places if name.startswith(("down_blocks.1.att", "up_blocks.2.att"))]


def test_the_mid_block_keeps_its_layers_where_the_last_stage_has_no_attention():
    config = student_config(own("koala-1b", layers={"mid": [0, 3], "down": {2: []}, "up": {}}), SDXL)
    assert config["transformer_layers_per_block"] == [1, 2, 2]  # the last is the mid block's
    assert config["reverse_transformer_layers_per_block"] == [10, 2, 1]


def test_a_layer_of_the_mid_block_is_the_one_that_the_plan_keeps():
    places = weight_map(own("koala-1b", layers={"mid": [0, 3], "down": {2: []}, "up": {}}))
    key = "mid_block.attentions.0.transformer_blocks.1.norm1.bias"
    assert teacher_key(key, places) == "mid_block.attentions.0.transformer_blocks.3.norm1.bias"


def test_block_pairs_of_a_last_stage_that_has_lost_its_attention():
    plan = own("sd-tiny", layers={"down": {2: []}})
    assert feature_pairs(plan, "block-bk")[2][1:] == (f"{D}.2.resnets.0", f"{D}.2.resnets.1")
