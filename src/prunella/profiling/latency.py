"""What drawing costs in one variant (precision, compiled or not, memory layout, batch): all models, in turns."""

import gc
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline

from prunella.compute.device import Placement, placed
from prunella.compute.precision import rounding
from prunella.models.families import architecture, predict
from prunella.params import Benchmark, Variant, bits_of
from prunella.profiling.energy import EnergyMeter
from prunella.profiling.meters import MemoryMeter
from prunella.profiling.timing import Turns
from prunella.sampling.generate import Size, draw_batch, load_to_draw

TEACHER = "teacher"  # what ratios are to
PROMPT = "a picture"  # its length does not matter: captions are padded to the text encoder's
Call = Callable[[], object]


def measured(
    params: Benchmark, variant: Variant, models: dict[str, Path], size: Size, device: str, energy: EnergyMeter | None
) -> dict[str, dict[str, Any]]:
    """{name: figures} of pipeline folders, in a variant: memory as each is loaded, then latency in turns."""
    found: dict[str, dict[str, Any]] = {}
    pipelines: dict[str, DiffusionPipeline] = {}
    _rehearse(next(iter(models.values())), size, params, variant, device)
    with ExitStack() as stack:
        for name, folder in models.items():
            found[name] = _memory(pipelines, stack, params, variant, name, folder, size, device)
        pictures = {name: picture(pipeline, size, params, variant) for name, pipeline in pipelines.items()}
        steps = {name: unet_step(pipeline, size, params, variant) for name, pipeline in pipelines.items()}
        for step in steps.values():
            step()
        _add(found, Turns(pictures, params.latency_rounds, energy), Turns(steps, params.latency_rounds), variant.batch)
    pipelines.clear()
    gc.collect()
    return found


def _rehearse(folder: Path, size: Size, params: Benchmark, variant: Variant, device: str) -> None:
    """Draw once and forget it: what the first drawing of a process loads for good is no model's memory."""
    picture(load_to_draw(folder, device, variant.precision), size, params, variant)()


def _memory(
    pipelines: dict[str, DiffusionPipeline],
    stack: ExitStack,
    params: Benchmark,
    variant: Variant,
    name: str,
    folder: Path,
    size: Size,
    device: str,
) -> dict[str, Any]:
    """Load a model into `pipelines` and draw with it once; the peaks of both."""
    meter = MemoryMeter()

    def load() -> None:
        pipelines[name] = load_to_draw(folder, device, variant.precision, bits=bits_of(name))

    loading = meter.peak_mb(load)
    place = Placement(device, variant.compile, variant.channels_last)
    stack.enter_context(placed(pipelines[name].unet, [], place))
    draw = picture(pipelines[name], size, params, variant)
    if variant.compile:
        draw()  # what the compiler takes is not the model's
    peaks = {"peak_memory_mb": meter.peak_mb(draw), "loading_peak_memory_mb": loading}
    reserved = meter.reserved_mb()
    return peaks if reserved is None else peaks | {"reserved_memory_mb": reserved}


def _add(found: dict[str, dict[str, Any]], pictures: Turns, steps: Turns, batch: int) -> None:
    """Latencies of pictures and UNet steps, what they are to the teacher's, pictures a second and energy."""
    for name, figures in found.items():
        figures.update(pictures.latency(name) | steps.latency(name, "unet_step"))
        if TEACHER in found:
            figures["speedup"] = pictures.speedup(name, TEACHER)
            figures["unet_step_speedup"] = steps.speedup(name, TEACHER)
        if batch > 1:
            figures["pictures_per_second"] = round(1000 * batch / figures["latency_ms_p50"], 3)
        if (joules := pictures.energy(name)) is not None:
            figures["energy_j"] = round(joules / batch, 3)


def picture(pipeline: DiffusionPipeline, size: Size, params: Benchmark, variant: Variant) -> Call:
    """A call that draws a batch, from text to pixels."""
    prompts, numbers = [PROMPT] * variant.batch, range(variant.batch)
    return lambda: draw_batch(pipeline, prompts, numbers, size, precision=variant.precision, **params.drawing)


def unet_step(pipeline: DiffusionPipeline, size: Size, params: Benchmark, variant: Variant) -> Call:
    """A call that predicts once, as a step of the sampler does: with guidance twice for each picture of the batch."""
    unet, scale = pipeline.unet, pipeline.vae_scale_factor
    rows = variant.batch * (2 if params.guidance > 1 else 1)
    tokens = pipeline.tokenizer.model_max_length
    shapes = architecture(unet.config).example(unet.config, (size[1] // scale, size[0] // scale), tokens)
    source = torch.Generator().manual_seed(params.seed)
    inputs = {name: torch.randn(rows, *shape, generator=source) for name, shape in shapes.items()}
    inputs = {name: value.to(unet.device, unet.dtype) for name, value in inputs.items()}
    timesteps = torch.full((rows,), 500, device=unet.device)

    @torch.no_grad()
    def step() -> None:
        with rounding(variant.precision):
            predict(unet, inputs["latents"], timesteps, inputs)

    return step
