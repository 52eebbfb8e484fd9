"""How a shard of encoded pairs is made: pictures read and cut ahead by threads, encoded in batches, written whole."""

import hashlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from prunella.compute.device import resolve_device
from prunella.compute.ray_executor import run_shards_on_ray
from prunella.compute.timing import Timings
from prunella.data.images import RejectedImage, center_crop_resize, open_rgb, raise_system_errors, size_conditioning
from prunella.data.manifest import Sample, batched
from prunella.data.prefetch import count_threads, prefetch
from prunella.data.sources import open_source
from prunella.data.sources.base import Source
from prunella.data.sources.generated import GeneratedImages
from prunella.encoding.remote_shards import read_remote_note, upload_shard
from prunella.errors import UserError
from prunella.latents.encoders import Encoders
from prunella.latents.shards import MIRRORED, read_shard_note, verify_shard, write_shard
from prunella.params import Encode, Runtime
from prunella.storage.remote import PathOrRemote
from prunella.storage.upload import BackgroundUploader

CHANGED_IMAGE = "another picture than when it was filtered"
PREFETCHED_BATCHES = 3  # batches of pictures that wait decoded
STORAGE_DTYPES = {"fp32": torch.float32, "fp16": torch.float16}


class StoredLatents(NamedTuple):
    """Raw latents (CHW) that a picture was decoded from, in place of it."""

    mean: np.ndarray


LoadedImage = np.ndarray | StoredLatents | RejectedImage  # HWC uint8, or what stands for it


class EncodeTask(NamedTuple):
    """A shard to be made: its pairs, all cut to one size (width, height)."""

    split: str
    number: int
    size: tuple[int, int]
    pairs: list[Sample]

    @property
    def name(self) -> str:
        return f"{self.split}-{self.number:05d}"


class ShardEncoder:
    """Makes a shard at a time in a process of a cluster."""

    def __init__(
        self, teacher: Path, params: Encode, source: dict, work: Path, runtime: Runtime, remote_dir: PathOrRemote | None
    ):
        self.encoders = Encoders(teacher, resolve_device(runtime), params.precision)
        self.shared_args, self.remote_dir = (
            (params, source, work, count_threads(runtime.workers), Timings()),
            remote_dir,
        )

    def __call__(self, task: EncodeTask) -> None:
        write_shards([task], self.encoders, *self.shared_args, show_progress=False, remote_dir=self.remote_dir)


def write_shards_on_ray(
    make_shard_encoder: Callable[[], ShardEncoder],
    tasks: list[EncodeTask],
    work: Path,
    cluster: Runtime,
    remote_dir: PathOrRemote | None = None,
) -> None:
    """Have the workers of a cluster make the shards in `work`, or on a store at `remote_dir`."""

    def is_written(task: EncodeTask) -> bool:
        return (
            read_remote_note(remote_dir / f"{task.name}.json") if remote_dir else read_shard_note(work, task.name)
        ) is not None

    run_shards_on_ray(
        make_shard_encoder,
        tasks if remote_dir else [task for task in tasks if verify_shard(work, task.name) is None],
        cluster,
        work,
        format_task=lambda task: task.name,
        count_items=lambda task: len(task.pairs),
        is_written=is_written,
        description="encode",
        unit="pair",
    )


