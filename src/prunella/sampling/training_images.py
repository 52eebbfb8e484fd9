"""Generate: pictures that a model makes of prompts, and their latents; an interrupted drawing goes on.

A folder holds `00000.tar`, …, in each for every picture, named by its number: NAME.png, NAME.txt (the prompt),
NAME.json (seed and size) and NAME.npy, the raw latents (CHW) that the picture was decoded from. Therefore it is a
webdataset for whoever reads such. `prompts.jsonl` lists the pictures; `manifest.json` holds the settings, what latents
the model has, and the shards with their sums, and is written last: a folder without one is not whole. With tars on a
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

from prunella.compute.device import resolve_device as device_of
from prunella.compute.distributed import get_accelerator
from prunella.compute.launch import rank, world_size
from prunella.compute.ray_executor import run_shards_on_ray
from prunella.compute.resume import DONE_FILE, compute_identity, open_run_dir, remove_finished_runs
from prunella.errors import UserError
from prunella.models import hub
from prunella.models.fingerprint import vae_fingerprint
from prunella.models.pipeline import resolve_teacher_dir
from prunella.params import Generate, Runtime, did_you_mean
from prunella.sampling.generate import generate_with_latents, load_for_inference
from prunella.sampling.image_shards import (
    TarMember,
    collect_shards,
    format_shard_name,
    is_shard_complete,
    split_into_shards,
    write_image_shard,
    write_image_shards,
)
from prunella.sampling.prompt_sources import sample_prompts
from prunella.sampling.remote_shards import (
    collect_remote_shards,
    list_remote_image_shards,
    read_remote_shard_note,
    upload_image_shard,
)
from prunella.storage.files import atomic_write_text, json_digest
from prunella.storage.remote import PathOrRemote
from prunella.storage.upload import BackgroundUploader, make_remote_prefix

CODE_DEPS = ("compute", "data", "models", "sampling", "scenes")
MANIFEST_FILE, PROMPTS_FILE = "manifest.json", "prompts.jsonl"
UNSEEDED_SCHEDULERS = {"DPMSolverSDEScheduler"}  # draw noise that no seed of ours decides
SIZE_MULTIPLE = 8  # pixels that stock pipelines want sides to be multiples of
LATENT_DTYPES = {"fp32": np.float32, "fp16": np.float16}


class ImageSpec(NamedTuple):
    """A picture to make. Its number decides its noise; `prompt` is the number of its prompt."""

    number: int
    text: str
    width: int  # pixels
    height: int
    prompt: int


def generate_images(
    params: Generate,
    name: str,
    prompts_path: Path,
    model: Path,
    out: Path,
    device: str,
    cluster: Runtime | None = None,
) -> dict[str, Any]:
    """Draw the pictures of the entry `name` into the folder `out`; {"pictures", "prompts", "images_per_second"}.

    `model` is a pinned teacher or a pipeline folder, and not looked at where `params.id` names one on the Hub. Among
    several processes, each draws its share of the shards; rank 0 writes `out` and returns. With `cluster`, the workers
    of the Ray cluster at $RAY_ADDRESS draw them, each as `cluster` says.
    """
    model_dir = resolve_generation_model(params, name, model)
    prompt_list = sample_prompts(prompts_path, params.samples, params.seed)
    tasks = split_into_shards(make_image_specs(prompt_list, params), params.batch_size)
    accelerator, stage = get_accelerator(device), f"generate-{name}"
    run_identity = compute_identity(
        _result_settings(params) | {"prompts": json_digest(prompt_list)}, [model_dir], CODE_DEPS
    )
    remote_prefix = make_remote_prefix(params.store, run_identity)
    with open_run_dir(stage, run_identity, is_main_process=rank() == 0, started_glob="[0-9]*") as work_dir:
        accelerator.wait_for_everyone()  # the first may have waited for the folder
        if rank() == 0:
            remove_finished_runs(stage, retained_dir=work_dir)  # nothing goes on from finished pictures
        existing, description = list_remote_image_shards(remote_prefix) if remote_prefix else {}, f"generate {name}"
        if cluster:
            make_generator = partial(_ShardGenerator, params, name, model_dir, work_dir, cluster, remote_prefix)
            pending_tasks = [
                (number, task) for number, task in enumerate(tasks) if format_shard_name(number) not in existing
            ]
            _generate_on_ray(
                make_generator, pending_tasks if rank() == 0 else [], work_dir, cluster, description, remote_prefix
            )
        else:
            with BackgroundUploader(
                partial(upload_image_shard, work_dir, remote_prefix) if remote_prefix else None
            ) as uploader:
                generator = _SampleGenerator(params, name, model_dir, device)
                write_image_shards(
                    tasks, generator, work_dir, description, rank(), world_size(), existing, uploader.submit
                )
        accelerator.wait_for_everyone()
        if rank():
            return {}
        manifest_entries, images_per_second = (
            collect_remote_shards(tasks, remote_prefix, out) if remote_prefix else collect_shards(tasks, work_dir, out)
        )
        image_specs = [spec for task in tasks for batch in task for spec in batch]
        lines = (json.dumps(spec._asdict(), ensure_ascii=False) + "\n" for spec in image_specs)
        atomic_write_text(out / PROMPTS_FILE, "".join(lines))
        _write_generation_manifest(out, params, model_dir, manifest_entries, remote_prefix)
        atomic_write_text(work_dir / DONE_FILE, "{}")
        return {
            "pictures": len(image_specs),
            "prompts": len(prompt_list),
            "images_per_second": images_per_second and round(images_per_second, 3),
        }


def _result_settings(params: Generate) -> dict[str, Any]:
    """The settings that decide the pictures, which are the same wherever they lie."""
    return params.model_dump(exclude={"store"})


def _write_generation_manifest(
    out: Path,
    params: Generate,
    model_dir: Path,
    manifest_entries: list[dict[str, Any]],
    remote_prefix: PathOrRemote | None,
) -> None:
    settings = _result_settings(params) | ({"commit": model_dir.name} if params.id else {})
    manifest = {"settings": settings, "latents": vae_fingerprint(model_dir), "shards": manifest_entries}
    manifest |= {"store": str(remote_prefix)} if remote_prefix else {}
    atomic_write_text(out / MANIFEST_FILE, json.dumps(manifest, indent=1) + "\n")


def make_image_specs(prompts: list[str], params: Generate) -> list[ImageSpec]:
    """The pictures to make: all prompts, and all of them again for every further picture of each; sizes take turns."""
    image_numbers = range(len(prompts) * params.images_per_prompt)
    sizes = [params.sizes[image_number % len(params.sizes)] for image_number in image_numbers]
    return [
        ImageSpec(image_number, prompts[image_number % len(prompts)], width, height, image_number % len(prompts))
        for image_number, (width, height) in zip(image_numbers, sizes, strict=True)
    ]


def resolve_generation_model(params: Generate, name: str, model: Path) -> Path:
    """The pipeline folder to draw with. Raises UserError where there is none."""
    if params.id:
        return hub.hub_snapshot(params.id, params.revision, hub.MODEL_PATTERNS, param_key=f"generate.{name}.id")
    if model.suffix == ".json" and model.is_file():
        return resolve_teacher_dir(model)
    if not (model / "model_index.json").is_file():
        raise UserError(f"generate.{name}.model: {model} is neither a pipeline folder nor a pinned teacher")
    return model


class _SampleGenerator:
    """Draws a batch of pictures, as members of a shard; the model is loaded for the first one."""

    def __init__(self, params: Generate, name: str, model_dir: Path, device: str):
        self.params, self.name, self.model_dir, self.device = params, name, model_dir, device
        self.pipeline: DiffusionPipeline | None = None

    def __call__(self, batch: list[ImageSpec]) -> Iterator[TarMember]:
        params = self.params
        if self.pipeline is None:
            self.pipeline = prepare_pipeline(
                load_for_inference(self.model_dir, self.device, params.precision), params, self.name
            )
        images, latents = generate_with_latents(
            self.pipeline,
            [spec.text for spec in batch],
            [spec.number for spec in batch],
            (batch[0].width, batch[0].height),
            steps=params.num_inference_steps,
            guidance=params.guidance_scale,
            seed=params.seed,
            precision=params.precision,
            negative_prompt=params.negative_prompt,
        )
        if not np.isfinite(latents).all():
            raise UserError(
                f"generate.{self.name}: NaN or infinite latents of {batch[0].text!r} and those beside it "
                f"(precision {params.precision}); fp32 holds more, else the model's weights are damaged"
            )
        return encode_sample_members(batch, images, latents.astype(LATENT_DTYPES[params.storage]), params.seed)


class _ShardGenerator:
    """Draws a shard at a time in a process of a cluster."""

    def __init__(
        self,
        params: Generate,
        name: str,
        model_dir: Path,
        work_dir: Path,
        runtime: Runtime,
        remote_prefix: PathOrRemote | None,
    ):
        self.work_dir, self.generate_members, self.remote_prefix = (
            work_dir,
            _SampleGenerator(params, name, model_dir, device_of(runtime)),
            remote_prefix,
        )

    def __call__(self, task: tuple[int, list[list[ImageSpec]]]) -> None:
        if not is_shard_complete(self.work_dir, task[0]):
            write_image_shard(self.work_dir, *task, self.generate_members)
        if self.remote_prefix:
            upload_image_shard(self.work_dir, self.remote_prefix, format_shard_name(task[0]))


def _generate_on_ray(
    make_generator: Callable[[], _ShardGenerator],
    tasks: list[tuple[int, list[list[ImageSpec]]]],
    work_dir: Path,
    cluster: Runtime,
    description: str,
    remote_prefix: PathOrRemote | None,
) -> None:
    def is_written(task: tuple[int, list[list[ImageSpec]]]) -> bool:
        return (
            read_remote_shard_note(remote_prefix / f"{format_shard_name(task[0])}.json") is not None
            if remote_prefix
            else is_shard_complete(work_dir, task[0])
        )

    work_dir.mkdir(parents=True, exist_ok=True)
    run_shards_on_ray(
        make_generator,
        tasks if remote_prefix else [task for task in tasks if not is_written(task)],
        cluster,
        work_dir,
        format_task=lambda task: f"shard {task[0]}",
        count_items=lambda task: sum(map(len, task[1])),
        is_written=is_written,
        description=description,
        unit="picture",
    )


def prepare_pipeline(pipeline: DiffusionPipeline, params: Generate, name: str) -> DiffusionPipeline:
    """The pipeline with the scheduler asked for. Raises UserError for another one, and for sizes it cannot draw."""
    if getattr(pipeline, "unet", None) is None:
        raise UserError(f"generate.{name}.model: {type(pipeline).__name__} has no UNet; expected SD 1.x, 2.x or SDXL")
    if params.scheduler is not None:
        compatible_schedulers = {
            scheduler_class.__name__: scheduler_class
            for scheduler_class in pipeline.scheduler.compatibles
            if scheduler_class.__name__ not in UNSEEDED_SCHEDULERS
        }
        if params.scheduler not in compatible_schedulers:
            raise UserError(
                f"generate.{name}.scheduler: "
                f"{did_you_mean('scheduler of this model', params.scheduler, sorted(compatible_schedulers))}"
            )
        pipeline.scheduler = compatible_schedulers[params.scheduler].from_config(pipeline.scheduler.config)
    size_multiple = max(SIZE_MULTIPLE, pipeline.vae_scale_factor)
    for width, height in params.sizes:
        if width % size_multiple or height % size_multiple:
            raise UserError(
                f"generate.{name}.sizes: {width} × {height} pixels; sides must be multiples of {size_multiple}"
            )
    return pipeline


def encode_sample_members(
    batch: list[ImageSpec], images: np.ndarray, latents: np.ndarray, seed: int
) -> Iterator[TarMember]:
    """The four files of each picture (drawn: NHWC uint8; latents: NCHW)."""
    for spec, pixels, latent in zip(batch, images, latents, strict=True):
        png, npy, stem = io.BytesIO(), io.BytesIO(), f"{spec.number:08d}"
        Image.fromarray(pixels).save(png, "PNG")
        np.save(npy, latent)
        metadata = {"seed": seed, "number": spec.number, "width": spec.width, "height": spec.height}
        yield f"{stem}.png", png.getvalue()
        yield f"{stem}.txt", spec.text.encode()
        yield f"{stem}.json", json.dumps(metadata).encode()
        yield f"{stem}.npy", npy.getvalue()
