"""A gallery: a model's drawn pictures on disk, in shards and a manifest, drawn restartably.

A folder holds `00000.tar`, …: PNGs and their prompts, named by the prompt's number, as webdatasets have them.
`prompts.jsonl` lists the prompts in the shards' order; `manifest.json` names the shards with their sums and is written
last: a folder without one is not whole. While it is drawn, a batch is a file of its own in the work folder, counted
only when its note with its sum is there; a full shard's batches become the shard.
"""

import io
import json
import os
import shutil
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from prunella.errors import UserError
from prunella.evaluation.gallery.prompts import Prompt
from prunella.files import atomic_write_text, sha256

STAGES = ("pruned", "distilled", "finetuned")  # of a student, in the order that they are made in
SHARD = 512  # pictures in a shard, about
MANIFEST, PROMPTS = "manifest.json", "prompts.jsonl"
Draw = Callable[[list[Prompt]], np.ndarray]  # prompts of one size → NHWC uint8


class Note(NamedTuple):
    """What is noted of a whole file of pictures; `seconds` are those that each of its batches took to draw."""

    pictures: int
    sha256: str
    seconds: list[float]


def batches(prompts: Sequence[Prompt], batch_size: int) -> list[list[Prompt]]:
    """Prompts in batches of one size each: sizes in the order of their first prompt, prompts by number."""
    by_size: dict[tuple[int, int], list[Prompt]] = {}
    for prompt in prompts:
        by_size.setdefault((prompt.width, prompt.height), []).append(prompt)
    return [alike[i : i + batch_size] for alike in by_size.values() for i in range(0, len(alike), batch_size)]


