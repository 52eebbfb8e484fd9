"""What a model costs: parameters and multiply-accumulates (counted), latency and memory (measured)."""

import ctypes
import gc
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch.utils.flop_counter import FlopCounterMode

CONV_LINEAR = ("convolution", "mm", "addmm")


def parameters(unet: UNet2DConditionModel) -> dict[str, int]:
    """Parameters of the UNet: all, and of its down, mid and up blocks."""

    def count(module) -> int:
        return sum(weight.numel() for weight in module.parameters()) if module is not None else 0

    return {
        "params": count(unet),
        "params_down": count(unet.down_blocks),
        "params_mid": count(unet.mid_block),
        "params_up": count(unet.up_blocks),
    }


def macs(config: dict) -> dict[str, int]:
    """Multiply-accumulates of one UNet forward of one example at its own sample size, on the meta device.

    `macs_conv_linear` is the convention of the BK-SDM and SSD-1B papers: convolutions and linear layers.
    `macs` adds attention's products of queries, keys and values.
    """
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config)
        unet.set_attn_processor(AttnProcessor())  # plain products, which the counter sees
        side, tokens, width = unet.config.sample_size, 77, unet.config.cross_attention_dim
        inputs = torch.empty(1, unet.config.in_channels, side, side), torch.empty(1), torch.empty(1, tokens, width)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            unet(*inputs, added_cond_kwargs=_added(unet.config))
    flops = {str(op).split(".")[1]: count for op, count in counter.get_flop_counts()["Global"].items()}
    linear = sum(flops.get(name, 0) for name in CONV_LINEAR)
    return {"macs": sum(flops.values()) // 2, "macs_conv_linear": linear // 2}


def _added(config) -> dict[str, torch.Tensor] | None:
    """SDXL's size conditioning and pooled text embedding, empty, for one example; None for a UNet without."""
    if config.addition_embed_type != "text_time":
        return None
    return {"text_embeds": torch.empty(1, pooled_width(config)), "time_ids": torch.empty(1, 6)}


def pooled_width(config: Mapping[str, Any]) -> int:
    """Of SDXL's pooled text embedding: what its UNet's added embedding takes beside six embedded sizes."""
    return config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]


def latencies(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, dict[str, float]]:
    """p50 and p95 (ms) of each call after one warm-up, taken in turns so that all see the same machine."""
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            synchronize()
            began = time.perf_counter()
            call()
            synchronize()
            times[name].append(1000 * (time.perf_counter() - began))
    return {
        name: {"latency_ms_p50": round(statistics.median(t), 1), "latency_ms_p95": round(_p95(t), 1)}
        for name, t in times.items()
    }


def _p95(times: list[float]) -> float:
    return (
        sorted(times)[max(0, round(0.95 * len(times)) - 1)]
        if len(times) < 20
        else statistics.quantiles(times, n=20)[-1]
    )


def synchronize() -> None:
    """Wait for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_memory_mb(call: Callable[[], object]) -> float | None:
    """MB needed while `call` runs, its models' loading included, above what was held before; None where not measurable.

    On a GPU the allocator's peak; on Linux the peak of resident memory, which the kernel is asked to forget first.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return round((torch.cuda.max_memory_allocated() - before) / 1e6, 1)
    if sys.platform != "linux":
        return None
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        return None
    before = _status("VmRSS")
    call()
    return round((_status("VmHWM") - before) / 1e3, 1)


def _status(name: str) -> float:
    """A field of /proc/self/status in kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) * 1.024 for line in lines if line.startswith(name + ":"))
