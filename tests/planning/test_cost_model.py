import pytest
import torch
from diffusers import UNet2DConditionModel
from known import SD15, SD21, SDXL

from prunella import STUDENTS, student_config
from prunella.planning.cost_model import count_costs, list_kept_modules
from prunella.planning.units import ThinStage, plan_without
from prunella.profiling.cost import count_macs


@pytest.mark.parametrize(("family", "config", "size"), [("sd", SD15, 64), ("sd", SD21, 64), ("sdxl", SDXL, 128)])
def test_sums_over_parts_are_what_students_cost(family, config, size):
    prices = count_costs(family, config, (0, 1) if family == "sd" else (0,), (size, size))
    own = plan_without(family, [ThinStage(1, (0, 1), (0, 1, 2), ("up",))])
    for plan in [
        own,
        *(STUDENTS[name] for name in ("sd-tiny", "bk-sdm-small", "koala-1b") if STUDENTS[name].family == family),
    ]:
        small = student_config(plan, config)
        with torch.device("meta"):
            assert prices["params"].cost_of_plan(plan) == UNet2DConditionModel.from_config(small).num_parameters()
        assert prices["macs"].cost_of_plan(plan) == count_macs(small, (size, size))["macs"]


def test_parts_of_sd_tiny():
    kept = list_kept_modules(STUDENTS["sd-tiny"])
    assert "down_blocks.1.downsamplers" in kept and "down_blocks.2.downsamplers" not in kept
    assert "up_blocks.3.resnets.2" in kept and "up_blocks.3.resnets.1" not in kept
    assert not [part for part in kept if part.startswith(("mid_block", "up_blocks.0", "down_blocks.3"))]
