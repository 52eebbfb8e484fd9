"""Draw every prompt of the benchmark with one model, into a gallery; an interrupted drawing resumes."""

from pathlib import Path
from typing import Any

import numpy as np

from prunella.compute.distributed import team
from prunella.compute.launch import rank, size
from prunella.compute.resume import DONE, identity, resume_dir, sweep
from prunella.params import Benchmark, Bits, bits_of
from prunella.sampling.benchmark_prompts import Prompt, asked_prompts
from prunella.sampling.gallery import collect, draw_shards
from prunella.sampling.generate import Noise, Stream, draw_batch, load_to_draw
from prunella.sampling.image_shards import shards
from prunella.storage.files import atomic_write_text

ROOMS = ("compute", "models", "sampling")  # decide the result


def draw_gallery(params: Benchmark, *, name: str, model: Path, latents: Path, out: Path, device: str) -> dict[str, Any]:
    """Draw what `params` ask for, such as held-out captions of `latents`, with the pipeline folder `model` into `out`.

    Returns {"pictures", "images_per_second"}: the rate of whole batches, from text to pixels. `name` is the model's in
    reports; one that ends in bits, as "sd-tiny/int8", is drawn with such weights. Of several processes each draws its
    share of the shards; rank 0 writes `out` and returns.
    """
    prompts = asked_prompts(params, latents)
    tasks = shards(prompts, params.batch_size)
    settings = {**params.drawing, "batch_size": params.batch_size, "precision": params.precision}
    settings |= {name: value for name, value in _added(params).items() if value not in ("", None, "own")}
    bits = bits_of(name)
    settings |= {"bits": bits} if bits else {}
    known = settings | {"prompts": [prompt._asdict() for prompt in prompts]}
    everyone = team(device)
    stage = f"draw-{name.replace('/', '-')}"
    with resume_dir(stage, identity(known, [model], ROOMS), first=rank() == 0, begun="[0-9]*") as work:
        everyone.wait_for_everyone()  # the first may have waited for the folder
        if rank() == 0:
            sweep(stage, keep=work)  # nothing goes on from finished pictures
        draw_shards(tasks, _Drawer(params, model, bits, device), work, f"draw {name}", rank(), size())
        everyone.wait_for_everyone()
        if rank():
            return {}
        pictures, rate = collect(tasks, work, out, settings)
        atomic_write_text(work / DONE, "{}")
        return {"pictures": pictures, "images_per_second": rate and round(rate, 3)}


def _added(params: Benchmark) -> dict[str, Any]:
    """Named in a gallery where they are asked for alone, so that galleries of versions without them stay the same."""
    return {"negative_prompt": params.negative_prompt, "scheduler": params.scheduler, "noise": params.noise}


class _Drawer:
    """Draws a batch of prompts; the model is loaded for the first one."""

    def __init__(self, params: Benchmark, model: Path, bits: Bits | None, device: str):
        self.params, self.model, self.bits, self.device, self.pipeline = params, model, bits, device, None
        self.noise: Noise | None = None

    def __call__(self, prompts: list[Prompt]) -> np.ndarray:
        if self.pipeline is None:
            model = load_to_draw(self.model, self.device, self.params.precision, self.params.scheduler, self.bits)
            if self.params.noise == "stream":
                self.noise = Stream(self.params.seed, model.unet.device, model.unet.dtype)
            self.pipeline = model
        return draw_batch(
            self.pipeline,
            [prompt.text for prompt in prompts],
            [prompt.number for prompt in prompts],
            (prompts[0].width, prompts[0].height),
            precision=self.params.precision,
            negative_prompt=self.params.negative_prompt,
            noise=self.noise,
            **self.params.drawing,
        )
