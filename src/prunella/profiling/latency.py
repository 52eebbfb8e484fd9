"""Cost of drawing in one variant (precision, compiled or not, memory layout, batch): all models, in turns."""

import gc
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline

from prunella.compute.device import Placement, apply_placement
from prunella.compute.precision import tf32_context
from prunella.models.families import family_of_unet, predict_with_unet
from prunella.params import Benchmark, LatencyVariant, parse_quantized_dtype
from prunella.profiling.energy import EnergyMeter
from prunella.profiling.meters import MemoryMeter
from prunella.profiling.timing import InterleavedTimer
from prunella.sampling.generate import Size, generate_batch, load_for_inference

TEACHER_NAME = "teacher"  # what ratios are to
TIMING_PROMPT = "a picture"  # its length does not matter: captions are padded to the text encoder's
Call = Callable[[], object]


def measure_variant(
    params: Benchmark,
    variant: LatencyVariant,
    models: dict[str, Path],
    size: Size,
    device: str,
    energy: EnergyMeter | None,
) -> dict[str, dict[str, Any]]:
    """{name: figures} of pipeline folders, in a variant: memory as each is loaded, then latency in turns."""
    figures_by_model: dict[str, dict[str, Any]] = {}
    pipelines: dict[str, DiffusionPipeline] = {}
    _warm_up(next(iter(models.values())), size, params, variant, device)
    with ExitStack() as stack:
        for name, folder in models.items():
            figures_by_model[name] = _measure_memory(pipelines, stack, params, variant, name, folder, size, device)
        image_calls = {name: make_image_call(pipeline, size, params, variant) for name, pipeline in pipelines.items()}
        unet_steps = {name: make_unet_step(pipeline, size, params, variant) for name, pipeline in pipelines.items()}
        for unet_step in unet_steps.values():
            unet_step()
        _summarize_timings(
            figures_by_model,
            InterleavedTimer(image_calls, params.latency_rounds, energy),
            InterleavedTimer(unet_steps, params.latency_rounds),
            variant.batch,
        )
    pipelines.clear()
    gc.collect()
    return figures_by_model


def _warm_up(folder: Path, size: Size, params: Benchmark, variant: LatencyVariant, device: str) -> None:
    """Draw once and forget it: what the first drawing of a process loads for good is no model's memory."""
    make_image_call(load_for_inference(folder, device, variant.precision), size, params, variant)()


def _measure_memory(
    pipelines: dict[str, DiffusionPipeline],
    stack: ExitStack,
    params: Benchmark,
    variant: LatencyVariant,
    name: str,
    folder: Path,
    size: Size,
    device: str,
) -> dict[str, Any]:
    """Load a model into `pipelines` and draw with it once; the peaks of both."""
    meter = MemoryMeter()

    def load_model() -> None:
        pipelines[name] = load_for_inference(folder, device, variant.precision, bits=parse_quantized_dtype(name))

    loading_peak_mb = meter.peak_mb(load_model)
    placement = Placement(device, variant.compile, variant.channels_last)
    stack.enter_context(apply_placement(pipelines[name].unet, [], placement))
    generate_images = make_image_call(pipelines[name], size, params, variant)
    if variant.compile:
        generate_images()  # what the compiler takes is not the model's
    peaks = {"peak_memory_mb": meter.peak_mb(generate_images), "loading_peak_memory_mb": loading_peak_mb}
    reserved_mb = meter.max_reserved_mb()
    return peaks if reserved_mb is None else peaks | {"reserved_memory_mb": reserved_mb}


def _summarize_timings(
    figures_by_model: dict[str, dict[str, Any]], image_timer: InterleavedTimer, step_timer: InterleavedTimer, batch: int
) -> None:
    """Latencies of pictures and UNet steps, what they are to the teacher's, pictures a second and energy."""
    for name, figures in figures_by_model.items():
        figures.update(image_timer.latency(name) | step_timer.latency(name, "unet_step"))
        if TEACHER_NAME in figures_by_model:
            figures["speedup"] = image_timer.speedup(name, TEACHER_NAME)
            figures["unet_step_speedup"] = step_timer.speedup(name, TEACHER_NAME)
        if batch > 1:
            figures["pictures_per_second"] = round(1000 * batch / figures["latency_ms_p50"], 3)
        if (joules := image_timer.energy(name)) is not None:
            figures["energy_j"] = round(joules / batch, 3)


def make_image_call(pipeline: DiffusionPipeline, size: Size, params: Benchmark, variant: LatencyVariant) -> Call:
    """A call that draws a batch, from text to pixels."""
    prompts, noise_ids = [TIMING_PROMPT] * variant.batch, range(variant.batch)
    return lambda: generate_batch(
        pipeline, prompts, noise_ids, size, precision=variant.precision, **params.sampling_kwargs
    )


def make_unet_step(pipeline: DiffusionPipeline, size: Size, params: Benchmark, variant: LatencyVariant) -> Call:
    """A call that predicts once, as a step of the sampler does: with guidance twice for each picture of the batch."""
    unet, vae_scale_factor = pipeline.unet, pipeline.vae_scale_factor
    batch_size = variant.batch * (2 if params.guidance_scale > 1 else 1)
    num_tokens = pipeline.tokenizer.model_max_length
    shapes = family_of_unet(unet.config).example_shapes(
        unet.config, (size[1] // vae_scale_factor, size[0] // vae_scale_factor), num_tokens
    )
    rng = torch.Generator().manual_seed(params.seed)
    inputs = {name: torch.randn(batch_size, *shape, generator=rng) for name, shape in shapes.items()}
    inputs = {name: value.to(unet.device, unet.dtype) for name, value in inputs.items()}
    timesteps = torch.full((batch_size,), 500, device=unet.device)

    @torch.no_grad()
    def step() -> None:
        with tf32_context(variant.precision):
            predict_with_unet(unet, inputs["latents"], timesteps, inputs)

    return step
