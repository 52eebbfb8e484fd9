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
from prunella.encoding.remote_shards import carried, noted
from prunella.errors import UserError
from prunella.latents.encoders import Encoders
from prunella.latents.shards import MIRRORED, noted_shard, whole_shard, write_shard
from prunella.params import Encode, Runtime
from prunella.storage.remote import PathOrRemote
from prunella.storage.upload import BackgroundUploader

SWAPPED = "another picture than when it was filtered"
AHEAD = 3  # batches of pictures that wait decoded
STORED = {"fp32": torch.float32, "fp16": torch.float16}


class Drawn(NamedTuple):
    """Raw latents (CHW) that a picture was decoded from, in place of it."""

    mean: np.ndarray


Found = np.ndarray | Drawn | RejectedImage  # HWC uint8, or what stands for it


class Task(NamedTuple):
    """A shard to be made: its pairs, all cut to one size (width, height)."""

    split: str
    number: int
    size: tuple[int, int]
    pairs: list[Sample]

    @property
    def name(self) -> str:
        return f"{self.split}-{self.number:05d}"


class ShardMaker:
    """Makes a shard at a time in a process of a cluster."""

    def __init__(
        self, teacher: Path, params: Encode, source: dict, work: Path, runtime: Runtime, home: PathOrRemote | None
    ):
        self.encoders = Encoders(teacher, resolve_device(runtime), params.precision)
        self.given, self.home = (params, source, work, count_threads(runtime.workers), Timings()), home

    def __call__(self, task: Task) -> None:
        make_shards([task], self.encoders, *self.given, bar=False, home=self.home)


def made_by_cluster(
    begin: Callable[[], ShardMaker], tasks: list[Task], work: Path, cluster: Runtime, home: PathOrRemote | None = None
) -> None:
    """Have the workers of a cluster make the shards in `work`, or on a store at `home`."""

    def there(task: Task) -> bool:
        return (noted(home / f"{task.name}.json") if home else noted_shard(work, task.name)) is not None

    run_shards_on_ray(
        begin,
        tasks if home else [task for task in tasks if whole_shard(work, task.name) is None],
        cluster,
        work,
        format_task=lambda task: task.name,
        count_items=lambda task: len(task.pairs),
        is_written=there,
        description="encode",
        unit="pair",
    )


def make_shards(
    tasks: list[Task],
    encoders: Encoders,
    params: Encode,
    source: dict,
    work: Path,
    workers: int,
    clock: Timings,
    bar: bool = True,
    home: PathOrRemote | None = None,
) -> None:
    """Make the shards of `tasks` that are not there yet in `work`; a `bar` says how far it is.

    With `home` they are carried there, on a store, and `tasks` are those that are not there.
    """
    work.mkdir(parents=True, exist_ok=True)
    made_before = {task.name for task in tasks if whole_shard(work, task.name)}
    waiting = [task for task in tasks if task.name not in made_before]
    pictures_of, swapped = open_source(source), []
    drawn_of = None if params.flip else _with_latents_of(pictures_of, encoders)

    def made(it: tuple[Task, Sample]) -> Found:
        task, pair = it
        try:
            with raise_system_errors(pair.key), ExitStack() as in_use:
                if drawn_of and (pair.width, pair.height) == task.size:
                    return _as_drawn(drawn_of, pair)
                with clock("decode"):
                    drawn = in_use.enter_context(_as_filtered(pictures_of, pair))
                with clock("resize"):
                    return center_crop_resize(drawn, *task.size)
        except RejectedImage as rejected:
            if rejected.cause == SWAPPED:
                swapped.append(pair.key)
            return rejected

    asked = ((task, pair) for task in waiting for pair in task.pairs)
    pictures = prefetch(made, asked, workers, AHEAD * params.batch_size, label=lambda it: it[1].key)
    total = sum(len(task.pairs) for task in waiting)
    with (
        BackgroundUploader(partial(carried, work, home) if home else None) as porter,
        tqdm(total=total, desc="encode", unit="pair", mininterval=1.0, disable=not bar) as shown,
    ):
        for name in sorted(made_before):
            porter.submit(name)  # whose carrying was killed
        for task in waiting:
            parts: list[Part] = []
            notes: Counter[str] = Counter()
            for batch in batched(task.pairs, params.batch_size):
                with clock("waiting for pictures"):
                    found = [next(pictures) for _ in batch]
                parts += _tensors(batch, found, task, encoders, params, notes, clock)
                shown.update(len(batch))
            with clock("writing"):
                _written(task, parts, notes, work)
            porter.submit(task.name)
    if swapped:
        more = f" and {len(swapped) - 10} more" if len(swapped) > 10 else ""
        print(f"encode: left out, {SWAPPED}: {', '.join(swapped[:10])}{more}", file=sys.stderr)


