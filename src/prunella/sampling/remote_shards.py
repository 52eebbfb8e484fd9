"""Shards of images on a store, as `prunella.encoding.remote_shards` has those of encodings.

A shard is drawn here, carried there with its note last, and removed here.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prunella.errors import UserError
from prunella.sampling.image_shards import ShardNote, format_shard_name, make_manifest_entries
from prunella.storage.remote import PathOrRemote, map_concurrently, rglob_sorted, upload_file

FILE_SUFFIXES = ("", ".json")  # what is added to a shard's name: nothing, and its note


def list_remote_image_shards(remote_prefix: PathOrRemote) -> dict[str, ShardNote]:
    """Notes of the shards that are there, by name."""
    remote_files = {path.name: path for path in rglob_sorted(remote_prefix, "*.tar*")}
    note_paths = [path for name, path in remote_files.items() if path.suffix == ".json" and path.stem in remote_files]
    notes = zip(note_paths, map_concurrently(read_remote_shard_note, note_paths), strict=True)
    return {path.stem: note for path, note in notes if note}


def read_remote_shard_note(path: PathOrRemote) -> ShardNote | None:
    """The content of a note on a store; None where there is none that says anything."""
    try:
        return ShardNote(**json.loads(path.read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def upload_image_shard(work_dir: Path, remote_prefix: PathOrRemote, name: str) -> None:
    """A shard that is whole in `work_dir` from there to its store."""
    for suffix in FILE_SUFFIXES:
        upload_file(work_dir / f"{name}{suffix}", remote_prefix / f"{name}{suffix}")
    for suffix in reversed(FILE_SUFFIXES):
        (work_dir / f"{name}{suffix}").unlink()


def collect_remote_shards(
    tasks: Sequence[Sequence[Sequence[Any]]], remote_prefix: PathOrRemote, out: Path
) -> tuple[list[dict[str, Any]], float | None]:
    """Like `collect_shards`, of shards on a store, of which nothing comes into the empty folder `out`."""
    notes, names = list_remote_image_shards(remote_prefix), [format_shard_name(number) for number in range(len(tasks))]
    if missing := [name for name in names if name not in notes]:
        raise UserError(f"generate: {missing[0]} is not in {remote_prefix}; run the stage again to draw it")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    return make_manifest_entries(tasks, [notes[name] for name in names])
