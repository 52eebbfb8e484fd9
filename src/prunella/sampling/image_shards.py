"""Shards that are made restartably: tars of named members, filled a batch of items at a time.

While a shard is made, each batch is a file of its own in the work folder, counted only when its note with its sum is
there; a full shard's batches become the shard. So whoever is killed loses a batch, and half of one is never counted.
"""

import io
import json
import shutil
import tarfile
import time
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from tqdm import tqdm

from prunella.errors import UserError
from prunella.storage.files import atomic_write_text, link_or_copy, sha256

SHARD = 512  # pictures in a shard, about
Member = tuple[str, bytes]  # name and content of a file in a tar


class Item(Protocol):
    """What a picture is made of; pictures of one batch are of one size."""

    @property
    def width(self) -> int: ...  # pixels

    @property
    def height(self) -> int: ...


Some = TypeVar("Some", bound=Item)


class Note(NamedTuple):
    """What is noted of a whole file of pictures; `seconds` are those that each of its batches took to make."""

    pictures: int
    sha256: str
    seconds: list[float]


def batches(items: Sequence[Some], batch_size: int) -> list[list[Some]]:
    """Items in batches of one size each: sizes in the order of their first item, items in their own."""
    by_size: dict[tuple[int, int], list[Some]] = {}
    for item in items:
        by_size.setdefault((item.width, item.height), []).append(item)
    return [alike[i : i + batch_size] for alike in by_size.values() for i in range(0, len(alike), batch_size)]


def shards(items: Sequence[Some], batch_size: int) -> list[list[list[Some]]]:
    """The batches of each shard."""
    every, together = batches(items, batch_size), max(1, SHARD // batch_size)
    return [every[i : i + together] for i in range(0, len(every), together)]


def fill_shards(
    tasks: list[list[list[Some]]],
    make: Callable[[list[Some]], Iterable[Member]],
    work: Path,
    title: str,
    rank: int = 0,
    size: int = 1,
    there: Container[str] = (),
    take: Callable[[str], object] = lambda _: None,
) -> None:
    """Make the shards that are not whole in `work`, every `size`-th from `rank` on; whole batches are not made again.

    `make` gives the members of a batch. Shards whose names are `there` need not be made; the others' names are given to
    `take` when they are whole.
    """
    work.mkdir(parents=True, exist_ok=True)
    ours = list(enumerate(tasks))[rank::size]
    with tqdm(total=sum(len(batch) for _, task in ours for batch in task), desc=title, unit="picture") as bar:
        for number, task in ours:
            if shard_name(number) in there or whole_shard(work, number):
                bar.update(sum(map(len, task)))
            else:
                fill_shard(work, number, task, make, bar.update)
            if shard_name(number) not in there:
                take(shard_name(number))


def fill_shard(
    work: Path,
    number: int,
    task: list[list[Some]],
    make: Callable[[list[Some]], Iterable[Member]],
    done: Callable[[int], object] = lambda _: None,
) -> None:
    """Make the shard `number`; `done` is told how many pictures each of its batches has."""
    parts = [work / f"{number:05d}-{i:04d}.part" for i in range(len(task))]
    for part, batch in zip(parts, task, strict=True):
        if not _whole(part):
            _fill_part(part, batch, make)
        done(len(batch))
    seconds = [taken for part in parts for taken in _note(part).seconds]
    _write(work / shard_name(number), (member for part in parts for member in members(part)), seconds)
    for part in parts:
        part.unlink()
        _note_path(part).unlink()


def shard_name(number: int) -> str:
    """What the file of a shard is called."""
    return f"{number:05d}.tar"


def whole_shard(work: Path, number: int) -> bool:
    """Whether the shard is in `work` as its note says."""
    return _whole(work / shard_name(number))


def _fill_part(part: Path, batch: list[Some], make: Callable[[list[Some]], Iterable[Member]]) -> None:
    began = time.perf_counter()
    made = make(batch)
    _write(part, made, [time.perf_counter() - began])


def collect_shards(
    tasks: Sequence[Sequence[Sequence[Any]]], work: Path, out: Path
) -> tuple[list[dict[str, Any]], float | None]:
    """Link the whole shards from `work` into the empty folder `out`; then as `listed`.

    Raises UserError where a shard is missing.
    """
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    notes = []
    for file in (work / shard_name(number) for number in range(len(tasks))):
        if not _whole(file):
            raise UserError(f"{file}: the shard is not whole; run the stage again to draw it")
        link_or_copy(file, out / file.name)
        notes.append(_note(file))
    return listed(tasks, notes)


def listed(
    tasks: Sequence[Sequence[Sequence[Any]]], notes: Sequence[Note]
) -> tuple[list[dict[str, Any]], float | None]:
    """What a manifest says of each shard; pictures a second, the median over batches, so a warm-up does not count."""
    shards = [
        {"name": shard_name(number), "pictures": note.pictures, "sha256": note.sha256}
        for number, note in enumerate(notes)
    ]
    every = zip(tasks, notes, strict=True)
    rates = [
        len(batch) / taken for task, note in every for batch, taken in zip(task, note.seconds, strict=True) if taken
    ]
    return shards, float(np.median(rates)) if rates else None


def members(file: Path) -> Iterator[Member]:
    """Name and content of each file in a tar."""
    with tarfile.open(file) as tar:
        for entry in tar:
            member = tar.extractfile(entry)
            assert member is not None  # files alone are written
            yield entry.name, member.read()


def _write(file: Path, made: Iterable[Member], seconds: list[float]) -> None:
    """Write a tar and then its note, so that half of one is never taken for whole."""
    half, pictures = file.with_suffix(".half"), 0
    with tarfile.open(half, "w") as tar:
        for name, data in made:
            entry = tarfile.TarInfo(name)  # without owner and time, so equal pictures give equal shards
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
            pictures += name.endswith(".png")
    half.replace(file)
    note = Note(pictures, sha256(file), seconds)
    atomic_write_text(_note_path(file), json.dumps(note._asdict()) + "\n")


def _note_path(file: Path) -> Path:
    return file.with_name(f"{file.name}.json")


def _note(file: Path) -> Note:
    return Note(**json.loads(_note_path(file).read_text()))


def _whole(file: Path) -> bool:
    """Whether the file is there as its note says."""
    try:
        return _note(file).sha256 == sha256(file)
    except (OSError, ValueError, TypeError):
        return False
