import json

import pytest
import torch
from diffusers import UNet2DConditionModel
from known import SD15

from prunella import STUDENTS, student_config
from prunella.params import LatencyVariant
from prunella.profiling.cost import count_macs, count_parameters, measure_costs

COUNTED = {"params", "params_down", "params_mid", "params_up", "macs", "macs_conv_linear", "disk_mb", "disk_mb_by"}
TIMED = {
    "latency_ms_p50", "latency_ms_p95", "latency_ms_max", "unet_step_ms_p50", "unet_step_ms_p95", "unet_step_ms_max",
    "speedup", "unet_step_speedup", "peak_memory_mb", "loading_peak_memory_mb",
}  # fmt: skip


def test_parameters_of_sd15_by_part():
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(SD15)
    parts = count_parameters(unet)
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
    assert count_parameters(unet)["params_mid"] == 0


@pytest.mark.parametrize(
    ("student", "linear", "whole"),
    [(None, 338.6, 401.6), ("sd-small", 223.7, 261.5), ("sd-tiny", 204.95, 242.75)],
)
def test_multiply_accumulates_of_sd15_as_published(student, linear, whole):
    # In 10⁹, at 64×64 latents: BK-SDM's table 1 (convolutions and linear layers), and with attention's products.
    config = student_config(STUDENTS[student], SD15) if student else SD15
    counted = count_macs(config)
    assert counted["macs_conv_linear"] / 1e9 == pytest.approx(linear, abs=0.06)
    assert counted["macs"] / 1e9 == pytest.approx(whole, abs=0.06)


def test_a_larger_picture_takes_more_operations():
    small, large = count_macs(SD15, (64, 64)), count_macs(SD15, (128, 64))
    assert small == count_macs(SD15)
    assert large["macs_conv_linear"] == pytest.approx(2 * small["macs_conv_linear"], rel=0.02)
    assert large["macs"] > 2 * small["macs"]  # attention's products grow with the square


def test_every_architecture_is_measured_at_the_size_that_is_drawn(params, teacher, pruned_tiny):
    models = {"teacher": teacher, "sd-tiny": pruned_tiny}
    report = measure_costs(params.benchmark, models=models, size=(48, 32), device="cpu")
    assert report["hardware"]["device"] == "cpu" and report["hardware"]["threads"] >= 1
    whole, tiny = report["models"]["teacher"], report["models"]["sd-tiny"]
    assert set(whole) == set(tiny) == COUNTED | TIMED
    assert tiny["params"] < whole["params"] and tiny["macs"] < whole["macs"]
    config = json.loads((teacher / "unet" / "config.json").read_text())
    assert whole["macs"] == count_macs(config, (12, 8))["macs"]
    assert report["settings"]["size"] == [48, 32] and "largest of 1 " in report["settings"]["latency_ms_p95"]
    assert whole["speedup"] == {"value": 1.0, "n": 1, "low": 1.0, "high": 1.0}
    files = [path.stat().st_size for path in pruned_tiny.rglob("*.safetensors")]
    assert tiny["disk_mb"] == pytest.approx(sum(files) / 1e6, abs=0.002)
    assert tiny["disk_mb_by"]["unet"] < whole["disk_mb_by"]["unet"]
    assert report["settings"]["energy_j"] == "not measured: energy is measured on Nvidia GPUs alone"
    assert set(report["hardware"]["versions"]) == {"python", "torch", "diffusers", "transformers"}


def test_variants_are_measured_beside(params, teacher, pruned_tiny):
    variant = LatencyVariant(precision="bf16", compile=False, channels_last=True, batch=3)
    asked = params.benchmark.model_copy(update={"variants": [variant]})
    models = {"teacher": teacher, "sd-tiny": pruned_tiny}
    report = measure_costs(asked, models=models, size=(32, 32), device="cpu")["models"]["sd-tiny"]
    assert set(report) == COUNTED | TIMED | {"variants"}
    assert list(report["variants"]) == ["bf16 eager channels-last batch 3"]
    found = report["variants"]["bf16 eager channels-last batch 3"]
    assert set(found) == TIMED | {"pictures_per_second"}
    assert found["pictures_per_second"] == pytest.approx(3000 / found["latency_ms_p50"], abs=0.001)
