"""Encode: pictures and captions of the manifest to shards of raw latents and text embeddings.

Which pairs make which shard, and which of them go through the VAE together, follows from the manifest, the seed and the
parameters alone; so a shard is the same whoever encodes it, and after an interruption the next one is begun.
"""

import hashlib
import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from prunella.compute.distributed import team
from prunella.compute.launch import rank, size
from prunella.compute.timing import Timings
from prunella.compute.workdir import DONE, identity, resume_dir, sweep
from prunella.data.buckets import NONE, assigned, sizes
from prunella.data.images import RejectedImage, fitted, machine_faults, size_conditioning, unpacked
from prunella.data.manifest import Sample, chunks, read_manifest
from prunella.data.prefetch import ahead, threads
from prunella.data.sources import open_source
from prunella.data.sources.base import Source
from prunella.data.sources.generated import Generated
from prunella.errors import UserError
from prunella.files import atomic_write_text, link_or_copy, sha256
from prunella.latents.encoders import Encoders
from prunella.latents.shards import MANIFEST, MIRRORED, Shard, noted_shard, whole_shard, write_manifest, write_shard
from prunella.params import Encode

SWAPPED = "another picture than when it was filtered"
ROOMS = ("compute", "data", "latents", "models", "scenes")  # decide the result
AHEAD = 3  # batches of pictures that wait decoded
STORED = {"fp32": torch.float32, "fp16": torch.float16}
PARTS = ("vae", "vae_1_0", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")  # what decides the result


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


def encoded(
    params: Encode,
    seed: int,
    teacher: Path,
    manifest: Path,
    out: Path,
    device: str,
    workers: int = 0,
    clock: Timings | None = None,
) -> dict:
    """Encode the pairs of `manifest` with the encoders of `teacher` into `out`; return the counts.

    Of several processes each makes its share of the shards, and the first returns. Raises UserError before any work
    where too few pairs are there, or too little room on the disk.
    """
    source, pairs = read_manifest(manifest)
    _same_scenes(source)
    encoders = Encoders(teacher, device, params.precision)
    among = sizes(params.buckets, params.resolution, multiple(teacher))
    tasks, small = planned(pairs, params, seed, among)
    inputs = [manifest, *(path for part in PARTS if (path := teacher / part).is_dir())]
    everyone = team(device)
    known = identity(params.model_dump() | {"seed": seed}, inputs, ROOMS)
    with resume_dir("encode", known, first=rank() == 0, begun="*.safetensors") as work:
        everyone.wait_for_everyone()  # the first may have waited for the folder
        work.mkdir(parents=True, exist_ok=True)
        if rank() == 0:
            sweep("encode", keep=work)  # nothing goes on from finished shards, and they may be large
            _room(tasks, encoders, params, work, out)
        missing = [noted_shard(work, task.name) is None for task in tasks]
        everyone.wait_for_everyone()  # so that all see the same ones missing
        ours = [task for kind in (True, False) for task in _dealt(tasks, missing, kind)]
        _encode(ours, encoders, params, source, work, threads(workers), clock or Timings())
        everyone.wait_for_everyone()
        return _collected(tasks, encoders, params, work, out, small) if rank() == 0 else {}


def planned(pairs: list[Sample], params: Encode, seed: int, among: list[tuple[int, int]]) -> tuple[list[Task], int]:
    """The shards to make, and how many pairs are left out since they would be enlarged too much."""
    place = assigned(np.array([(pair.width, pair.height) for pair in pairs]), among, params.max_upscale)
    large = [pair for pair, number in zip(pairs, place, strict=True) if number != NONE]
    if len(large) <= params.heldout:
        why = f", {len(pairs) - len(large)} of them too small for encode.max_upscale" if len(large) < len(pairs) else ""
        raise UserError(
            f"encode.heldout: {params.heldout} pairs are to be held out, but only {len(pairs)} passed the filter{why}"
        )
    sized = {id(pair): number for pair, number in zip(pairs, place, strict=True)}
    tasks = []
    for split, chosen in split_off(large, params.heldout, seed).items():
        number = 0
        for bucket, dimensions in enumerate(among):
            alike = [pair for pair in chosen if sized[id(pair)] == bucket]
            for some in chunks(alike, params.shard_size):
                tasks.append(Task(split, number, dimensions, some))
                number += 1
    return tasks, len(pairs) - len(large)


def _dealt(tasks: list[Task], missing: list[bool], kind: bool) -> list[Task]:
    """This process's share of the shards that are missing, or of those that are there, to be looked at."""
    return [task for task, none in zip(tasks, missing, strict=True) if none == kind][rank() :: size()]


def _room(tasks: list[Task], encoders: Encoders, params: Encode, work: Path, out: Path) -> None:
    """Say what the shards will take on the disk. Raises UserError where it has not so much."""
    done = sum(path.stat().st_size for path in work.glob("*.safetensors"))
    each, caption = _bytes(encoders, params)
    needed = sum(
        len(task.pairs) * each(*task.size) + caption * sum(len(pair.captions) for pair in task.pairs) for task in tasks
    )
    free = shutil.disk_usage(work).free
    pairs, dimensions = sum(len(task.pairs) for task in tasks), len({task.size for task in tasks})
    print(
        f"encode: {pairs:,} pairs in {dimensions} size{'s' * (dimensions > 1)}: {needed / 1e9:,.3f} GB in {len(tasks)} "
        f"shards; {free / 1e9:,.1f} GB are free",
        flush=True,
    )
    places = [(work, needed - done)]
    beside = next(path for path in (out, *out.resolve().parents) if path.exists())
    if beside.stat().st_dev != work.stat().st_dev:  # where the shards will be copied, not linked
        places.append((beside, needed))
    for place, bytes_needed in places:
        if bytes_needed > (free := shutil.disk_usage(place).free):
            raise UserError(
                f"encode: {bytes_needed / 1e9:,.1f} GB are needed at {place.resolve()}, {free / 1e9:,.1f} GB are "
                "free; encode.storage fp16 halves it, encode.text tokens leaves the embeddings out, filter.samples "
                "takes fewer"
            )


def _bytes(encoders: Encoders, params: Encode) -> tuple[Callable[[int, int], int], int]:
    """What a picture of a size (width, height) takes in a shard, and what a caption does."""
    number, empty = STORED[params.storage].itemsize, encoders.empty()
    text = sum(value.numel() for value in empty.values()) * number
    if params.text == "tokens":
        text = sum(value.itemsize * value.shape[1] for value in encoders.tokens([""])[0].values())
    beside = 6 * 4 if "pooled" in empty else 0  # size conditioning
    channels = (4 if params.flip else 2) * encoders.vae.config.latent_channels  # mean and std

    def picture(width: int, height: int) -> int:
        return channels * (width // encoders.factor) * (height // encoders.factor) * number + beside

    return picture, text


def _encode(
    tasks: list[Task], encoders: Encoders, params: Encode, source: dict, work: Path, workers: int, clock: Timings
) -> None:
    """Make the shards of `tasks` that are not there yet, pictures read and cut ahead by threads."""
    waiting = [task for task in tasks if whole_shard(work, task.name) is None]
    pictures_of, swapped = open_source(source), []
    drawn_of = None if params.flip else _with_latents_of(pictures_of, encoders)

    def made(it: tuple[Task, Sample]) -> Found:
        task, pair = it
        try:
            with machine_faults(pair.key), ExitStack() as in_use:
                if drawn_of and (pair.width, pair.height) == task.size:
                    return _as_drawn(drawn_of, pair)
                with clock("decode"):
                    drawn = in_use.enter_context(_as_filtered(pictures_of, pair))
                with clock("resize"):
                    return fitted(drawn, *task.size)
        except RejectedImage as rejected:
            if rejected.cause == SWAPPED:
                swapped.append(pair.key)
            return rejected

    asked = ((task, pair) for task in waiting for pair in task.pairs)
    pictures = ahead(made, asked, workers, AHEAD * params.batch_size, named=lambda it: it[1].key)
    with tqdm(total=sum(len(task.pairs) for task in waiting), desc="encode", unit="pair", mininterval=1.0) as bar:
        for task in waiting:
            parts: list[Part] = []
            notes: Counter[str] = Counter()
            for batch in chunks(task.pairs, params.batch_size):
                with clock("waiting for pictures"):
                    found = [next(pictures) for _ in batch]
                parts += _tensors(batch, found, task, encoders, params, notes, clock)
                bar.update(len(batch))
            with clock("writing"):
                _written(task, parts, notes, work)
    if swapped:
        more = f" and {len(swapped) - 10} more" if len(swapped) > 10 else ""
        print(f"encode: left out, {SWAPPED}: {', '.join(swapped[:10])}{more}", file=sys.stderr)


@contextmanager
def _as_filtered(source: Source, pair: Sample) -> Iterator[Image.Image]:
    """The pair's picture, unpacked. Raises RejectedImage where it is not the one that the filter saw."""
    data = b"" if source.rendered else source.read(pair.key)
    with source.opened(pair.key) if source.rendered else unpacked(data) as picture:
        if picture.size != (pair.width, pair.height):
            raise RejectedImage("another size than when it was filtered")
        if data and hashlib.sha256(data).hexdigest() != pair.sum:
            raise RejectedImage(SWAPPED)
        yield picture


def _as_drawn(source: Generated, pair: Sample) -> Drawn:
    """The latents of the pair's picture. Raises RejectedImage where it is not the one that the filter saw."""
    if hashlib.sha256(source.read(pair.key)).hexdigest() != pair.sum:
        raise RejectedImage(SWAPPED)
    return Drawn(source.latents(pair.key))


def _with_latents_of(source: Source, encoders: Encoders) -> Generated | None:
    """The source, where its pictures were decoded from latents of the teacher's own VAE."""
    return source if isinstance(source, Generated) and source.latent_space == encoders.latent_space else None


def _same_scenes(source: dict) -> None:
    """Raises UserError where rendered scenes would not be those that the filter saw."""
    if "sha256" in source and sha256(Path(source["path"])) != source["sha256"]:
        raise UserError(f"{source['path']}: another vocabulary than the filter saw; run the filter stage again")


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


def _collected(tasks: list[Task], encoders: Encoders, params: Encode, work: Path, out: Path, small: int) -> dict:
    """Move the shards from `work` to `out`, the manifest last; return the counts."""
    shards: list[Shard] = []
    for task in tasks:
        shard = noted_shard(work, task.name)  # summed when it was made or taken up again
        if shard is None:
            raise UserError(f"encode: {task.name} in {work} is damaged; run the stage again")
        shards.append(shard)
    notes: Counter[str] = sum((Counter(shard.notes) for shard in shards), Counter())
    out.mkdir(parents=True, exist_ok=True)
    (out / MANIFEST).unlink(missing_ok=True)  # with others' shards beside it, it would not be true
    for shard in shards:
        for kind in (".safetensors", ".jsonl", ".json"):
            link_or_copy(work / f"{shard.name}{kind}", out / f"{shard.name}{kind}")
    empty = {name: value.to(STORED[params.storage]) for name, value in encoders.empty().items()}
    settings = {"scaling_factor": encoders.scaling_factor, "vae": encoders.latent_space}
    settings |= {"resolution": params.resolution, "text": params.text}
    write_manifest(out, shards, empty, **settings)
    atomic_write_text(work / DONE, "{}")
    return _counts(shards, notes, small, out)


def _counts(shards: list[Shard], notes: Counter, small: int, out: Path) -> dict:
    cut, as_drawn = notes.pop("captions_cut", 0), notes.pop("as_drawn", 0)
    by_size: Counter[str] = Counter()
    for shard in shards:
        by_size["{} x {}".format(*shard.size)] += shard.pairs
    total = sum(path.stat().st_size for path in out.iterdir())
    return {
        **{split: sum(shard.pairs for shard in shards if shard.split == split) for split in ("heldout", "train")},
        "captions_cut": cut,
        **({"as_drawn": as_drawn} if as_drawn else {}),
        "too_small": small,
        "unreadable": dict(notes),
        "sizes": dict(by_size),
        "megabytes": round(total / 1e6, 1),
    }


def multiple(teacher: Path) -> int:
    """What both sides of a picture must be a multiple of, for the teacher's VAE and its UNet after it."""
    return vae_factor(teacher) * halved(teacher)


def vae_factor(teacher: Path) -> int:
    """Pixels of a picture's side to one of its latents'."""
    config = json.loads((teacher / "vae" / "config.json").read_text(encoding="utf-8"))
    return 2 ** (len(config["block_out_channels"]) - 1)


def halved(teacher: Path) -> int:
    """How many times smaller the teacher's UNet makes its latents on the way down."""
    return 2 ** (len(json.loads((teacher / "unet" / "config.json").read_text())["down_block_types"]) - 1)


def split_off(pairs: list[Sample], heldout: int, seed: int) -> dict[str, list[Sample]]:
    """The `heldout` pairs whose hash with the seed is smallest, and the rest; both in the manifest's order.

    A pair is known by its picture's content and its caption, wherever it comes from.
    """
    said = [f"{seed} {pair.sum or pair.key} {' / '.join(pair.captions)}" for pair in pairs]
    lots = [hashlib.sha256(each.encode()).digest() for each in said]
    chosen = set(sorted(range(len(pairs)), key=lots.__getitem__)[:heldout])
    return {
        "heldout": [pair for i, pair in enumerate(pairs) if i in chosen],
        "train": [pair for i, pair in enumerate(pairs) if i not in chosen],
    }
