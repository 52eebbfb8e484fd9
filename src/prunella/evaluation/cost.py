"""What a model costs: parameters and multiply-accumulates (counted), latency and memory (measured)."""

import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from prunella.evaluation.drawing import Size, draw_batch, load_to_draw
from prunella.evaluation.memory import MemoryMeter
from prunella.models.families import architecture, predict
from prunella.params import Benchmark

TOKENS = 77  # of a caption, in CLIP's and OpenCLIP's text encoders
CONV_LINEAR = ("convolution", "mm", "addmm")
PROMPT = "a picture"  # its length does not matter: captions are padded to the text encoder's
ENOUGH = 20  # rounds, below which the 95th percentile is the largest of them


def parameters(unet: UNet2DConditionModel) -> dict[str, int]:
    """Parameters of the UNet: all, and of its down, mid and up blocks."""

    def count(module: nn.Module | None) -> int:
        return sum(weight.numel() for weight in module.parameters()) if module is not None else 0

    return {
        "params": count(unet),
        "params_down": count(unet.down_blocks),
        "params_mid": count(unet.mid_block),
        "params_up": count(unet.up_blocks),
    }


def macs(config: dict, latent: Size | None = None) -> dict[str, int]:
    """Multiply-accumulates of one UNet forward of one example, on the meta device.

    `latent` is the latents' width and height (None: the UNet's own sample size).

    `macs_conv_linear` is the convention of the BK-SDM and SSD-1B papers: convolutions and linear layers.
    `macs` adds attention's products of queries, keys and values.
    """
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config)
        unet.set_attn_processor(AttnProcessor())  # plain products, which the counter sees
        across, down = latent or (unet.config.sample_size, unet.config.sample_size)
        shapes = architecture(config).example(unet.config, (down, across), TOKENS)
        inputs = {name: torch.empty(1, *shape) for name, shape in shapes.items()}
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            predict(unet, inputs["latents"], torch.empty(1), inputs)
    flops = {str(op).split(".")[1]: count for op, count in counter.get_flop_counts()["Global"].items()}
    linear = sum(flops.get(name, 0) for name in CONV_LINEAR)
    return {"macs": sum(flops.values()) // 2, "macs_conv_linear": linear // 2}


def measure_costs(params: Benchmark, *, models: dict[str, Path], size: Size, device: str) -> dict[str, Any]:
    """{"hardware", "settings", "models": {name: figures}} of pipeline folders, all drawing one picture of `size`.

    Memory is measured as each is loaded, latency then over all of them in turns. Both belong to an architecture: a
    student's stages share them.
    """
    pipelines, figures = {}, {}
    for name, folder in models.items():
        meter = MemoryMeter()

        def load(name: str = name, folder: Path = folder) -> None:
            pipelines[name] = load_to_draw(folder, device, params.precision)

        loading = meter.peak_mb(load)
        drawing = meter.peak_mb(_drawer(pipelines[name], size, params))
        config = json.loads((folder / "unet" / "config.json").read_text())
        scale = pipelines[name].vae_scale_factor
        figures[name] = {
            **parameters(pipelines[name].unet),
            **macs(config, (size[0] // scale, size[1] // scale)),
            "peak_memory_mb": drawing,
            "loading_peak_memory_mb": loading,
        }
        if (reserved := meter.reserved_mb()) is not None:
            figures[name]["reserved_memory_mb"] = reserved
    calls = {name: _drawer(pipeline, size, params) for name, pipeline in pipelines.items()}
    for name, latency in latencies(calls, params.latency_rounds).items():
        figures[name] |= latency
    return {"hardware": hardware(device), "settings": _settings(params, size), "models": figures}


def _drawer(pipeline: DiffusionPipeline, size: Size, params: Benchmark) -> Callable[[], object]:
    return lambda: draw_batch(pipeline, [PROMPT], [0], size, precision=params.precision, **params.drawing)


def _settings(params: Benchmark, size: Size) -> dict[str, Any]:
    few = params.latency_rounds < ENOUGH
    return {
        "size": list(size),
        "latency": "one picture from text to pixels, VAE included, batch 1; shared by a student's stages",
        "latency_rounds": params.latency_rounds,
        "latency_ms_p95": f"the largest of {params.latency_rounds} rounds" if few else "95th percentile",
        "peak_memory_mb": "drawing one picture, the model's weights included",
        "loading_peak_memory_mb": "loading the model",
        "compiled": False,
        "safety_checker": "left out",
    }


def hardware(device: str) -> dict[str, Any]:
    """The device, the processor and the number of threads."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else device,
        "cpu": names[0] if names else platform.processor(),
        "threads": torch.get_num_threads(),
    }


def latencies(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, dict[str, float]]:
    """Median, 95th percentile and largest time (ms) of each call, taken in turns so that all see the same machine.

    The calls have run before: nothing is warmed up here. Below 20 rounds the 95th percentile is the largest.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            synchronize()
            began = time.perf_counter()
            call()
            synchronize()
            times[name].append(1000 * (time.perf_counter() - began))
    return {
        name: {
            "latency_ms_p50": round(statistics.median(taken), 1),
            "latency_ms_p95": round(max(taken) if rounds < ENOUGH else statistics.quantiles(taken, n=20)[-1], 1),
            "latency_ms_max": round(max(taken), 1),
        }
        for name, taken in times.items()
    }


def synchronize() -> None:
    """Wait for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
