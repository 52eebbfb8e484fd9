"""Pictures from a pipeline: fixed prompts, fixed noise."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from prunella.compute.precision import AUTOCAST_DTYPES, tf32_context
from prunella.compute.seeds import GENERATION, make_generator
from prunella.models.pipeline import load_pipeline, no_safety_checker
from prunella.models.quantized import load_quantized_unet
from prunella.params import Precision, QuantizedDtype, SchedulerName

Size = tuple[int, int]  # width and height in pixels
NoiseFn = Callable[[Sequence[int], tuple[int, ...]], Tensor]  # numbers of pictures, CHW → NCHW
SCHEDULER_CONFIGS = {
    "PNDMScheduler": {"skip_prk_steps": True}
}  # as in Stable Diffusion's folders; diffusers' default is not


def load_for_inference(
    pipeline_dir: Path,
    device: str,
    precision: Precision = "fp32",
    scheduler: SchedulerName | None = None,
    bits: QuantizedDtype | None = None,
) -> DiffusionPipeline:
    """The pipeline of `pipeline_dir`, its weights read in the precision that it draws in; `scheduler` replaces its own.
    `bits`: its UNet's linear layers in fewer.

    The safety checker is left out: it blackens what it flags, often the noise of a freshly pruned model, and takes
    time and memory that are not the model's. The VAE decodes a picture at a time, so that its memory is one picture's.
    """
    dtype = AUTOCAST_DTYPES.get(precision, torch.float32)
    components = {"unet": load_quantized_unet(pipeline_dir, bits, dtype, device)} if bits else {}
    pipeline = load_pipeline(pipeline_dir, device, dtype=dtype, **no_safety_checker(pipeline_dir), **components)
    pipeline.vae.enable_slicing()
    if scheduler is not None:
        scheduler_class, scheduler_config = getattr(diffusers, scheduler), SCHEDULER_CONFIGS.get(scheduler, {})
        pipeline.scheduler = scheduler_class.from_config(pipeline.scheduler.config, **scheduler_config)
    return pipeline


class SharedNoise:
    """Noise of all pictures from one generator on the device, in the order of their numbers, as published protocols.

    Noise before the first picture that is asked for is drawn and dropped, so that a restart or another process
    sees what one run would have seen. Pictures are all of one size.
    """

    def __init__(self, seed: int, device: torch.device, dtype: torch.dtype):
        self.seed, self.device, self.dtype, self.position = seed, device, dtype, -1
        self.generator = torch.Generator(device)

    def __call__(self, noise_ids: Sequence[int], shape: tuple[int, ...]) -> Tensor:
        return torch.stack([self._noise_at(noise_id, shape) for noise_id in noise_ids])

    def _noise_at(self, noise_id: int, shape: tuple[int, ...]) -> Tensor:
        if noise_id < self.position or self.position < 0:
            self.generator.manual_seed(self.seed)
            self.position = 0
        while True:
            noise = torch.randn((1, *shape), generator=self.generator, device=self.device, dtype=self.dtype)[0]
            self.position += 1
            if self.position > noise_id:
                return noise


def generate(
    pipeline: DiffusionPipeline,
    prompts: Sequence[str],
    *,
    steps: int,
    guidance: float,
    seed: int,
    batch_size: int,
    first_noise_id: int = 0,
    dtype: torch.dtype | None = None,
    negative_prompt: str = "",
    size: int | None = None,
) -> Iterator[np.ndarray]:
    """HWC uint8 pictures of `prompts`, `size` pixels to a side (None: the UNet's own sample size).

    Prompt i starts from noise of its own, number `first_noise_id` + i, whatever the batches; so models that are drawn
    with the same seed start from the same noise. Latents are in `dtype`, or as the UNet's weights are.
    """
    image_size = size or pipeline.unet.config.sample_size * pipeline.vae_scale_factor
    for start in range(0, len(prompts), batch_size):
        batch_prompts = prompts[start : start + batch_size]
        yield from generate_batch(
            pipeline,
            batch_prompts,
            range(first_noise_id + start, first_noise_id + start + len(batch_prompts)),
            (image_size, image_size),
            steps=steps,
            guidance=guidance,
            seed=seed,
            dtype=dtype,
            negative_prompt=negative_prompt,
        )


def generate_batch(
    pipeline: DiffusionPipeline, prompts: Sequence[str], noise_ids: Sequence[int], size: Size, **kwargs: Any
) -> np.ndarray:
    """NHWC uint8 pictures of one size, drawn as `generate_with_latents` says."""
    return generate_with_latents(pipeline, prompts, noise_ids, size, **kwargs)[0]


@torch.no_grad()
def generate_with_latents(
    pipeline: DiffusionPipeline,
    prompts: Sequence[str],
    noise_ids: Sequence[int],
    size: Size,
    *,
    steps: int,
    guidance: float,
    seed: int,
    precision: Precision = "fp32",
    dtype: torch.dtype | None = None,
    negative_prompt: str = "",
    noise: NoiseFn | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """NHWC uint8 pictures of one size, and the raw latents (NCHW fp32) that they were decoded from.

    Picture i starts from the noise of number `numbers[i]`, by `noise` or its own; where the scheduler draws noise at
    its steps too, that is of its number as well. `precision` says whether a GPU may round products to TF32; the
    weights' own precision is that of `load_for_inference`.
    """
    unet, (width, height) = pipeline.unet, size
    latent_shape = (unet.config.in_channels, height // pipeline.vae_scale_factor, width // pipeline.vae_scale_factor)
    generators = [make_generator(GENERATION, seed, noise_id) for noise_id in noise_ids]
    initial_noise = (
        noise(noise_ids, latent_shape)
        if noise
        else torch.stack([torch.randn(latent_shape, generator=s) for s in generators])
    )
    negative = {"negative_prompt": [negative_prompt] * len(prompts)} if negative_prompt else {}
    last_step: dict[str, torch.Tensor] = {}

    def store_latents(_: DiffusionPipeline, step: int, timestep: int, callback_kwargs: dict[str, torch.Tensor]) -> dict:
        last_step["latents"] = callback_kwargs["latents"]
        return {}

    with tf32_context(precision):
        output = pipeline(
            list(prompts),
            **negative,
            width=width,
            height=height,
            num_inference_steps=steps,
            guidance_scale=guidance,
            latents=initial_noise.to(unet.device, dtype or unet.dtype),
            generator=generators,
            output_type="np",
            callback_on_step_end=store_latents,
        )
    raw_latents = last_step["latents"].float() / pipeline.vae.config.scaling_factor
    return (output.images * 255).round().astype(np.uint8), raw_latents.cpu().numpy()
