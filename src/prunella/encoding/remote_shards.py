"""Shards of an encoding on a store, at `prunella.storage.upload.home`.

A shard is written here, carried there with its note last, and removed here. What is noted there is whole: a store has
an object or has it not.
"""

import json
from pathlib import Path

from safetensors import safe_open

from prunella.latents.shards import KINDS, Shard, noted_shard, parsed
from prunella.storage.remote import Place, found_below, put, put_text, side_by_side, size_of


def stored(home: Place) -> dict[str, Shard]:
    """The shards that lie there in full length, by name."""
    listed = {path.name: path for path in found_below(home, "*")}
    notes = [path for path in listed.values() if path.suffix == ".json"]
    found = {}
    for shard in filter(None, side_by_side(noted, notes)):
        file, lines = (listed.get(f"{shard.name}{kind}") for kind in KINDS[:2])
        if file and lines and size_of(file) == shard.bytes:
            found[shard.name] = shard
    return found


def noted(note: Place) -> Shard | None:
    """What a note on a store says; None where there is none that says anything."""
    try:
        return parsed(json.loads(note.read_bytes()))
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None


def carried(work: Path, home: Place, name: str) -> None:
    """A shard that is whole in `work` from there to its store."""
    shard = noted_shard(work, name)
    assert shard
    with safe_open(work / f"{name}.safetensors", "pt") as file:
        note = json.dumps(shard._replace(tensors=tuple(file.keys())).noted()) + "\n"
    for kind in KINDS[:2]:
        put(work / f"{name}{kind}", home / f"{name}{kind}")
    put_text(note, home / f"{name}{KINDS[2]}")
    for kind in reversed(KINDS):  # of half a shard nothing is thought
        (work / f"{name}{kind}").unlink()
