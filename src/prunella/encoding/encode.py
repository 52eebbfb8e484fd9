"""Encode: pictures and captions of the manifest to shards of raw latents and text embeddings.

Which pairs make which shard, and which of them go through the VAE together, follows from the manifest, the seed and the
parameters alone; so a shard is the same whoever encodes it, and after an interruption the next one is begun.
"""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from prunella.compute.distributed import get_accelerator, shard_for_rank
from prunella.compute.launch import rank
from prunella.compute.resume import DONE_FILE, Identity, compute_identity, open_run_dir, remove_finished_runs
from prunella.compute.timing import Timings
from prunella.data.buckets import NO_BUCKET, assign_buckets, bucket_sizes
from prunella.data.manifest import Sample, batched, read_sample_manifest
from prunella.data.prefetch import count_threads
from prunella.encoding.remote_shards import stored
from prunella.encoding.shard_writer import STORED, ShardMaker, Task, made_by_cluster, make_shards
from prunella.errors import UserError
from prunella.latents.encoders import Encoders
from prunella.latents.shards import (
    MANIFEST,
    Shard,
    adopt_shard,
    noted_shard,
    write_manifest,
)
from prunella.params import Encode, Runtime
from prunella.storage.files import atomic_write_text, sha256
from prunella.storage.remote import PathOrRemote
from prunella.storage.upload import make_remote_prefix

