import json

import pytest
import torch
from diffusers import UNet2DConditionModel
from known import SD15

from prunella import STUDENTS, student_config
from prunella.evaluation.cost import latencies, macs, measure_costs, parameters


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


def test_a_larger_picture_takes_more_operations():
    small, large = macs(SD15, (64, 64)), macs(SD15, (128, 64))
    assert small == macs(SD15)
    assert large["macs_conv_linear"] == pytest.approx(2 * small["macs_conv_linear"], rel=0.02)
    assert large["macs"] > 2 * small["macs"]  # attention's products grow with the square


def test_calls_are_timed_in_turns():
    order = []
    times = latencies({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3)
    assert order == ["a", "b"] * 3
    assert set(times["a"]) == {"latency_ms_p50", "latency_ms_p95", "latency_ms_max"}


def test_the_95th_percentile_of_few_rounds_is_their_largest(monkeypatch):
    for rounds, p95 in ((19, 19.0), (40, 38.95)):
        clock = iter([x for i in range(rounds) for x in (0.0, (i + 1) / 1000)])
        monkeypatch.setattr("prunella.evaluation.cost.time.perf_counter", lambda clock=clock: next(clock))
        found = latencies({"a": lambda: None}, rounds)["a"]
        assert found["latency_ms_p95"] == pytest.approx(p95, abs=0.06)
        assert found["latency_ms_max"] == rounds and found["latency_ms_p50"] == pytest.approx((rounds + 1) / 2, abs=0.1)


def test_every_architecture_is_measured_at_the_size_that_is_drawn(params, teacher, pruned_tiny):
    models = {"teacher": teacher, "sd-tiny": pruned_tiny}
    report = measure_costs(params.benchmark, models=models, size=(48, 32), device="cpu")
    assert report["hardware"]["device"] == "cpu" and report["hardware"]["threads"] >= 1
    whole, tiny = report["models"]["teacher"], report["models"]["sd-tiny"]
    assert set(whole) == set(tiny) == {
        "params", "params_down", "params_mid", "params_up", "macs", "macs_conv_linear", "latency_ms_p50",
        "latency_ms_p95", "latency_ms_max", "peak_memory_mb", "loading_peak_memory_mb",
    }  # fmt: skip
    assert tiny["params"] < whole["params"] and tiny["macs"] < whole["macs"]
    config = json.loads((teacher / "unet" / "config.json").read_text())
    assert whole["macs"] == macs(config, (12, 8))["macs"]
    assert report["settings"]["size"] == [48, 32] and "largest of 1 " in report["settings"]["latency_ms_p95"]
