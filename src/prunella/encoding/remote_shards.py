"""Shards of an encoding on a store, at `prunella.storage.upload.make_remote_prefix`.

A shard is written here, carried there with its note last, and removed here. What is noted there is whole: a store has
an object or has it not.
"""

import json
from pathlib import Path

from safetensors import safe_open

from prunella.latents.shards import KINDS, Shard, noted_shard, parsed
from prunella.storage.remote import PathOrRemote, file_size, map_concurrently, rglob_sorted, upload_file, upload_text


def stored(home: PathOrRemote) -> dict[str, Shard]:
    """The shards that lie there in full length, by name."""
    listed = {path.name: path for path in rglob_sorted(home, "*")}
    notes = [path for path in listed.values() if path.suffix == ".json"]
    found = {}
    for shard in filter(None, map_concurrently(noted, notes)):
        file, lines = (listed.get(f"{shard.name}{kind}") for kind in KINDS[:2])
        if file and lines and file_size(file) == shard.bytes:
            found[shard.name] = shard
    return found


def noted(note: PathOrRemote) -> Shard | None:
    """What a note on a store says; None where there is none that says anything."""
    try:
        return parsed(json.loads(note.read_bytes()))
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None


def carried(work: Path, home: PathOrRemote, name: str) -> None:
    """A shard that is whole in `work` from there to its store."""
    shard = noted_shard(work, name)
    assert shard
    with safe_open(work / f"{name}.safetensors", "pt") as file:
        note = json.dumps(shard._replace(tensors=tuple(file.keys())).noted()) + "\n"
    for kind in KINDS[:2]:
        upload_file(work / f"{name}{kind}", home / f"{name}{kind}")
    upload_text(note, home / f"{name}{KINDS[2]}")
    for kind in reversed(KINDS):  # of half a shard nothing is thought
        (work / f"{name}{kind}").unlink()
