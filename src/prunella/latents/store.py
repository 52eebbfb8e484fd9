"""Shards of an encoding on a store: STORE/DIGEST/, where the digest stands for all that decides them.

So what was made of other parameters, teachers, pairs or code lies beside, and an older commit still finds its own
shards. A shard is written here, carried there with its note last, and removed here. What is noted there is whole: a
store has an object or has it not.
"""

import json
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from safetensors import safe_open

from prunella.compute.workdir import Identity
from prunella.files import atomic_write_text, json_digest
from prunella.latents.shards import KINDS, Shard, noted_shard, parsed
from prunella.places import Place, Remote, found_below, place, put, side_by_side, size_of


def home(store: str | None, known: Identity) -> Place | None:
    """Where the shards that `known` decides lie on a store; None where none is asked for."""
    return None if store is None else place(store) / json_digest(known)


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
    last = home / f"{name}{KINDS[2]}"
    if isinstance(last, Remote):
        last.write_text(note)
    else:
        atomic_write_text(last, note)
    for kind in reversed(KINDS):  # of half a shard nothing is thought
        (work / f"{name}{kind}").unlink()


class Porter:
    """Carries shards to their store beside the work, one at a time, while the next is made; without a store none."""

    def __init__(self, work: Path, home: Place | None):
        self.work, self.home = work, home
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="carrying")
        self.last: Future[None] | None = None

    def __enter__(self) -> "Porter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self.pool:  # which waits for the last
            pass
        if self.last and kind is None:
            self.last.result()

    def take(self, name: str) -> None:
        """A shard that is whole. Waits for the one before; raises UserError where that could not be carried."""
        if self.home is None:
            return
        if self.last:
            self.last.result()
        self.last = self.pool.submit(carried, self.work, self.home, name)