CARRIED = 3  # shards that lie here at a time where they go to a store: made, waiting, carried
BEGUN = "*.safetensors"  # in the work folder of an encoding that has begun
CODE_DEPS = ("compute", "data", "encoding", "latents", "models", "scenes")  # decide the result
PARTS = ("vae", "vae_1_0", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")  # what decides the result


def encoded(
    params: Encode,
    seed: int,
    teacher: Path,
    manifest: Path,
    out: Path,
    device: str,
    workers: int = 0,
    clock: Timings | None = None,
    cluster: Runtime | None = None,
) -> dict:
    """Encode the pairs of `manifest` with the encoders of `teacher` into `out`; return the counts.

    Of several processes each makes its share of the shards, and the first returns. With `cluster`, the workers of the
    Ray cluster at $RAY_ADDRESS make them, each as `cluster` says. Raises UserError before any work
    where too few pairs are there, or too little room on the disk.
    """
    encoders = Encoders(teacher, device, params.precision)
    tasks, small, source, known = asked(params, seed, teacher, manifest)
    everyone = get_accelerator(device)
    at = make_remote_prefix(params.store, known)
    with open_run_dir("encode", known, is_main_process=rank() == 0, started_glob=BEGUN) as work:
        everyone.wait_for_everyone()  # the first may have waited for the folder
        work.mkdir(parents=True, exist_ok=True)
        if rank() == 0:
            remove_finished_runs(
                "encode", retained_dir=work
            )  # nothing goes on from finished shards, and they may be large
            check_room(tasks, encoders, params, work, out, at)
        there = stored(at) if at else {name for task in tasks if noted_shard(work, name := task.name)}
        everyone.wait_for_everyone()  # so that all see the same ones missing
        missing, made = ([task for task in tasks if (task.name in there) == kind] for kind in (False, True))
        ours = [
            *shard_for_rank(missing),
            *([] if at else shard_for_rank(made)),
        ]  # those that are there to be looked at, but on a store
        if cluster:
            begin = partial(ShardMaker, teacher, params, source, work, cluster, at)
            made_by_cluster(begin, (missing if at else tasks) if rank() == 0 else [], work, cluster, at)
        else:
            make_shards(ours, encoders, params, source, work, count_threads(workers), clock or Timings(), home=at)
        everyone.wait_for_everyone()
        return _collected(tasks, encoders, params, work, out, small, at) if rank() == 0 else {}


class Asked(NamedTuple):
    """What is to be encoded."""

    tasks: list[Task]
    small: int  # pairs that are left out since they would be enlarged too much
    source: dict
    known: Identity


def asked(params: Encode, seed: int, teacher: Path, manifest: Path) -> Asked:
    """The shards of `manifest` for the encoders of `teacher`. Raises UserError where too few pairs are there."""
    source, pairs = read_sample_manifest(manifest)
    _same_scenes(source)
    tasks, small = planned(pairs, params, seed, bucket_sizes(params.buckets, params.resolution, multiple(teacher)))
    decided = params.model_dump(exclude={"store"}) | {"seed": seed}  # shards are the same wherever they lie
    inputs = [manifest, *(path for part in PARTS if (path := teacher / part).is_dir())]
    return Asked(tasks, small, source, compute_identity(decided, inputs, CODE_DEPS))


def planned(pairs: list[Sample], params: Encode, seed: int, among: list[tuple[int, int]]) -> tuple[list[Task], int]:
    """The shards to make, and how many pairs are left out since they would be enlarged too much."""
    place = assign_buckets(np.array([(pair.width, pair.height) for pair in pairs]), among, params.max_upscale)
    large = [pair for pair, number in zip(pairs, place, strict=True) if number != NO_BUCKET]
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
            for some in batched(alike, params.shard_size):
                tasks.append(Task(split, number, dimensions, some))
                number += 1
    return tasks, len(pairs) - len(large)


def check_room(
    tasks: list[Task], encoders: Encoders, params: Encode, work: Path, out: Path, at: PathOrRemote | None = None
) -> None:
    """Say what the shards will take, here or on a store `at`. Raises UserError where the disk has not so much."""
    each, caption = _bytes(encoders, params)
    sizes = [
        len(task.pairs) * each(*task.size) + caption * sum(len(pair.captions) for pair in task.pairs) for task in tasks
    ]
    needed, free = sum(sizes), shutil.disk_usage(work).free
    pairs, dimensions = sum(len(task.pairs) for task in tasks), len({task.size for task in tasks})
    print(
        f"encode: {pairs:,} pairs in {dimensions} size{'s' * (dimensions > 1)}: {needed / 1e9:,.3f} GB in {len(tasks)} "
        + (f"shards, which go to {at}" if at else f"shards; {free / 1e9:,.1f} GB are free"),
        flush=True,
    )
    if at:
        places = [(work, sum(sorted(sizes)[-CARRIED:]))]
    else:
        places = [(work, needed - sum(path.stat().st_size for path in work.glob("*.safetensors")))]
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


def _same_scenes(source: dict) -> None:
    """Raises UserError where rendered scenes would not be those that the filter saw."""
    if "sha256" in source and sha256(Path(source["path"])) != source["sha256"]:
        raise UserError(f"{source['path']}: another vocabulary than the filter saw; run the filter stage again")


def _collected(
    tasks: list[Task], encoders: Encoders, params: Encode, work: Path, out: Path, small: int, at: PathOrRemote | None
) -> dict:
    """Move the shards from `work` to `out`, but those on a store, the manifest last; return the counts."""
    shards: list[Shard] = []
    there = stored(at) if at else {}
    for task in tasks:
        shard = there.get(task.name) if at else noted_shard(work, task.name)  # summed when made or taken up again
        if shard is None:
            raise UserError(f"encode: {task.name} in {at or work} is damaged; run the stage again")
        shards.append(shard)
    notes: Counter[str] = sum((Counter(shard.notes) for shard in shards), Counter())
    out.mkdir(parents=True, exist_ok=True)
    (out / MANIFEST).unlink(missing_ok=True)  # with others' shards beside it, it would not be true
    for shard in () if at else shards:
        adopt_shard(work, out, shard.name)
    empty = {name: value.to(STORED[params.storage]) for name, value in encoders.empty().items()}
    settings = {"scaling_factor": encoders.scaling_factor, "vae": encoders.latent_space}
    settings |= {"resolution": params.resolution, "text": params.text} | ({"store": str(at)} if at else {})
    write_manifest(out, shards, empty, **settings)
    atomic_write_text(work / DONE_FILE, "{}")
    beside = sum(shard.bytes for shard in shards) if at else 0
    return _counts(shards, notes, small, beside + sum(path.stat().st_size for path in out.iterdir()))


def _counts(shards: list[Shard], notes: Counter, small: int, total: int) -> dict:
    cut, as_drawn = notes.pop("captions_cut", 0), notes.pop("as_drawn", 0)
    by_size: Counter[str] = Counter()
    for shard in shards:
        by_size["{} x {}".format(*shard.size)] += shard.pairs
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
