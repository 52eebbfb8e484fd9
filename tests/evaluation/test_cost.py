import sys

import pytest
import torch
from diffusers import UNet2DConditionModel
from known import SD15

from prunella import STUDENTS, student_config
from prunella.evaluation.cost import latencies, macs, parameters, peak_memory_mb


def test_parameters_of_sd15_by_part():
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(SD15)
    parts = parameters(unet)
    assert parts["params"] == 859_520_964
    rest = sum(
        w.numel()
        for part in (unet.conv_in, unet.time_embedding, unet.conv_norm_out, unet.conv_out)
        for w in part.parameters()
    )
    assert parts["params_down"] + parts["params_mid"] + parts["params_up"] + rest == parts["params"]


def test_a_student_without_mid_block_has_none_of_its_parameters():
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(student_config(STUDENTS["sd-tiny"], SD15))
    assert parameters(unet)["params_mid"] == 0


@pytest.mark.parametrize(
    ("student", "linear", "whole"),
    [(None, 338.6, 401.6), ("sd-small", 223.7, 261.5), ("sd-tiny", 204.95, 242.75)],
)
def test_multiply_accumulates_of_sd15_as_published(student, linear, whole):
    # In 10⁹, at 64×64 latents: BK-SDM's table 1 (convolutions and linear layers), and with attention's products.
    config = student_config(STUDENTS[student], SD15) if student else SD15
    counted = macs(config)
    assert counted["macs_conv_linear"] / 1e9 == pytest.approx(linear, abs=0.06)
    assert counted["macs"] / 1e9 == pytest.approx(whole, abs=0.06)


def test_calls_are_timed_in_turns_after_a_warm_up():
    order = []
    times = latencies({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3)
    assert order == ["a", "b"] + ["a", "b"] * 3
    assert set(times["a"]) == {"latency_ms_p50", "latency_ms_p95"}
    assert times["a"]["latency_ms_p50"] <= times["a"]["latency_ms_p95"]


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: /proc/self/clear_refs")
def test_peak_memory_sees_what_a_call_holds():
    held = peak_memory_mb(lambda: torch.ones(50_000_000).sum())
    assert 190 < held < 300  # 50 million floats are 200 MB
