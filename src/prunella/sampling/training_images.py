"""Generate: pictures that a model makes of prompts, and their latents; an interrupted drawing goes on.

A folder holds `00000.tar`, …, in each for every picture, named by its number: NAME.png, NAME.txt (the prompt),
NAME.json (seed and size) and NAME.npy, the raw latents (CHW) that the picture was decoded from. So it is a webdataset
for whoever reads such. `prompts.jsonl` lists the pictures; `manifest.json` holds the settings, what latents the model
has, and the shards with their sums, and is written last: a folder without one is not whole. Where the tars lie on a
store, the manifest has their address there as "store".

A picture's noise is a function of seed and number: it is the same whoever draws it, and after an interruption.
"""

import io
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from diffusers import DiffusionPipeline
from PIL import Image

from prunella.compute.device import device as device_of
from prunella.compute.distributed import team
from prunella.compute.launch import rank, size
from prunella.compute.ray_executor import shards_on_ray
from prunella.compute.resume import DONE, identity, resume_dir, sweep
from prunella.errors import UserError
from prunella.models import hub
from prunella.models.fingerprint import latent_space
from prunella.models.pipeline import teacher_folder
from prunella.params import Generate, Runtime, unknown
from prunella.sampling.generate import drawn_with_latents, load_to_draw
from prunella.sampling.image_shards import (
    Member,
    collect_shards,
    fill_shard,
    fill_shards,
    shard_name,
    shards,
    whole_shard,
)
from prunella.sampling.prompt_sources import read_prompts
from prunella.sampling.remote_shards import carried, collect_stored, noted, stored
from prunella.storage.files import atomic_write_text, json_digest
from prunella.storage.remote import Place
from prunella.storage.upload import Porter, home

ROOMS = ("compute", "data", "models", "sampling", "scenes")
MANIFEST, PROMPTS = "manifest.json", "prompts.jsonl"
OWN_NOISE = {"DPMSolverSDEScheduler"}  # draw noise that no seed of ours decides
STOCK = 8  # pixels that stock pipelines want sides to be multiples of
KINDS = {"fp32": np.float32, "fp16": np.float16}


class Picture(NamedTuple):
    """A picture to make. Its number decides its noise; `prompt` is the number of its prompt."""

    number: int
    text: str
    width: int  # pixels
    height: int
    prompt: int


def generated(
    params: Generate,
    name: str,
    prompts: Path,
    model: Path,
    out: Path,
    device: str,
    cluster: Runtime | None = None,
) -> dict[str, Any]:
    """Draw the pictures of the entry `name` into the folder `out`; {"pictures", "prompts", "images_per_second"}.

    `model` is a pinned teacher or a pipeline folder, and not looked at where `params.id` names one on the Hub. Of
    several processes each draws its share of the shards; rank 0 writes `out` and returns. With `cluster`, the workers
    of the Ray cluster at $RAY_ADDRESS draw them, each as `cluster` says.
    """
    folder = model_folder(params, name, model)
    asked = read_prompts(prompts, params.samples, params.seed)
    tasks = shards(pictures(asked, params), params.batch_size)
    everyone, stage = team(device), f"generate-{name}"
    known = identity(_decided(params) | {"prompts": json_digest(asked)}, [folder], ROOMS)
    at = home(params.store, known)
    with resume_dir(stage, known, first=rank() == 0, begun="[0-9]*") as work:
        everyone.wait_for_everyone()  # the first may have waited for the folder
        if rank() == 0:
            sweep(stage, keep=work)  # nothing goes on from finished pictures
        there, title = stored(at) if at else {}, f"generate {name}"
        if cluster:
            begin = partial(_ShardDrawer, params, name, folder, work, cluster, at)
            waiting = [(number, task) for number, task in enumerate(tasks) if shard_name(number) not in there]
            _drawn_by_cluster(begin, waiting if rank() == 0 else [], work, cluster, title, at)
        else:
            with Porter(partial(carried, work, at) if at else None) as porter:
                draw = _Drawer(params, name, folder, device)
                fill_shards(tasks, draw, work, title, rank(), size(), there, porter.take)
        everyone.wait_for_everyone()
        if rank():
            return {}
        drawn, rate = collect_stored(tasks, at, out) if at else collect_shards(tasks, work, out)
        every = [picture for task in tasks for batch in task for picture in batch]
        lines = (json.dumps(picture._asdict(), ensure_ascii=False) + "\n" for picture in every)
        atomic_write_text(out / PROMPTS, "".join(lines))
        _write_manifest(out, params, folder, drawn, at)
        atomic_write_text(work / DONE, "{}")
        return {"pictures": len(every), "prompts": len(asked), "images_per_second": rate and round(rate, 3)}


def _decided(params: Generate) -> dict[str, Any]:
    """The settings that decide the pictures, which are the same wherever they lie."""
    return params.model_dump(exclude={"store"})


def _write_manifest(out: Path, params: Generate, folder: Path, drawn: list[dict[str, Any]], at: Place | None) -> None:
    settings = _decided(params) | ({"commit": folder.name} if params.id else {})
    manifest = {"settings": settings, "latents": latent_space(folder), "shards": drawn}
    manifest |= {"store": str(at)} if at else {}
    atomic_write_text(out / MANIFEST, json.dumps(manifest, indent=1) + "\n")


