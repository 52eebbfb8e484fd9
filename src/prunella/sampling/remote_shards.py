"""Shards of images on a store, as `prunella.encoding.remote_shards` has those of encodings.

A shard is drawn here, carried there with its note last, and removed here.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prunella.errors import UserError
from prunella.sampling.image_shards import Note, listed, shard_name
from prunella.storage.remote import Place, found_below, put, side_by_side

KINDS = ("", ".json")  # what is added to a shard's name: nothing, and its note


def stored(home: Place) -> dict[str, Note]:
    """What is noted of the shards that are there, by name."""
    there = {path.name: path for path in found_below(home, "*.tar*")}
    notes = [path for name, path in there.items() if path.suffix == ".json" and path.stem in there]
    read = zip(notes, side_by_side(noted, notes), strict=True)
    return {path.stem: note for path, note in read if note}


def noted(note: Place) -> Note | None:
    """What a note on a store says; None where there is none that says anything."""
    try:
        return Note(**json.loads(note.read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def carried(work: Path, home: Place, name: str) -> None:
    """A shard that is whole in `work` from there to its store."""
    for kind in KINDS:
        put(work / f"{name}{kind}", home / f"{name}{kind}")
    for kind in reversed(KINDS):
        (work / f"{name}{kind}").unlink()


def collect_stored(
    tasks: Sequence[Sequence[Sequence[Any]]], home: Place, out: Path
) -> tuple[list[dict[str, Any]], float | None]:
    """As `collect_shards`, of shards on a store, of which nothing comes into the empty folder `out`."""
    notes, names = stored(home), [shard_name(number) for number in range(len(tasks))]
    if missing := [name for name in names if name not in notes]:
        raise UserError(f"generate: {missing[0]} is not in {home}; run the stage again to draw it")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    return listed(tasks, [notes[name] for name in names])
