"""Encode: pictures and captions of the manifest to shards of raw latents and text embeddings.

The assignment of pairs to shards, and which of them go through the VAE together, follows from the manifest, the seed
and the parameters alone; so a shard is the same whoever encodes it, and after an interruption the next one is begun.
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
from prunella.encoding.remote_shards import list_remote_shards
from prunella.encoding.shard_writer import STORAGE_DTYPES, EncodeTask, ShardEncoder, write_shards, write_shards_on_ray
from prunella.errors import UserError
from prunella.latents.encoders import Encoders
from prunella.latents.shards import (
    MANIFEST,
    Shard,
    link_shard,
    read_shard_note,
    write_manifest,
)
from prunella.params import Encode, Runtime
from prunella.storage.files import atomic_write_text, sha256
from prunella.storage.remote import PathOrRemote
from prunella.storage.upload import make_remote_prefix

MAX_LOCAL_SHARDS = 3  # shards that lie here at a time where they go to a store: made, waiting, carried
STARTED_GLOB = "*.safetensors"  # in the work folder of an encoding that has begun
CODE_DEPS = ("compute", "data", "encoding", "latents", "models", "scenes")  # decide the result
PARTS = ("vae", "vae_1_0", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")  # what decides the result


def encode_dataset(
    params: Encode,
    seed: int,
    teacher: Path,
    manifest: Path,
    out: Path,
    device: str,
    workers: int = 0,
    timings: Timings | None = None,
    cluster: Runtime | None = None,
) -> dict:
    """Encode the pairs of `manifest` with the encoders of `teacher` into `out`; return the counts.

    Among several processes, each makes its share of the shards, and the first returns. With `cluster`, the workers of
    the Ray cluster at $RAY_ADDRESS make them, each as `cluster` says. Raises UserError before any work where too few
    pairs are there, or too little room on the disk.
    """
    encoders = Encoders(teacher, device, params.precision)
    tasks, num_too_small, source, identity = plan_encode_job(params, seed, teacher, manifest)
    accelerator = get_accelerator(device)
    remote_prefix = make_remote_prefix(params.store, identity)
    with open_run_dir("encode", identity, is_main_process=rank() == 0, started_glob=STARTED_GLOB) as work_dir:
        accelerator.wait_for_everyone()  # the first may have waited for the folder
        work_dir.mkdir(parents=True, exist_ok=True)
        if rank() == 0:
            remove_finished_runs(
                "encode", retained_dir=work_dir
            )  # nothing goes on from finished shards, and they may be large
            check_disk_space(tasks, encoders, params, work_dir, out, remote_prefix)
        existing_names = (
            list_remote_shards(remote_prefix)
            if remote_prefix
            else {name for task in tasks if read_shard_note(work_dir, name := task.name)}
        )
        accelerator.wait_for_everyone()  # so that all see the same ones missing
        missing_tasks, existing_tasks = (
            [task for task in tasks if (task.name in existing_names) == kind] for kind in (False, True)
        )
        own_tasks = [
            *shard_for_rank(missing_tasks),
            *([] if remote_prefix else shard_for_rank(existing_tasks)),
        ]  # those that are there to be looked at, but on a store
        if cluster:
            make_shard_maker = partial(ShardEncoder, teacher, params, source, work_dir, cluster, remote_prefix)
            write_shards_on_ray(
                make_shard_maker,
                (missing_tasks if remote_prefix else tasks) if rank() == 0 else [],
                work_dir,
                cluster,
                remote_prefix,
            )
        else:
            write_shards(
                own_tasks,
                encoders,
                params,
                source,
                work_dir,
                count_threads(workers),
                timings or Timings(),
                remote_dir=remote_prefix,
            )
        accelerator.wait_for_everyone()
        return (
            _write_dataset(tasks, encoders, params, work_dir, out, num_too_small, remote_prefix) if rank() == 0 else {}
        )


class EncodeJob(NamedTuple):
    """The pairs to encode."""

    tasks: list[EncodeTask]
    num_too_small: int  # pairs that are left out since they would be enlarged too much
    source: dict
    identity: Identity


def plan_encode_job(params: Encode, seed: int, teacher: Path, manifest: Path) -> EncodeJob:
    """The shards of `manifest` for the encoders of `teacher`. Raises UserError where too few pairs are there."""
    source, pairs = read_sample_manifest(manifest)
    _check_same_scenes(source)
    tasks, num_too_small = plan_shards(
        pairs, params, seed, bucket_sizes(params.buckets, params.resolution, size_multiple(teacher))
    )
    result_params = params.model_dump(exclude={"store"}) | {"seed": seed}  # shards are the same wherever they lie
    inputs = [manifest, *(path for part in PARTS if (path := teacher / part).is_dir())]
    return EncodeJob(tasks, num_too_small, source, compute_identity(result_params, inputs, CODE_DEPS))


def plan_shards(
    pairs: list[Sample], params: Encode, seed: int, sizes: list[tuple[int, int]]
) -> tuple[list[EncodeTask], int]:
    """The shards to make, and how many pairs are left out since they would be enlarged too much."""
    bucket_numbers = assign_buckets(np.array([(pair.width, pair.height) for pair in pairs]), sizes, params.max_upscale)
    large_enough = [pair for pair, number in zip(pairs, bucket_numbers, strict=True) if number != NO_BUCKET]
    if len(large_enough) <= params.heldout:
        reason = (
            f", {len(pairs) - len(large_enough)} of them too small for encode.max_upscale"
            if len(large_enough) < len(pairs)
            else ""
        )
        raise UserError(
            f"encode.heldout: {params.heldout} pairs are to be held out, but only {len(pairs)} passed the "
            f"filter{reason}"
        )
    bucket_of_pair = {id(pair): number for pair, number in zip(pairs, bucket_numbers, strict=True)}
    tasks = []
    for split, split_pairs in split_heldout(large_enough, params.heldout, seed).items():
        number = 0
        for bucket, dimensions in enumerate(sizes):
            same_size_pairs = [pair for pair in split_pairs if bucket_of_pair[id(pair)] == bucket]
            for shard_pairs in batched(same_size_pairs, params.shard_size):
                tasks.append(EncodeTask(split, number, dimensions, shard_pairs))
                number += 1
    return tasks, len(pairs) - len(large_enough)


def check_disk_space(
    tasks: list[EncodeTask],
    encoders: Encoders,
    params: Encode,
    work: Path,
    out: Path,
    remote_prefix: PathOrRemote | None = None,
) -> None:
    """Say what the shards will take, here or on a store `remote_prefix`. Raises UserError where the disk has not so
    much."""
    bytes_of_image, bytes_of_caption = _estimate_bytes(encoders, params)
    sizes = [
        len(task.pairs) * bytes_of_image(*task.size) + bytes_of_caption * sum(len(pair.captions) for pair in task.pairs)
        for task in tasks
    ]
    needed_bytes, free_bytes = sum(sizes), shutil.disk_usage(work).free
    pairs, dimensions = sum(len(task.pairs) for task in tasks), len({task.size for task in tasks})
    print(
        f"encode: {pairs:,} pairs in {dimensions} size{'s' * (dimensions > 1)}: {needed_bytes / 1e9:,.3f} GB in "
        f"{len(tasks)} "
        + (f"shards, which go to {remote_prefix}" if remote_prefix else f"shards; {free_bytes / 1e9:,.1f} GB are free"),
        flush=True,
    )
    if remote_prefix:
        needed_by_dir = [(work, sum(sorted(sizes)[-MAX_LOCAL_SHARDS:]))]
    else:
        needed_by_dir = [(work, needed_bytes - sum(path.stat().st_size for path in work.glob("*.safetensors")))]
        source_bytes = next(path for path in (out, *out.resolve().parents) if path.exists())
        if source_bytes.stat().st_dev != work.stat().st_dev:  # where the shards will be copied, not linked
            needed_by_dir.append((source_bytes, needed_bytes))
    for dir_path, bytes_needed in needed_by_dir:
        if bytes_needed > (free_bytes := shutil.disk_usage(dir_path).free):
            raise UserError(
                f"encode: {bytes_needed / 1e9:,.1f} GB are needed at {dir_path.resolve()}, "
                f"{free_bytes / 1e9:,.1f} GB are "
                "free; encode.storage fp16 halves it, encode.text tokens leaves the embeddings out, filter.samples "
                "takes fewer"
            )


def _estimate_bytes(encoders: Encoders, params: Encode) -> tuple[Callable[[int, int], int], int]:
    """Bytes of a picture of a size (width, height) in a shard, and what a caption does."""
    number, empty = STORAGE_DTYPES[params.storage].itemsize, encoders.encode_empty()
    text = sum(value.numel() for value in empty.values()) * number
    if params.text == "tokens":
        text = sum(value.itemsize * value.shape[1] for value in encoders.tokenize([""])[0].values())
    mirrored_factor = 6 * 4 if "pooled" in empty else 0  # size conditioning
    channels = (4 if params.flip else 2) * encoders.vae.config.latent_channels  # mean and std

    def image_bytes(width: int, height: int) -> int:
        return (
            channels * (width // encoders.vae_scale_factor) * (height // encoders.vae_scale_factor) * number
            + mirrored_factor
        )

    return image_bytes, text


def _check_same_scenes(source: dict) -> None:
    """Raises UserError where rendered scenes would not be those that the filter saw."""
    if "sha256" in source and sha256(Path(source["path"])) != source["sha256"]:
        raise UserError(f"{source['path']}: another vocabulary than the filter saw; run the filter stage again")


def _write_dataset(
    tasks: list[EncodeTask],
    encoders: Encoders,
    params: Encode,
    work: Path,
    out: Path,
    num_too_small: int,
    remote_prefix: PathOrRemote | None,
) -> dict:
    """Move the shards from `work_dir` to `out`, but those on a store, the manifest last; return the counts."""
    shards: list[Shard] = []
    local_names = list_remote_shards(remote_prefix) if remote_prefix else {}
    for task in tasks:
        shard = (
            local_names.get(task.name) if remote_prefix else read_shard_note(work, task.name)
        )  # summed when made or taken up again
        if shard is None:
            raise UserError(f"encode: {task.name} in {remote_prefix or work} is damaged; run the stage again")
        shards.append(shard)
    notes: Counter[str] = sum((Counter(shard.notes) for shard in shards), Counter())
    out.mkdir(parents=True, exist_ok=True)
    (out / MANIFEST).unlink(missing_ok=True)  # with others' shards beside it, it would not be true
    for shard in () if remote_prefix else shards:
        link_shard(work, out, shard.name)
    empty = {name: value.to(STORAGE_DTYPES[params.storage]) for name, value in encoders.encode_empty().items()}
    settings = {"scaling_factor": encoders.scaling_factor, "vae": encoders.latent_space}
    settings |= {"resolution": params.resolution, "text": params.text} | (
        {"store": str(remote_prefix)} if remote_prefix else {}
    )
    write_manifest(out, shards, empty, **settings)
    atomic_write_text(work / DONE_FILE, "{}")
    extra_files = sum(shard.bytes for shard in shards) if remote_prefix else 0
    return _count_pairs(shards, notes, num_too_small, extra_files + sum(path.stat().st_size for path in out.iterdir()))


def _count_pairs(shards: list[Shard], notes: Counter, num_too_small: int, total: int) -> dict:
    cut, num_reused_latents = notes.pop("captions_cut", 0), notes.pop("as_drawn", 0)
    by_size: Counter[str] = Counter()
    for shard in shards:
        by_size["{} x {}".format(*shard.size)] += shard.pairs
    return {
        **{split: sum(shard.pairs for shard in shards if shard.split == split) for split in ("heldout", "train")},
        "captions_cut": cut,
        **({"as_drawn": num_reused_latents} if num_reused_latents else {}),
        "too_small": num_too_small,
        "unreadable": dict(notes),
        "sizes": dict(by_size),
        "megabytes": round(total / 1e6, 1),
    }


def size_multiple(teacher: Path) -> int:
    """The number that both sides of a picture must be a multiple of, for the teacher's VAE and its UNet after it."""
    return vae_scale_factor(teacher) * unet_downscale(teacher)