def write_shards(
    tasks: list[EncodeTask],
    encoders: Encoders,
    params: Encode,
    source: dict,
    work: Path,
    workers: int,
    timings: Timings,
    show_progress: bool = True,
    remote_dir: PathOrRemote | None = None,
) -> None:
    """Make the shards of `tasks` that are not there yet in `work`; `show_progress` draws a progress bar.

    With `remote_dir` they are uploaded there, on a store, and `tasks` are those that are not there.
    """
    work.mkdir(parents=True, exist_ok=True)
    existing_names = {task.name for task in tasks if verify_shard(work, task.name)}
    missing_tasks = [task for task in tasks if task.name not in existing_names]
    image_source, changed_keys = open_source(source), []
    latent_source = None if params.flip else _find_latent_source(image_source, encoders)

    def load_image(task_and_pair: tuple[EncodeTask, Sample]) -> LoadedImage:
        task, pair = task_and_pair
        try:
            with raise_system_errors(pair.key), ExitStack() as stack:
                if latent_source and (pair.width, pair.height) == task.size:
                    return _read_stored_latents(latent_source, pair)
                with timings("decode"):
                    image = stack.enter_context(_open_unchanged_image(image_source, pair))
                with timings("resize"):
                    return center_crop_resize(image, *task.size)
        except RejectedImage as rejected:
            if rejected.cause == CHANGED_IMAGE:
                changed_keys.append(pair.key)
            return rejected

    task_pairs = ((task, pair) for task in missing_tasks for pair in task.pairs)
    loaded_images = prefetch(
        load_image, task_pairs, workers, PREFETCHED_BATCHES * params.batch_size, label=lambda it: it[1].key
    )
    total = sum(len(task.pairs) for task in missing_tasks)
    with (
        BackgroundUploader(partial(upload_shard, work, remote_dir) if remote_dir else None) as uploader,
        tqdm(total=total, desc="encode", unit="pair", mininterval=1.0, disable=not show_progress) as progress_bar,
    ):
        for name in sorted(existing_names):
            uploader.submit(name)  # whose carrying was killed
        for task in missing_tasks:
            parts: list[EncodedBatch] = []
            notes: Counter[str] = Counter()
            for batch in batched(task.pairs, params.batch_size):
                with timings("waiting for pictures"):
                    batch_images = [next(loaded_images) for _ in batch]
                parts += _encode_batch(batch, batch_images, task, encoders, params, notes, timings)
                progress_bar.update(len(batch))
            with timings("writing"):
                _write_shard(task, parts, notes, work)
            uploader.submit(task.name)
    if changed_keys:
        more_text = f" and {len(changed_keys) - 10} more" if len(changed_keys) > 10 else ""
        print(f"encode: left out, {CHANGED_IMAGE}: {', '.join(changed_keys[:10])}{more_text}", file=sys.stderr)


@contextmanager
def _open_unchanged_image(source: Source, pair: Sample) -> Iterator[Image.Image]:
    """The pair's picture, unpacked. Raises RejectedImage where it is not the one that the filter saw."""
    data = b"" if source.rendered else source.read_image_bytes(pair.key)
    with source.open_image(pair.key) if source.rendered else open_rgb(data) as image:
        if image.size != (pair.width, pair.height):
            raise RejectedImage("another size than when it was filtered")
        if data and hashlib.sha256(data).hexdigest() != pair.sum:
            raise RejectedImage(CHANGED_IMAGE)
        yield image


def _read_stored_latents(source: GeneratedImages, pair: Sample) -> StoredLatents:
    """The latents of the pair's picture. Raises RejectedImage where it is not the one that the filter saw."""
    if hashlib.sha256(source.read_image_bytes(pair.key)).hexdigest() != pair.sum:
        raise RejectedImage(CHANGED_IMAGE)
    return StoredLatents(source.read_latents(pair.key))


def _find_latent_source(source: Source, encoders: Encoders) -> GeneratedImages | None:
    """The source, where its pictures were decoded from latents of the teacher's own VAE."""
    return source if isinstance(source, GeneratedImages) and source.latent_space == encoders.latent_space else None


class EncodedBatch(NamedTuple):
    captions: list[str | list[str]]
    tensors: dict[str, Tensor]


