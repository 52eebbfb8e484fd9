"""A report of one student, as the benchmark's stage puts it together, with figures that were made up by hand."""

import json
from pathlib import Path

import numpy as np

from prunella.reporting.filter_report import FilterSummary
from prunella.reporting.image_gallery import build_gallery
from prunella.sampling.benchmark_prompts import Prompt


def estimate(value: float, low: float, high: float, n: int = 64) -> dict:
    return {"value": value, "n": n, "low": low, "high": high}


COSTS = {
    "teacher": {
        "params": 8_770_000, "params_down": 2_560_000, "params_mid": 990_000, "params_up": 5_200_000, "macs": 2_700_000,
        "macs_conv_linear": 2_400_000, "disk_mb": 21.5, "latency_ms_p50": 900.0, "latency_ms_p95": 950.0,
        "unet_step_ms_p50": 30.0, "speedup": estimate(1.0, 1.0, 1.0, 7), "peak_memory_mb": 90.0,
        "loading_peak_memory_mb": 60.0,
    },
    "sd-tiny": {
        "params": 3_320_000, "params_down": 870_000, "params_mid": 0, "params_up": 2_430_000, "macs": 1_600_000,
        "macs_conv_linear": 1_400_000, "disk_mb": 10.5, "latency_ms_p50": 500.0, "latency_ms_p95": 550.0,
        "unet_step_ms_p50": 15.0, "speedup": estimate(1.8, 1.7, 1.9, 7), "peak_memory_mb": 45.0,
        "loading_peak_memory_mb": 30.0,
    },
}  # fmt: skip
QUALITY = {
    name: {"output_error": error[0], "output_error_estimate": estimate(*error, n=128), "composition": estimate(*share)}
    for name, error, share in [
        ("teacher", (0.0, 0.0, 0.0), (0.44, 0.38, 0.5)),
        ("sd-tiny/pruned", (0.7, 0.65, 0.75), (0.0, 0.0, 0.06)),
        ("sd-tiny/distilled", (0.06, 0.05, 0.07), (0.16, 0.09, 0.26)),
    ]
}
DISTILLED = {"steps": 100, "seconds": 80.0, "images_per_second": 40.0, "peak_memory_mb": 1200.0, "runtime": {}}
REPORT = {
    "origin": {
        "date": "2026-01-02 03:04 UTC", "commit": "0123456789abcdef", "changed": False, "experiment": "tidy-mole",
        "mlflow": {"run": "a-run"}, "versions": {"prunella": "0.1.0"},
    },
    "teacher": {"name": "a-teacher", "source": "folder", "commit": None, "family": "sd", "prediction_type": "epsilon"},
    "data": {"source": "folder", "read": 3000, "kept": 2500, "train": 2372, "heldout": 128, "sizes": {"64 x 64": 2500}},
    "training": {"sd-tiny": {"distill": DISTILLED}},
    "hardware": {"device": "cpu", "cpu": "a processor", "threads": 2, "versions": {"python": "3.11", "torch": "2.13"}},
    "settings": {"guidance_scale": 4.0, "latency": "one picture", "latency_rounds": 7, "size": [64, 64],
    "speedup": "median"},
    "models": {name: COSTS[name.partition("/")[0]] | each for name, each in QUALITY.items()},
    "floors": {},
    "differences": {"sd-tiny/distilled - sd-tiny/pruned": {"output_error": estimate(-0.64, -0.7, -0.58, 128)}},
    "unavailable": {"latent_frechet": "3 < 640 pictures"},
}  # fmt: skip


def cards() -> list[dict]:
    """A wall of two prompts; the students' pictures of the first do not keep its shape."""
    prompts = [Prompt(0, "a <large> disc", 6, 4, 1), Prompt(1, "a square", 6, 4, 0)]
    galleries = {name: [(p, np.full((4, 6, 3), 10 * i, np.uint8)) for p in prompts] for i, name in enumerate(QUALITY)}
    return build_gallery(
        galleries,
        {name: [0.25, 0.5] for name in QUALITY if name != "teacher"},
        lambda picture, text: {"count": True, "shape": picture[0, 0, 0] == 0 or "disc" not in text},
    )


def filtered(folder: Path) -> FilterSummary:
    """What a filter left that dropped one pair of three as too small."""
    report = {"source": "folder", "read": 3, "looked_at": 3, "kept": 2, "passed": 2, "fell": {"small": 1, "large": 0}}
    (folder / "examples.json").write_text(json.dumps({"small": []}))
    return FilterSummary(report | {"causes": {}}, folder)
