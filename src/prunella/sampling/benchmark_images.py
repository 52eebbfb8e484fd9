"""Draw every prompt of the benchmark with one model, into a gallery; an interrupted drawing resumes."""

from pathlib import Path
from typing import Any

import numpy as np

from prunella.compute.distributed import get_accelerator
from prunella.compute.launch import rank, world_size
from prunella.compute.resume import DONE_FILE, compute_identity, open_run_dir, remove_finished_runs
from prunella.params import Benchmark, QuantizedDtype, parse_quantized_dtype
from prunella.sampling.benchmark_prompts import Prompt, select_prompts
from prunella.sampling.gallery import collect_images, generate_image_shards
from prunella.sampling.generate import NoiseFn, SharedNoise, generate_batch, load_for_inference
from prunella.sampling.image_shards import split_into_shards
from prunella.storage.files import atomic_write_text

CODE_DEPS = ("compute", "models", "sampling")  # decide the result


def generate_benchmark_images(
    params: Benchmark, *, name: str, model_dir: Path, latents_dir: Path, out: Path, device: str
) -> dict[str, Any]:
    """Draw what `params` ask for, such as held-out captions of `latents_dir`, with the pipeline folder `model_dir`
    into `out`.

    Returns {"pictures", "images_per_second"}: the rate of whole batches, from text to pixels. `name` is the model's in
    reports; one that ends in bits, as "sd-tiny/int8", is drawn with such weights. Among several processes, each draws
    its share of the shards; rank 0 writes `out` and returns.
    """
    prompts = select_prompts(params, latents_dir)
    tasks = split_into_shards(prompts, params.batch_size)
    settings = {**params.sampling_kwargs, "batch_size": params.batch_size, "precision": params.precision}
    settings |= {name: value for name, value in _optional_settings(params).items() if value not in ("", None, "own")}
    bits = parse_quantized_dtype(name)
    settings |= {"bits": bits} if bits else {}
    identity_params = settings | {"prompts": [prompt._asdict() for prompt in prompts]}
    accelerator = get_accelerator(device)
    run_name = f"draw-{name.replace('/', '-')}"
    with open_run_dir(
        run_name,
        compute_identity(identity_params, [model_dir], CODE_DEPS),
        is_main_process=rank() == 0,
        started_glob="[0-9]*",
    ) as work_dir:
        accelerator.wait_for_everyone()  # the first may have waited for the folder
        if rank() == 0:
            remove_finished_runs(run_name, retained_dir=work_dir)  # nothing goes on from finished pictures
        generate_image_shards(
            tasks, _BatchGenerator(params, model_dir, bits, device), work_dir, f"draw {name}", rank(), world_size()
        )
        accelerator.wait_for_everyone()
        if rank():
            return {}
        num_images, images_per_second = collect_images(tasks, work_dir, out, settings)
        atomic_write_text(work_dir / DONE_FILE, "{}")
        return {"pictures": num_images, "images_per_second": images_per_second and round(images_per_second, 3)}


def _optional_settings(params: Benchmark) -> dict[str, Any]:
    """Named in a gallery where they are asked for alone, so that galleries of versions without them stay the same."""
    return {"negative_prompt": params.negative_prompt, "scheduler": params.scheduler, "noise": params.noise}


class _BatchGenerator:
    """Draws a batch of prompts; the model is loaded for the first one."""

    def __init__(self, params: Benchmark, model_dir: Path, bits: QuantizedDtype | None, device: str):
        self.params, self.model_dir, self.bits, self.device, self.pipeline = params, model_dir, bits, device, None
        self.noise: NoiseFn | None = None

    def __call__(self, prompts: list[Prompt]) -> np.ndarray:
        if self.pipeline is None:
            pipeline = load_for_inference(
                self.model_dir, self.device, self.params.precision, self.params.scheduler, self.bits
            )
            if self.params.noise == "stream":
                self.noise = SharedNoise(self.params.seed, pipeline.unet.device, pipeline.unet.dtype)
            self.pipeline = pipeline
        return generate_batch(
            self.pipeline,
            [prompt.text for prompt in prompts],
            [prompt.number for prompt in prompts],
            (prompts[0].width, prompts[0].height),
            precision=self.params.precision,
            negative_prompt=self.params.negative_prompt,
            noise=self.noise,
            **self.params.sampling_kwargs,
        )
