import pytest
from known import SD15, SDXL

from prunella import STUDENTS
from prunella.errors import UserError
from prunella.reporting.plan_text import format_plan_text


def test_what_sd_tiny_keeps():
    lines = format_plan_text(STUDENTS["sd-tiny"], SD15).splitlines()
    assert lines[0] == "sd-tiny: SD-Tiny (= BK-SDM-Tiny), from Stable Diffusion 1.x or 2.x"
    for line in (
        "down 2  keeps pairs 0, removes 1",
        "down 3  removed",
        "mid     removed",
        "up   0  removed",
        "up   1  keeps pairs 0, 2, removes 1",
        "  layers_per_block: 2 → 1",
        "  mid_block_type: UNetMidBlock2DCrossAttn → None",
        "compared features (block-segmind), student with teacher:",
        "  down_blocks.2 – up_blocks.0",
    ):
        assert line in lines


def test_what_koala_and_ssd_keep_of_transformer_layers():
    lines = format_plan_text(STUDENTS["koala-1b"], SDXL).splitlines()
    assert "down 2  keeps pairs 0, removes 1; of pair 0's 10 transformer layers 0, 1, 2, 3, 4, 5" in lines
    assert "mid     kept; of its 10 transformer layers 0, 1, 2, 3, 4, 5" in lines
    lines = format_plan_text(STUDENTS["ssd-1b"], SDXL).splitlines()
    assert "mid     keeps the first resnet alone" in lines
    assert "down 1  keeps pairs 0, 1" in lines


def test_another_teacher_is_refused():
    with pytest.raises(UserError, match="made from a teacher of family 'sdxl'"):
        format_plan_text(STUDENTS["koala-1b"], SD15)
