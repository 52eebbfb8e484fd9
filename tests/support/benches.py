"""The setting of the benches that train students, on the toy."""

from pathlib import Path

from conftest import ROOT

from prunella.bench.setting import ExperimentSetting
from prunella.params import Benchmark, Distill, fill_section, validate_config
from prunella.scenes.generator import read_vocabulary

DRAWING = {
    "num_inference_steps": 2,
    "guidance_scale": 2.0,
    "batch_size": 2,
    "latency_rounds": 1,
    "seed": 0,
    "metrics": [],
    "precision": "fp32",
}


def toy_setting(distill: Distill, teacher: Path, latents: Path, prompts: int) -> ExperimentSetting:
    drawing = validate_config(Benchmark, fill_section("benchmark", DRAWING | {"prompts": prompts}), "benchmark")
    return ExperimentSetting(distill, drawing, teacher, latents, read_vocabulary(ROOT / "data" / "scenes.yaml"), "cpu")
