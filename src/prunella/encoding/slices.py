"""Encode in parts: jobs that make some of the shards each, in any order and place, and what they made put together.

Parts are put together in the work folder of the encode stage, which then has every shard already and only lists them.
"""

from pathlib import Path

from prunella.compute.resume import open_run_dir
from prunella.compute.slices import Slice, SliceKind, merge_slices, open_slice, shorten_names, validate_slice
from prunella.compute.timing import Timings
from prunella.data.prefetch import count_threads
from prunella.encoding.encode import BEGUN, asked, check_room
from prunella.encoding.remote_shards import stored
from prunella.encoding.shard_writer import Task, make_shards
from prunella.errors import UserError
from prunella.latents.encoders import Encoders
from prunella.latents.shards import adopt_shard, whole_shard
from prunella.params import Encode
from prunella.storage.remote import PathOrRemote
from prunella.storage.upload import make_remote_prefix

KIND = SliceKind("encode", "an encoding", "shards", "teacher or pairs")


def encode_part(
    params: Encode, seed: int, teacher: Path, manifest: Path, out: Path, device: str, which: Slice, workers: int = 0
) -> tuple[list[Task], PathOrRemote]:
    """Make the part `which` of the shards in the folder `out`; what is whole there already is not made again.

    Returns its tasks and where their shards lie: with `encode.store` there, and `out` is for what is under way. Raises
    UserError where `out` holds another part, or one of other parameters, teacher, pairs or code.
    """
    tasks, _, source, known = asked(params, seed, teacher, manifest)
    open_slice(out, which, known, KIND)
    ours, encoders = which.select(tasks), Encoders(teacher, device, params.precision)
    at = make_remote_prefix(params.store, known)
    check_room(ours, encoders, params, out, out, at)
    there = stored(at) if at else {}
    waiting = [task for task in ours if task.name not in there]
    make_shards(waiting, encoders, params, source, out, count_threads(workers), Timings(), home=at)
    return ours, at or out


def merge_parts(params: Encode, seed: int, teacher: Path, manifest: Path, parts: list[Path]) -> int:
    """Give the encode stage the shards of all `parts`; how many there are. With `encode.store` all must lie there.

    Raises UserError where one is missing or damaged, naming the parts that are to be made, and where a part is of
    other parameters, teacher, pairs or code; nothing is given then.
    """
    tasks, _, _, known = asked(params, seed, teacher, manifest)
    if at := make_remote_prefix(params.store, known):
        _all_stored(tasks, at)
        return len(tasks)
    counts = {validate_slice(part, known, KIND).total for part in parts}
    with open_run_dir("encode", known, started_glob=BEGUN) as work:
        merge_slices(tasks, work, parts, counts, KIND, is_complete=_whole, link_result=_adopt)
    return len(tasks)


def _whole(folder: Path, task: Task) -> bool:
    return whole_shard(folder, task.name) is not None


def _adopt(origin: Path, work: Path, task: Task) -> None:
    adopt_shard(origin, work, task.name)


def _all_stored(tasks: list[Task], at: PathOrRemote) -> None:
    """Raises UserError where a shard is missing on the store."""
    there = stored(at)
    if absent := [task.name for task in tasks if task.name not in there]:
        raise UserError(
            f"encode --merge: {len(absent)} of {len(tasks)} shards are missing in {at} ({shorten_names(absent)}); the "
            "same "
            "--shards K/N as before, or the encode stage, makes those that are missing alone"
        )