def vae_scale_factor(teacher: Path) -> int:
    """Pixels of a picture's side to one of its latents'."""
    config = json.loads((teacher / "vae" / "config.json").read_text(encoding="utf-8"))
    return 2 ** (len(config["block_out_channels"]) - 1)


def unet_downscale(teacher: Path) -> int:
    """How many times smaller the teacher's UNet makes its latents on the way down."""
    return 2 ** (len(json.loads((teacher / "unet" / "config.json").read_text())["down_block_types"]) - 1)


def split_heldout(pairs: list[Sample], heldout: int, seed: int) -> dict[str, list[Sample]]:
    """The `heldout` pairs whose hash with the seed is smallest, and the rest; both in the manifest's order.

    A pair is known by its picture's content and its caption, wherever it comes from.
    """
    pairs_by_text = [f"{seed} {pair.sum or pair.key} {' / '.join(pair.captions)}" for pair in pairs]
    random_order = [hashlib.sha256(each.encode()).digest() for each in pairs_by_text]
    heldout_ids = set(sorted(range(len(pairs)), key=random_order.__getitem__)[:heldout])
    return {
        "heldout": [pair for i, pair in enumerate(pairs) if i in heldout_ids],
        "train": [pair for i, pair in enumerate(pairs) if i not in heldout_ids],
    }
