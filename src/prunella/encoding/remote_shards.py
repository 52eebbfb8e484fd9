"""Shards of an encoding on a store, at `prunella.storage.upload.make_remote_prefix`.

A shard is written here, carried there with its note last, and removed here. A shard with a note there is whole: a store
has an object or has it not.
"""

import json
from pathlib import Path

from safetensors import safe_open

from prunella.latents.shards import KINDS, Shard, parse_note, read_shard_note
from prunella.storage.remote import PathOrRemote, file_size, map_concurrently, rglob_sorted, upload_file, upload_text


def list_remote_shards(remote_dir: PathOrRemote) -> dict[str, Shard]:
    """The shards that lie there in full length, by name."""
    names = {path.name: path for path in rglob_sorted(remote_dir, "*")}
    notes = [path for path in names.values() if path.suffix == ".json"]
    found = {}
    for shard in filter(None, map_concurrently(read_remote_note, notes)):
        file, lines = (names.get(f"{shard.name}{kind}") for kind in KINDS[:2])
        if file and lines and file_size(file) == shard.bytes:
            found[shard.name] = shard
    return found


def read_remote_note(note: PathOrRemote) -> Shard | None:
    """The content of a note on a store; None where there is none that says anything."""
    try:
        return parse_note(json.loads(note.read_bytes()))
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None


def upload_shard(work: Path, remote_dir: PathOrRemote, name: str) -> None:
    """A shard that is whole in `work` from there to its store."""
    shard = read_shard_note(work, name)
    assert shard
    with safe_open(work / f"{name}.safetensors", "pt") as file:
        note = json.dumps(shard._replace(tensors=tuple(file.keys())).to_note()) + "\n"
    for kind in KINDS[:2]:
        upload_file(work / f"{name}{kind}", remote_dir / f"{name}{kind}")
    upload_text(note, remote_dir / f"{name}{KINDS[2]}")
    for kind in reversed(KINDS):  # of half a shard nothing is thought
        (work / f"{name}{kind}").unlink()