def shards(prompts: Sequence[Prompt], batch_size: int) -> list[list[list[Prompt]]]:
    """The batches of each shard."""
    every, together = batches(prompts, batch_size), max(1, SHARD // batch_size)
    return [every[i : i + together] for i in range(0, len(every), together)]


def draw_shards(
    tasks: list[list[list[Prompt]]], draw: Draw, work: Path, title: str, rank: int = 0, size: int = 1
) -> None:
    """Draw the shards that are not whole in `work`, every `size`-th from `rank` on; whole batches are not redrawn."""
    work.mkdir(parents=True, exist_ok=True)
    ours = list(enumerate(tasks))[rank::size]
    with tqdm(total=sum(len(batch) for _, task in ours for batch in task), desc=title, unit="picture") as bar:
        for number, task in ours:
            if not _whole(work / f"{number:05d}.tar"):
                _draw_shard(work, number, task, draw, bar)
            else:
                bar.update(sum(map(len, task)))


def _draw_shard(work: Path, number: int, task: list[list[Prompt]], draw: Draw, bar: tqdm) -> None:
    parts = [work / f"{number:05d}-{i:04d}.part" for i in range(len(task))]
    for part, batch in zip(parts, task, strict=True):
        if not _whole(part):
            began = time.perf_counter()
            pictures = draw(batch)
            took = time.perf_counter() - began
            _write(part, _encoded(batch, pictures), [took])
        bar.update(len(batch))
    seconds = [taken for part in parts for taken in _note(part).seconds]
    _write(work / f"{number:05d}.tar", (member for part in parts for member in _members(part)), seconds)
    for part in parts:
        part.unlink()
        _note_path(part).unlink()


def collect(
    tasks: list[list[list[Prompt]]], work: Path, out: Path, settings: dict[str, Any]
) -> tuple[int, float | None]:
    """Link the whole shards from `work` into `out`, the manifest last; (pictures, median pictures a second).

    The rate is the median over batches, so a warm-up does not count. Raises UserError where a shard is missing.
    """
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    noted, rates = [], []
    for number, task in enumerate(tasks):
        file = work / f"{number:05d}.tar"
        if not _whole(file):
            raise UserError(f"{file}: the shard is not whole; run the stage again to draw it")
        _link(file, out / file.name)
        note = _note(file)
        noted.append({"name": file.name, "pictures": note.pictures, "sha256": note.sha256})
        rates += [len(batch) / taken for batch, taken in zip(task, note.seconds, strict=True) if taken]
    every = [prompt for task in tasks for batch in task for prompt in batch]
    atomic_write_text(out / PROMPTS, "".join(json.dumps(p._asdict(), ensure_ascii=False) + "\n" for p in every))
    atomic_write_text(out / MANIFEST, json.dumps({"settings": settings, "shards": noted}, indent=1) + "\n")
    return len(every), float(np.median(rates)) if rates else None


class Gallery:
    """A whole gallery; pictures are read shard by shard. Raises UserError where it is damaged."""

    def __init__(self, folder: Path):
        self.folder = folder
        if not (folder / MANIFEST).is_file():
            raise UserError(f"{folder}: no {MANIFEST}, so these pictures are not whole; run the draw stage again")
        manifest = json.loads((folder / MANIFEST).read_text())
        self.settings: dict[str, Any] = manifest["settings"]
        self.shards: list[dict[str, Any]] = manifest["shards"]
        lines = (folder / PROMPTS).read_text().split("\n")
        self.prompts = [Prompt(**json.loads(line)) for line in lines if line]

    def __len__(self) -> int:
        return len(self.prompts)

    def __iter__(self) -> Iterator[tuple[Prompt, np.ndarray]]:
        """Every prompt with its picture (HWC uint8), in the shards' order."""
        prompts = iter(self.prompts)
        for shard in self.shards:
            for data in self._pngs(shard):
                yield next(prompts), np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))

    def batches(self, size: int) -> Iterator[tuple[list[Prompt], list[np.ndarray]]]:
        """Prompts and pictures, at most `size` of one size of pictures at a time."""
        held: list[tuple[Prompt, np.ndarray]] = []
        for prompt, picture in self:
            if held and (len(held) == size or held[0][1].shape != picture.shape):
                yield [each for each, _ in held], [each for _, each in held]
                held = []
            held.append((prompt, picture))
        if held:
            yield [each for each, _ in held], [each for _, each in held]

    def first(self, count: int) -> list[tuple[Prompt, np.ndarray]]:
        """The prompts of the lowest numbers, with their pictures; only their shards are read."""
        found, start = [], 0
        for shard in self.shards:
            mine = self.prompts[start : start + shard["pictures"]]
            start += shard["pictures"]
            if any(prompt.number < count for prompt in mine):
                pairs = zip(mine, self._pngs(shard), strict=True)
                found += [(prompt, data) for prompt, data in pairs if prompt.number < count]
        found.sort(key=lambda pair: pair[0].number)
        return [(prompt, np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))) for prompt, data in found]

    def _pngs(self, shard: dict[str, Any]) -> Iterator[bytes]:
        file = self.folder / shard["name"]
        if not file.is_file() or sha256(file) != shard["sha256"]:
            raise UserError(f"{file}: not as it was drawn (its sum is not {shard['sha256']}); run the draw stage again")
        yield from (data for name, data in _members(file) if name.endswith(".png"))


def _encoded(prompts: list[Prompt], pictures: np.ndarray) -> Iterator[tuple[str, bytes]]:
    """Members of a shard: each picture as PNG, then its prompt."""
    for prompt, picture in zip(prompts, pictures, strict=True):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "PNG")
        yield f"{prompt.number:06d}.png", file.getvalue()
        yield f"{prompt.number:06d}.txt", prompt.text.encode()


def _write(file: Path, members: Iterator[tuple[str, bytes]], seconds: list[float]) -> None:
    """Write a tar and then its note, so that half of one is never taken for whole."""
    half, pictures = file.with_suffix(".half"), 0
    with tarfile.open(half, "w") as tar:
        for name, data in members:
            entry = tarfile.TarInfo(name)  # without owner and time, so equal pictures give equal shards
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
            pictures += name.endswith(".png")
    half.replace(file)
    note = Note(pictures, sha256(file), seconds)
    atomic_write_text(_note_path(file), json.dumps(note._asdict()) + "\n")


def _members(file: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(file) as tar:
        for entry in tar:
            member = tar.extractfile(entry)
            assert member is not None  # files alone are written
            yield entry.name, member.read()


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


def _link(file: Path, to: Path) -> None:
    """The file at another place without a second copy, where the file system can."""
    try:
        os.link(file, to)
    except OSError:
        shutil.copy2(file, to)
