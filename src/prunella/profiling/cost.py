"""Cost of a model: parameters and multiply-accumulates (counted), latency, memory and energy (measured)."""

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

from prunella.models.families import family_of_unet, predict_with_unet
from prunella.models.pipeline import build_meta_unet
from prunella.params import Benchmark, LatencyVariant, QuantizedDtype, parse_quantized_dtype
from prunella.profiling.disk import measure_disk_mb, measure_quantized_mb
from prunella.profiling.energy import EnergyMeter, make_energy_meter
from prunella.profiling.latency import measure_variant
from prunella.profiling.timing import MIN_ROUNDS_CI, MIN_ROUNDS_P95
from prunella.sampling.generate import Size

NUM_TOKENS = 77  # of a caption, in CLIP's and OpenCLIP's text encoders
CONV_LINEAR_OPS = ("convolution", "mm", "addmm")
VERSIONED_PACKAGES = ("torch", "diffusers", "transformers")


def count_parameters(unet: UNet2DConditionModel) -> dict[str, int]:
    """Parameters of the UNet: all, and of its down, mid and up blocks."""

    def count(module: nn.Module | None) -> int:
        return sum(weight.numel() for weight in module.parameters()) if module is not None else 0

    return {
        "params": count(unet),
        "params_down": count(unet.down_blocks),
        "params_mid": count(unet.mid_block),
        "params_up": count(unet.up_blocks),
    }


def count_macs(config: dict, latent: Size | None = None) -> dict[str, int]:
    """Multiply-accumulates of one UNet forward of one example, on the meta device.

    `latent` is the latents' width and height (None: the UNet's own sample size).

    `macs_conv_linear` is the convention of the BK-SDM and SSD-1B papers: convolutions and linear layers.
    `count_macs` adds attention's products of queries, keys and values.
    """
    unet = build_meta_unet(config)
    unet.set_attn_processor(AttnProcessor())  # plain products, which the counter sees
    with torch.device("meta"):
        latent_width, latent_height = latent or (unet.config.sample_size, unet.config.sample_size)
        shapes = family_of_unet(config).example_shapes(unet.config, (latent_height, latent_width), NUM_TOKENS)
        inputs = {name: torch.empty(1, *shape) for name, shape in shapes.items()}
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            predict_with_unet(unet, inputs["latents"], torch.empty(1), inputs)
    flops = {str(op).split(".")[1]: count for op, count in counter.get_flop_counts()["Global"].items()}
    linear = sum(flops.get(name, 0) for name in CONV_LINEAR_OPS)
    return {"macs": sum(flops.values()) // 2, "macs_conv_linear": linear // 2}


def measure_costs(params: Benchmark, *, models: dict[str, Path], size: Size, device: str) -> dict[str, Any]:
    """{"hardware", "settings", "models": {name: figures}} of pipeline folders, all drawing pictures of `size`.

    They are measured eager at batch 1, and in each of `params.variants` ("variants": {title: figures}); latency in
    turns, ratios to the model called "teacher". All belong to an architecture: a student's stages share them.
    """
    energy_or_reason = make_energy_meter(device)
    meter = energy_or_reason if isinstance(energy_or_reason, EnergyMeter) else None
    default_variant = LatencyVariant(precision=params.precision, compile=False, channels_last=False, batch=1)
    default_costs = measure_variant(params, default_variant, models, size, device, meter)
    figures = {
        name: _measure_static_costs(folder, size, parse_quantized_dtype(name)) | default_costs[name]
        for name, folder in models.items()
    }
    for variant in params.variants:
        for name, costs in measure_variant(params, variant, models, size, device, meter).items():
            figures[name].setdefault("variants", {})[variant.title] = costs
    settings = _describe_settings(params, size) | (
        {"energy_j": f"not measured: {energy_or_reason}"} if meter is None else {}
    )
    return {"hardware": describe_hardware(device), "settings": settings, "models": figures}


def _measure_static_costs(pipeline_dir: Path, size: Size, bits: QuantizedDtype | None) -> dict[str, Any]:
    """Parameters and operations of the UNet, MB of the weights on disk; in `bits`, the UNet's other weights in bf16."""
    unet_config, vae_config = (
        json.loads((pipeline_dir / component / "config.json").read_text()) for component in ("unet", "vae")
    )
    vae_scale_factor = 2 ** (len(vae_config["block_out_channels"]) - 1)
    unet = build_meta_unet(unet_config)
    disk_by_component = measure_disk_mb(pipeline_dir) | (
        {"unet": measure_quantized_mb(pipeline_dir, bits)} if bits else {}
    )
    return {
        **count_parameters(unet),
        **count_macs(unet_config, (size[0] // vae_scale_factor, size[1] // vae_scale_factor)),
        "disk_mb": round(sum(disk_by_component.values()), 3),
        "disk_mb_by": disk_by_component,
    }


def _describe_settings(params: Benchmark, size: Size) -> dict[str, Any]:
    few_rounds, rounds = params.latency_rounds < MIN_ROUNDS_P95, params.latency_rounds
    return {
        "size": list(size),
        "latency": "one picture from text to pixels, VAE included, eager, batch 1; shared by a student's stages",
        "latency_rounds": rounds,
        "latency_ms_p95": f"the largest of {rounds} rounds" if few_rounds else "95th percentile",
        "unet_step": "one call of the UNet, twice the batch with guidance",
        "speedup": "median of the rounds' ratios to the teacher, models in turns, with the interval of "
        + ("order statistics" if rounds >= MIN_ROUNDS_CI else f"their range ({rounds} rounds are too few for 95 %)"),
        "peak_memory_mb": "drawing one picture, the model's weights included",
        "loading_peak_memory_mb": "loading the model",
        "disk_mb": "weight files of the whole pipeline, in 10⁶ bytes",
        "compiled": False,
        "safety_checker": "left out",
    }


def describe_hardware(device: str) -> dict[str, Any]:
    """The device, the processor, the number of threads, and versions of what computes."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    cpu_names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else device,
        "cpu": cpu_names[0] if cpu_names else platform.processor(),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in VERSIONED_PACKAGES},
    }
