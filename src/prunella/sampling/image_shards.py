"""Shards that are made restartably: tars of named members, filled a batch of items at a time.

While a shard is made, each batch is a file of its own in the work folder, counted only when its note with its sum is
there; a full shard's batches become the shard. Therefore whoever is killed loses a batch, and half of one is never
counted.
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

IMAGES_PER_SHARD = 512  # pictures in a shard, about
TarMember = tuple[str, bytes]  # name and content of a file in a tar


class SizedItem(Protocol):
    """The settings of a picture; pictures of one batch are of one size."""

    @property
    def width(self) -> int: ...  # pixels

    @property
    def height(self) -> int: ...


ItemT = TypeVar("ItemT", bound=SizedItem)


class ShardNote(NamedTuple):
    """The note of a whole file of pictures; `seconds` are those that each of its batches took to make."""

    pictures: int
    sha256: str
    seconds: list[float]


def batch_by_size(items: Sequence[ItemT], batch_size: int) -> list[list[ItemT]]:
    """Items in batches of one size each: sizes in the order of their first item, items in their own."""
    by_size: dict[tuple[int, int], list[ItemT]] = {}
    for item in items:
        by_size.setdefault((item.width, item.height), []).append(item)
    return [
        same_size[i : i + batch_size] for same_size in by_size.values() for i in range(0, len(same_size), batch_size)
    ]


def split_into_shards(items: Sequence[ItemT], batch_size: int) -> list[list[list[ItemT]]]:
    """The batches of each shard."""
    all_batches, batches_per_shard = batch_by_size(items, batch_size), max(1, IMAGES_PER_SHARD // batch_size)
    return [all_batches[i : i + batches_per_shard] for i in range(0, len(all_batches), batches_per_shard)]


def write_image_shards(
    tasks: list[list[list[ItemT]]],
    make_members: Callable[[list[ItemT]], Iterable[TarMember]],
    work_dir: Path,
    description: str,
    rank: int = 0,
    world_size: int = 1,
    existing: Container[str] = (),
    on_complete: Callable[[str], object] = lambda _: None,
) -> None:
    """Make the shards that are not whole in `work_dir`, every `world_size`-th from `rank` on; whole batches are not
    made again.

    `make_members` gives the members of a batch. Shards whose names are `existing` need not be made; the others' names
    are given to `on_complete` when they are whole.
    """
    work_dir.mkdir(parents=True, exist_ok=True)
    own_tasks = list(enumerate(tasks))[rank::world_size]
    with tqdm(
        total=sum(len(batch) for _, task in own_tasks for batch in task), desc=description, unit="picture"
    ) as bar:
        for number, task in own_tasks:
            if format_shard_name(number) in existing or is_shard_complete(work_dir, number):
                bar.update(sum(map(len, task)))
            else:
                write_image_shard(work_dir, number, task, make_members, bar.update)
            if format_shard_name(number) not in existing:
                on_complete(format_shard_name(number))


def write_image_shard(
    work_dir: Path,
    number: int,
    task: list[list[ItemT]],
    make_members: Callable[[list[ItemT]], Iterable[TarMember]],
    on_batch: Callable[[int], object] = lambda _: None,
) -> None:
    """Make the shard `number`; `on_batch` is told how many pictures each of its batches has."""
    batch_files = [work_dir / f"{number:05d}-{i:04d}.part" for i in range(len(task))]
    for batch_file, batch in zip(batch_files, task, strict=True):
        if not _matches_shard_note(batch_file):
            _write_batch_file(batch_file, batch, make_members)
        on_batch(len(batch))
    seconds = [batch_seconds for batch_file in batch_files for batch_seconds in _read_shard_note(batch_file).seconds]
    _write_tar(
        work_dir / format_shard_name(number),
        (member for batch_file in batch_files for member in iter_tar_members(batch_file)),
        seconds,
    )
    for batch_file in batch_files:
        batch_file.unlink()
        _shard_note_path(batch_file).unlink()


def format_shard_name(number: int) -> str:
    """The name of the file of a shard."""
    return f"{number:05d}.tar"


def is_shard_complete(work_dir: Path, number: int) -> bool:
    """Whether the shard is in `work_dir` as its note says."""
    return _matches_shard_note(work_dir / format_shard_name(number))


def _write_batch_file(
    batch_file: Path, batch: list[ItemT], make_members: Callable[[list[ItemT]], Iterable[TarMember]]
) -> None:
    start = time.perf_counter()
    batch_members = make_members(batch)
    _write_tar(batch_file, batch_members, [time.perf_counter() - start])


def collect_shards(
    tasks: Sequence[Sequence[Sequence[Any]]], work_dir: Path, out: Path
) -> tuple[list[dict[str, Any]], float | None]:
    """Link the whole shards from `work_dir` into the empty folder `out`; then as `make_manifest_entries`.

    Raises UserError where a shard is missing.
    """
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    notes = []
    for file in (work_dir / format_shard_name(number) for number in range(len(tasks))):
        if not _matches_shard_note(file):
            raise UserError(f"{file}: the shard is not whole; run the stage again to draw it")
        link_or_copy(file, out / file.name)
        notes.append(_read_shard_note(file))
    return make_manifest_entries(tasks, notes)


def make_manifest_entries(
    tasks: Sequence[Sequence[Sequence[Any]]], notes: Sequence[ShardNote]
) -> tuple[list[dict[str, Any]], float | None]:
    """The manifest's entry for each shard; pictures a second, the median over batches, so a warm-up does not count."""
    entries = [
        {"name": format_shard_name(number), "pictures": note.pictures, "sha256": note.sha256}
        for number, note in enumerate(notes)
    ]
    tasks_with_notes = zip(tasks, notes, strict=True)
    rates = [
        len(batch) / seconds
        for task, note in tasks_with_notes
        for batch, seconds in zip(task, note.seconds, strict=True)
        if seconds
    ]
    return entries, float(np.median(rates)) if rates else None


def iter_tar_members(file: Path) -> Iterator[TarMember]:
    """Name and content of each file in a tar."""
    with tarfile.open(file) as tar:
        for tar_info in tar:
            file_object = tar.extractfile(tar_info)
            assert file_object is not None  # files alone are written
            yield tar_info.name, file_object.read()


def _write_tar(file: Path, tar_members: Iterable[TarMember], seconds: list[float]) -> None:
    """Write a tar and then its note, so that half of one is never taken for whole."""
    tmp_path, num_images = file.with_suffix(".half"), 0
    with tarfile.open(tmp_path, "w") as tar:
        for name, data in tar_members:
            tar_info = tarfile.TarInfo(name)  # without owner and time, so equal pictures give equal shards
            tar_info.size = len(data)
            tar.addfile(tar_info, io.BytesIO(data))
            num_images += name.endswith(".png")
    tmp_path.replace(file)
    note = ShardNote(num_images, sha256(file), seconds)
    atomic_write_text(_shard_note_path(file), json.dumps(note._asdict()) + "\n")


def _shard_note_path(file: Path) -> Path:
    return file.with_name(f"{file.name}.json")


def _read_shard_note(file: Path) -> ShardNote:
    return ShardNote(**json.loads(_shard_note_path(file).read_text()))


def _matches_shard_note(file: Path) -> bool:
    """Whether the file is there as its note says."""
    try:
        return _read_shard_note(file).sha256 == sha256(file)
    except (OSError, ValueError, TypeError):
        return False