@contextmanager
def _as_filtered(source: Source, pair: Sample) -> Iterator[Image.Image]:
    """The pair's picture, unpacked. Raises RejectedImage where it is not the one that the filter saw."""
    data = b"" if source.rendered else source.read_image_bytes(pair.key)
    with source.open_image(pair.key) if source.rendered else open_rgb(data) as picture:
        if picture.size != (pair.width, pair.height):
            raise RejectedImage("another size than when it was filtered")
        if data and hashlib.sha256(data).hexdigest() != pair.sum:
            raise RejectedImage(SWAPPED)
        yield picture


def _as_drawn(source: GeneratedImages, pair: Sample) -> Drawn:
    """The latents of the pair's picture. Raises RejectedImage where it is not the one that the filter saw."""
    if hashlib.sha256(source.read_image_bytes(pair.key)).hexdigest() != pair.sum:
        raise RejectedImage(SWAPPED)
    return Drawn(source.read_latents(pair.key))


def _with_latents_of(source: Source, encoders: Encoders) -> GeneratedImages | None:
    """The source, where its pictures were decoded from latents of the teacher's own VAE."""
    return source if isinstance(source, GeneratedImages) and source.latent_space == encoders.latent_space else None


class Part(NamedTuple):
    captions: list[str | list[str]]
    tensors: dict[str, Tensor]


def _tensors(
    batch: Sequence[Sample],
    found: Sequence[Found],
    task: Task,
    encoders: Encoders,
    params: Encode,
    notes: Counter[str],
    clock: Timings,
) -> Iterator[Part]:
    """What is stored of a batch; pictures that can no longer be read are counted in `notes` and left out."""
    notes.update(unfit.cause for unfit in found if isinstance(unfit, RejectedImage))
    both = [
        (pair, picture) for pair, picture in zip(batch, found, strict=True) if not isinstance(picture, RejectedImage)
    ]
    if not both:
        return
    pairs = [pair for pair, _ in both]
    captions = [caption for pair in pairs for caption in pair.captions]
    with clock("vae"):
        latents = _latents([picture for _, picture in both], encoders, params.flip)
    if as_drawn := sum(isinstance(picture, Drawn) for _, picture in both):
        notes["as_drawn"] += as_drawn
    with clock("text"):
        tokens, cut = encoders.tokens(captions)
        text = encoders.text(captions) if params.text == "embeddings" else tokens
    notes["captions_cut"] += cut
    kind = STORED[params.storage]
    tensors = {name: value.to(kind) for name, value in latents.items()}
    tensors |= {name: value.to(kind) if value.is_floating_point() else value for name, value in text.items()}
    if "pooled" in text or "tokens_2" in text:
        given = [size_conditioning((pair.width, pair.height), *task.size) for pair in pairs]
        tensors["sizes"] = torch.tensor(given).float()
    if any(isinstance(pair.text, list) for pair in task.pairs):
        tensors["captions"] = torch.tensor([len(pair.captions) for pair in pairs])
    _check_finite(tensors, params, pairs)
    yield Part([pair.text for pair in pairs], tensors)


def _latents(found: list[np.ndarray | Drawn], encoders: Encoders, flip: bool) -> dict[str, Tensor]:
    """ "mean" and "std" (NCHW), and with `flip` those of the mirrored pictures: the VAE mirrors none by itself.

    Latents as drawn are their own mean, without a std.
    """
    pictures = [picture for picture in found if not isinstance(picture, Drawn)]
    mean = std = torch.empty(0)
    if pictures:
        mean, std = encoders.latents(np.stack(pictures))
    if len(pictures) < len(found):
        rows = iter(zip(mean, std, strict=True))
        drawn = [torch.from_numpy(each.mean).float() if isinstance(each, Drawn) else None for each in found]
        every = [next(rows) if each is None else (each, torch.zeros_like(each)) for each in drawn]
        mean, std = (torch.stack(part) for part in zip(*every, strict=True))
    if not flip:
        return {"mean": mean, "std": std}
    mirrored = encoders.latents(np.stack([picture[:, ::-1] for picture in pictures]))
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


def _written(task: Task, parts: list[Part], notes: Counter, work: Path) -> None:
    if not parts:
        raise UserError(f"encode: not one of the {len(task.pairs)} pictures of {task.name} can be read any more")
    whole = {name: torch.cat([part.tensors[name] for part in parts]) for name in parts[0].tensors}
    if (counts := whole.get("captions")) is not None:
        whole["captions"] = torch.stack([counts.cumsum(0) - counts, counts], 1).int()
    captions = [text for part in parts for text in part.captions]
    write_shard(work, task.split, task.number, task.size, captions, whole, notes)
