"""Encode in parts: jobs that make some of the shards each, in any order and place, and what they made put together.

Parts are put together in the work folder of the encode stage, which then has every shard already and only lists them.
"""

from pathlib import Path

from prunella.compute.resume import open_run_dir
from prunella.compute.slices import Slice, SliceKind, merge_slices, open_slice, shorten_names, validate_slice
from prunella.compute.timing import Timings
from prunella.data.prefetch import count_threads
from prunella.encoding.encode import STARTED_GLOB, check_disk_space, plan_encode_job
from prunella.encoding.remote_shards import list_remote_shards
from prunella.encoding.shard_writer import EncodeTask, write_shards
from prunella.errors import UserError
from prunella.latents.encoders import Encoders
from prunella.latents.shards import link_shard, verify_shard
from prunella.params import Encode
from prunella.storage.remote import PathOrRemote
from prunella.storage.upload import make_remote_prefix

KIND = SliceKind("encode", "an encoding", "shards", "teacher or pairs")


def encode_slice(
    params: Encode,
    seed: int,
    teacher: Path,
    manifest: Path,
    out: Path,
    device: str,
    slice_spec: Slice,
    workers: int = 0,
) -> tuple[list[EncodeTask], PathOrRemote]:
    """Make the part `slice_spec` of the shards in the folder `out`; what is whole there already is not made again.

    Returns its tasks and where their shards lie: with `encode.store` there, and `out` is for what is under way. Raises
    UserError where `out` holds another part, or one of other parameters, teacher, pairs or code.
    """
    tasks, _, source, identity = plan_encode_job(params, seed, teacher, manifest)
    open_slice(out, slice_spec, identity, KIND)
    own_tasks, encoders = slice_spec.select(tasks), Encoders(teacher, device, params.precision)
    remote_prefix = make_remote_prefix(params.store, identity)
    check_disk_space(own_tasks, encoders, params, out, out, remote_prefix)
    existing_names = list_remote_shards(remote_prefix) if remote_prefix else {}
    missing_tasks = [task for task in own_tasks if task.name not in existing_names]
    write_shards(
        missing_tasks, encoders, params, source, out, count_threads(workers), Timings(), remote_dir=remote_prefix
    )
    return own_tasks, remote_prefix or out


def merge_encode_slices(params: Encode, seed: int, teacher: Path, manifest: Path, parts: list[Path]) -> int:
    """Give the encode stage the shards of all `parts`; how many there are. With `encode.store` all must lie there.

    Raises UserError where one is missing or damaged, naming the parts that are to be made, and where a part is of
    other parameters, teacher, pairs or code; nothing is given then.
    """
    tasks, _, _, identity = plan_encode_job(params, seed, teacher, manifest)
    if remote_prefix := make_remote_prefix(params.store, identity):
        _check_all_stored(tasks, remote_prefix)
        return len(tasks)
    counts = {validate_slice(part, identity, KIND).total for part in parts}
    with open_run_dir("encode", identity, started_glob=STARTED_GLOB) as work:
        merge_slices(tasks, work, parts, counts, KIND, is_complete=_has_whole_shard, link_result=_link_task)
    return len(tasks)


def _has_whole_shard(folder: Path, task: EncodeTask) -> bool:
    return verify_shard(folder, task.name) is not None


def _link_task(origin: Path, work: Path, task: EncodeTask) -> None:
    link_shard(origin, work, task.name)


def _check_all_stored(tasks: list[EncodeTask], remote_prefix: PathOrRemote) -> None:
    """Raises UserError where a shard is missing on the store."""
    existing_names = list_remote_shards(remote_prefix)
    if missing_names := [task.name for task in tasks if task.name not in existing_names]:
        raise UserError(
            f"encode --merge: {len(missing_names)} of {len(tasks)} shards are missing in {remote_prefix} "
            f"({shorten_names(missing_names)}); the "
            "same "
            "--slice K/N as before, or the encode stage, makes those that are missing alone"
        )
