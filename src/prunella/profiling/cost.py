"""What a model costs: parameters and multiply-accumulates (counted), latency, memory and energy (measured)."""

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from prunella.models.families import architecture, predict
from prunella.models.pipeline import empty_unet
from prunella.params import Benchmark, Bits, Variant, bits_of
from prunella.profiling.disk import disk_mb, quantised_mb
from prunella.profiling.energy import EnergyMeter, energy_meter
from prunella.profiling.latency import measured
from prunella.profiling.timing import ENOUGH, FEWEST
from prunella.sampling.generate import Size

TOKENS = 77  # of a caption, in CLIP's and OpenCLIP's text encoders
CONV_LINEAR = ("convolution", "mm", "addmm")
VERSIONS = ("torch", "diffusers", "transformers")


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
    unet = empty_unet(config)
    unet.set_attn_processor(AttnProcessor())  # plain products, which the counter sees
    with torch.device("meta"):
        across, down = latent or (unet.config.sample_size, unet.config.sample_size)
        shapes = architecture(config).example(unet.config, (down, across), TOKENS)
        inputs = {name: torch.empty(1, *shape) for name, shape in shapes.items()}
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            predict(unet, inputs["latents"], torch.empty(1), inputs)
    flops = {str(op).split(".")[1]: count for op, count in counter.get_flop_counts()["Global"].items()}
    linear = sum(flops.get(name, 0) for name in CONV_LINEAR)
    return {"macs": sum(flops.values()) // 2, "macs_conv_linear": linear // 2}


def measure_costs(params: Benchmark, *, models: dict[str, Path], size: Size, device: str) -> dict[str, Any]:
    """{"hardware", "settings", "models": {name: figures}} of pipeline folders, all drawing pictures of `size`.

    They are measured eager at batch 1, and in each of `params.variants` ("variants": {title: figures}); latency in
    turns, ratios to the model called "teacher". All belong to an architecture: a student's stages share them.
    """
    energy = energy_meter(device)
    meter = energy if isinstance(energy, EnergyMeter) else None
    plain = Variant(precision=params.precision, compile=False, channels_last=False, batch=1)
    found = measured(params, plain, models, size, device, meter)
    figures = {name: _counted(folder, size, bits_of(name)) | found[name] for name, folder in models.items()}
    for variant in params.variants:
        for name, costs in measured(params, variant, models, size, device, meter).items():
            figures[name].setdefault("variants", {})[variant.title] = costs
    settings = _settings(params, size) | ({"energy_j": f"not measured: {energy}"} if meter is None else {})
    return {"hardware": hardware(device), "settings": settings, "models": figures}


def _counted(folder: Path, size: Size, bits: Bits | None) -> dict[str, Any]:
    """Parameters and operations of the UNet, MB of the weights on disk; in `bits`, the UNet's other weights in bf16."""
    config, scale = (json.loads((folder / part / "config.json").read_text()) for part in ("unet", "vae"))
    factor = 2 ** (len(scale["block_out_channels"]) - 1)
    unet = empty_unet(config)
    disk = disk_mb(folder) | ({"unet": quantised_mb(folder, bits)} if bits else {})
    return {
        **parameters(unet),
        **macs(config, (size[0] // factor, size[1] // factor)),
        "disk_mb": round(sum(disk.values()), 3),
        "disk_mb_by": disk,
    }


def _settings(params: Benchmark, size: Size) -> dict[str, Any]:
    few, rounds = params.latency_rounds < ENOUGH, params.latency_rounds
    return {
        "size": list(size),
        "latency": "one picture from text to pixels, VAE included, eager, batch 1; shared by a student's stages",
        "latency_rounds": rounds,
        "latency_ms_p95": f"the largest of {rounds} rounds" if few else "95th percentile",
        "unet_step": "one call of the UNet, twice the batch with guidance",
        "speedup": "median of the rounds' ratios to the teacher, models in turns, with the interval of "
        + ("order statistics" if rounds >= FEWEST else f"their range ({rounds} rounds are too few for 95 %)"),
        "peak_memory_mb": "drawing one picture, the model's weights included",
        "loading_peak_memory_mb": "loading the model",
        "disk_mb": "weight files of the whole pipeline, in 10⁶ bytes",
        "compiled": False,
        "safety_checker": "left out",
    }


def hardware(device: str) -> dict[str, Any]:
    """The device, the processor, the number of threads, and versions of what computes."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else device,
        "cpu": names[0] if names else platform.processor(),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in VERSIONS},
    }