def pictures(prompts: list[str], params: Generate) -> list[Picture]:
    """The pictures to make: all prompts, and all of them again for every further picture of each; sizes take turns."""
    numbers = range(len(prompts) * params.pictures)
    sizes = [params.sizes[number % len(params.sizes)] for number in numbers]
    return [
        Picture(number, prompts[number % len(prompts)], width, height, number % len(prompts))
        for number, (width, height) in zip(numbers, sizes, strict=True)
    ]


def model_folder(params: Generate, name: str, model: Path) -> Path:
    """The pipeline folder to draw with. Raises UserError where there is none."""
    if params.id:
        return hub.snapshot(params.id, params.revision, hub.MODEL, key=f"generate.{name}.id")
    if model.suffix == ".json" and model.is_file():
        return teacher_folder(model)
    if not (model / "model_index.json").is_file():
        raise UserError(f"generate.{name}.model: {model} is neither a pipeline folder nor a pinned teacher")
    return model


class _Drawer:
    """Draws a batch of pictures, as members of a shard; the model is loaded for the first one."""

    def __init__(self, params: Generate, name: str, model: Path, device: str):
        self.params, self.name, self.model, self.device = params, name, model, device
        self.pipeline: DiffusionPipeline | None = None

    def __call__(self, batch: list[Picture]) -> Iterator[Member]:
        params = self.params
        if self.pipeline is None:
            self.pipeline = ready(load_to_draw(self.model, self.device, params.precision), params, self.name)
        drawn, latents = drawn_with_latents(
            self.pipeline,
            [picture.text for picture in batch],
            [picture.number for picture in batch],
            (batch[0].width, batch[0].height),
            steps=params.inference_steps,
            guidance=params.guidance,
            seed=params.seed,
            precision=params.precision,
            negative_prompt=params.negative_prompt,
        )
        if not np.isfinite(latents).all():
            raise UserError(
                f"generate.{self.name}: NaN or infinite latents of {batch[0].text!r} and those beside it "
                f"(precision {params.precision}); fp32 holds more, else the model's weights are damaged"
            )
        return members(batch, drawn, latents.astype(KINDS[params.storage]), params.seed)


class _ShardDrawer:
    """Draws a shard at a time in a process of a cluster."""

    def __init__(self, params: Generate, name: str, model: Path, work: Path, runtime: Runtime, at: Place | None):
        self.work, self.draw, self.at = work, _Drawer(params, name, model, device_of(runtime)), at

    def __call__(self, it: tuple[int, list[list[Picture]]]) -> None:
        if not whole_shard(self.work, it[0]):
            fill_shard(self.work, *it, self.draw)
        if self.at:
            carried(self.work, self.at, shard_name(it[0]))


def _drawn_by_cluster(
    begin: Callable[[], _ShardDrawer],
    tasks: list[tuple[int, list[list[Picture]]]],
    work: Path,
    cluster: Runtime,
    title: str,
    at: Place | None,
) -> None:
    def there(it: tuple[int, list[list[Picture]]]) -> bool:
        return noted(at / f"{shard_name(it[0])}.json") is not None if at else whole_shard(work, it[0])

    work.mkdir(parents=True, exist_ok=True)
    shards_on_ray(
        begin,
        tasks if at else [it for it in tasks if not there(it)],
        cluster,
        work,
        named=lambda it: f"shard {it[0]}",
        count=lambda it: sum(map(len, it[1])),
        there=there,
        title=title,
        unit="picture",
    )


def ready(pipeline: DiffusionPipeline, params: Generate, name: str) -> DiffusionPipeline:
    """The pipeline with the scheduler asked for. Raises UserError for another one, and for sizes it cannot draw."""
    if getattr(pipeline, "unet", None) is None:
        raise UserError(f"generate.{name}.model: {type(pipeline).__name__} has no UNet; expected SD 1.x, 2.x or SDXL")
    if params.scheduler is not None:
        known = {kind.__name__: kind for kind in pipeline.scheduler.compatibles if kind.__name__ not in OWN_NOISE}
        if params.scheduler not in known:
            raise UserError(
                f"generate.{name}.scheduler: {unknown('scheduler of this model', params.scheduler, sorted(known))}"
            )
        pipeline.scheduler = known[params.scheduler].from_config(pipeline.scheduler.config)
    unit = max(STOCK, pipeline.vae_scale_factor)
    for width, height in params.sizes:
        if width % unit or height % unit:
            raise UserError(f"generate.{name}.sizes: {width} × {height} pixels; sides must be multiples of {unit}")
    return pipeline


def members(batch: list[Picture], drawn: np.ndarray, latents: np.ndarray, seed: int) -> Iterator[Member]:
    """The four files of each picture (drawn: NHWC uint8; latents: NCHW)."""
    for picture, pixels, latent in zip(batch, drawn, latents, strict=True):
        png, npy, stem = io.BytesIO(), io.BytesIO(), f"{picture.number:08d}"
        Image.fromarray(pixels).save(png, "PNG")
        np.save(npy, latent)
        about = {"seed": seed, "number": picture.number, "width": picture.width, "height": picture.height}
        yield f"{stem}.png", png.getvalue()
        yield f"{stem}.txt", picture.text.encode()
        yield f"{stem}.json", json.dumps(about).encode()
        yield f"{stem}.npy", npy.getvalue()
