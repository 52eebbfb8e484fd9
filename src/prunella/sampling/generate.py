"""Pictures from a pipeline: fixed prompts, fixed noise."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from prunella.compute.precision import BITS, rounding
from prunella.compute.seeds import DRAWING, generator
from prunella.models.pipeline import load_pipeline, without_checker
from prunella.models.quantized import load_quantised
from prunella.params import Bits, Precision, Scheduler

Size = tuple[int, int]  # width and height in pixels
Noise = Callable[[Sequence[int], tuple[int, ...]], Tensor]  # numbers of pictures, CHW → NCHW
SETTINGS = {"PNDMScheduler": {"skip_prk_steps": True}}  # as in Stable Diffusion's folders; diffusers' default is not


def load_to_draw(
    folder: Path,
    device: str,
    precision: Precision = "fp32",
    scheduler: Scheduler | None = None,
    bits: Bits | None = None,
) -> DiffusionPipeline:
    """The pipeline of `folder`, its weights read in the precision that it draws in; `scheduler` replaces its own.
    `bits`: its UNet's linear layers in fewer.

    The safety checker is left out: it blackens what it flags, often the noise of a freshly pruned model, and takes
    time and memory that are not the model's. The VAE decodes a picture at a time, so that its memory is one picture's.
    """
    dtype = BITS.get(precision, torch.float32)
    parts = {"unet": load_quantised(folder, bits, dtype, device)} if bits else {}
    pipeline = load_pipeline(folder, device, dtype=dtype, **without_checker(folder), **parts)
    pipeline.vae.enable_slicing()
    if scheduler is not None:
        kind, settings = getattr(diffusers, scheduler), SETTINGS.get(scheduler, {})
        pipeline.scheduler = kind.from_config(pipeline.scheduler.config, **settings)
    return pipeline


class Stream:
    """Noise of all pictures from one generator on the device, in the order of their numbers, as published protocols.

    What lies before the first picture that is asked for is drawn and dropped, so that a restart or another process
    sees what one run would have seen. Pictures are all of one size.
    """

    def __init__(self, seed: int, device: torch.device, dtype: torch.dtype):
        self.seed, self.device, self.dtype, self.at = seed, device, dtype, -1
        self.generator = torch.Generator(device)

    def __call__(self, numbers: Sequence[int], shape: tuple[int, ...]) -> Tensor:
        return torch.stack([self._of(number, shape) for number in numbers])

    def _of(self, number: int, shape: tuple[int, ...]) -> Tensor:
        if number < self.at or self.at < 0:
            self.generator.manual_seed(self.seed)
            self.at = 0
        while True:
            noise = torch.randn((1, *shape), generator=self.generator, device=self.device, dtype=self.dtype)[0]
            self.at += 1
            if self.at > number:
                return noise


def draw(
    pipeline: DiffusionPipeline,
    prompts: Sequence[str],
    *,
    steps: int,
    guidance: float,
    seed: int,
    batch_size: int,
    first: int = 0,
    dtype: torch.dtype | None = None,
    negative_prompt: str = "",
    size: int | None = None,
) -> Iterator[np.ndarray]:
    """HWC uint8 pictures of `prompts`, `size` pixels to a side (None: the UNet's own sample size).

    Prompt i starts from noise of its own, number `first` + i, whatever the batches; so models that are drawn with the
    same seed start from the same noise. Latents are in `dtype`, or as the UNet's weights are.
    """
    side = size or pipeline.unet.config.sample_size * pipeline.vae_scale_factor
    for start in range(0, len(prompts), batch_size):
        chosen = prompts[start : start + batch_size]
        yield from draw_batch(
            pipeline,
            chosen,
            range(first + start, first + start + len(chosen)),
            (side, side),
            steps=steps,
            guidance=guidance,
            seed=seed,
            dtype=dtype,
            negative_prompt=negative_prompt,
        )


def draw_batch(
    pipeline: DiffusionPipeline, prompts: Sequence[str], numbers: Sequence[int], size: Size, **how: Any
) -> np.ndarray:
    """NHWC uint8 pictures of one size, drawn as `drawn_with_latents` says."""
    return drawn_with_latents(pipeline, prompts, numbers, size, **how)[0]


@torch.no_grad()
def drawn_with_latents(
    pipeline: DiffusionPipeline,
    prompts: Sequence[str],
    numbers: Sequence[int],
    size: Size,
    *,
    steps: int,
    guidance: float,
    seed: int,
    precision: Precision = "fp32",
    dtype: torch.dtype | None = None,
    negative_prompt: str = "",
    noise: Noise | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """NHWC uint8 pictures of one size, and the raw latents (NCHW fp32) that they were decoded from.

    Picture i starts from the noise of number `numbers[i]`, by `noise` or its own; where the scheduler draws noise at
    its steps too, that is of its number as well. `precision` says whether a GPU may round products to TF32; the
    weights' own precision is that of `load_to_draw`.
    """
    unet, (width, height) = pipeline.unet, size
    shape = (unet.config.in_channels, height // pipeline.vae_scale_factor, width // pipeline.vae_scale_factor)
    sources = [generator(DRAWING, seed, number) for number in numbers]
    drawn_from = noise(numbers, shape) if noise else torch.stack([torch.randn(shape, generator=s) for s in sources])
    against = {"negative_prompt": [negative_prompt] * len(prompts)} if negative_prompt else {}
    final: dict[str, torch.Tensor] = {}

    def keep(_: DiffusionPipeline, step: int, timestep: int, given: dict[str, torch.Tensor]) -> dict:
        final["latents"] = given["latents"]
        return {}

    with rounding(precision):
        drawn = pipeline(
            list(prompts),
            **against,
            width=width,
            height=height,
            num_inference_steps=steps,
            guidance_scale=guidance,
            latents=drawn_from.to(unet.device, dtype or unet.dtype),
            generator=sources,
            output_type="np",
            callback_on_step_end=keep,
        )
    raw = final["latents"].float() / pipeline.vae.config.scaling_factor
    return (drawn.images * 255).round().astype(np.uint8), raw.cpu().numpy()
