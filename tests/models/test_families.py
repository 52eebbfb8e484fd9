import pytest
from known import SD15, SDXL

from prunella.models.families import family


def test_families_are_told_by_block_types_not_by_widths():
    assert family(SD15) == "sd"
    assert family(SD15 | {"block_out_channels": [7, 14, 28, 28], "cross_attention_dim": 1024}) == "sd"
    assert family(SDXL) == "sdxl"


@pytest.mark.parametrize(
    "changes",
    [
        {"transformer_layers_per_block": [1, 2, 4]},
        {"transformer_layers_per_block": [1, [2, 1], 10]},
        {"mid_block_type": None},
        {"layers_per_block": 1},
    ],
)
def test_a_student_is_not_of_its_teachers_family(changes):
    assert family(SDXL) == "sdxl"
    assert family(SDXL | changes) is None


@pytest.mark.parametrize("types", [(), ("DownBlock2D",), tuple(SD15["down_block_types"][::-1])])
def test_anything_else_is_of_no_family(types):
    assert family({"down_block_types": types}) is None