def _encode_batch(
    batch: Sequence[Sample],
    images: Sequence[LoadedImage],
    task: EncodeTask,
    encoders: Encoders,
    params: Encode,
    notes: Counter[str],
    timings: Timings,
) -> Iterator[EncodedBatch]:
    """The stored tensors of a batch; pictures that can no longer be read are counted in `notes` and left out."""
    notes.update(num_rejected.cause for num_rejected in images if isinstance(num_rejected, RejectedImage))
    loaded_pairs = [
        (pair, picture) for pair, picture in zip(batch, images, strict=True) if not isinstance(picture, RejectedImage)
    ]
    if not loaded_pairs:
        return
    pairs = [pair for pair, _ in loaded_pairs]
    captions = [caption for pair in pairs for caption in pair.captions]
    with timings("vae"):
        latents = _encode_latents([picture for _, picture in loaded_pairs], encoders, params.flip)
    if num_reused_latents := sum(isinstance(picture, StoredLatents) for _, picture in loaded_pairs):
        notes["as_drawn"] += num_reused_latents
    with timings("text"):
        tokens, cut = encoders.tokenize(captions)
        text = encoders.encode_captions(captions) if params.text == "embeddings" else tokens
    notes["captions_cut"] += cut
    kind = STORAGE_DTYPES[params.storage]
    tensors = {name: value.to(kind) for name, value in latents.items()}
    tensors |= {name: value.to(kind) if value.is_floating_point() else value for name, value in text.items()}
    if "pooled" in text or "tokens_2" in text:
        given = [size_conditioning((pair.width, pair.height), *task.size) for pair in pairs]
        tensors["sizes"] = torch.tensor(given).float()
    if any(isinstance(pair.text, list) for pair in task.pairs):
        tensors["captions"] = torch.tensor([len(pair.captions) for pair in pairs])
    _check_finite(tensors, params, pairs)
    yield EncodedBatch([pair.text for pair in pairs], tensors)


def _encode_latents(images: list[np.ndarray | StoredLatents], encoders: Encoders, flip: bool) -> dict[str, Tensor]:
    """ "mean" and "std" (NCHW), and with `flip` those of the mirrored pictures: the VAE mirrors none by itself.

    Latents as drawn are their own mean, without a std.
    """
    pictures = [picture for picture in images if not isinstance(picture, StoredLatents)]
    mean = std = torch.empty(0)
    if pictures:
        mean, std = encoders.encode_images(np.stack(pictures))
    if len(pictures) < len(images):
        rows = iter(zip(mean, std, strict=True))
        stored_latents = [
            torch.from_numpy(each.mean).float() if isinstance(each, StoredLatents) else None for each in images
        ]
        all_latents = [next(rows) if each is None else (each, torch.zeros_like(each)) for each in stored_latents]
        mean, std = (torch.stack(part) for part in zip(*all_latents, strict=True))
    if not flip:
        return {"mean": mean, "std": std}
    mirrored = encoders.encode_images(np.stack([picture[:, ::-1] for picture in pictures]))
    return {"mean": mean, "std": std} | dict(zip(MIRRORED, mirrored, strict=True))


def _check_finite(tensors: dict[str, Tensor], params: Encode, pairs: list[Sample]) -> None:
    """Raises UserError, naming the teacher's part, where what it made of a batch's pairs is no number any more."""
    for name, value in tensors.items():
        if not value.isfinite().all():
            part = "VAE" if name in ("mean", "std", *MIRRORED) else "text encoder"
            raise UserError(
                f"encode: the teacher's {part} gives NaN or infinite numbers ({name} of the pairs from {pairs[0].key} "
                f"to {pairs[-1].key}, precision {params.precision}, storage {params.storage}); "
                "encode.precision and encode.storage fp32 hold more, else the teacher's weights are damaged"
            )


def _write_shard(task: EncodeTask, parts: list[EncodedBatch], notes: Counter, work: Path) -> None:
    if not parts:
        raise UserError(f"encode: not one of the {len(task.pairs)} pictures of {task.name} can be read any more")
    tensors = {name: torch.cat([part.tensors[name] for part in parts]) for name in parts[0].tensors}
    if (counts := tensors.get("captions")) is not None:
        tensors["captions"] = torch.stack([counts.cumsum(0) - counts, counts], 1).int()
    captions = [text for part in parts for text in part.captions]
    write_shard(work, task.split, task.number, task.size, captions, tensors, notes)
