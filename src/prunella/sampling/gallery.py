"""A gallery: a model's drawn pictures on disk, in shards and a manifest, drawn restartably.

A folder holds `00000.tar`, …: PNGs and their prompts, named by the prompt's number, as webdatasets have them.
`prompts.jsonl` lists the prompts in the shards' order; `manifest.json` names the shards with their sums and is written
last: a folder without one is not whole. How they are made: `prunella.sampling.image_shards`.
"""

import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from PIL import Image

from prunella.errors import UserError
from prunella.params import Bits
from prunella.sampling.benchmark_prompts import Prompt
from prunella.sampling.image_shards import Member, collect_shards, fill_shards, members
from prunella.storage.files import atomic_write_text, sha256

TRAINED = ("pruned", "distilled", "finetuned")  # stages of a student, in the order that they are made in
BASE = "base"  # somebody else's model before it is tuned here
FOREIGN = (BASE, TRAINED[-1])  # stages of such a model
STAGES = (BASE, *TRAINED, *get_args(Bits))  # and the last of them in fewer bits
MANIFEST, PROMPTS = "manifest.json", "prompts.jsonl"
Draw = Callable[[list[Prompt]], np.ndarray]  # prompts of one size → NHWC uint8


def stage_folders(
    folder: Callable[[str], Path], quantised: list[Bits], stages: Sequence[str] = TRAINED
) -> dict[str, Path]:
    """Where each of a model's `stages` is, and that of the last of them for its quantised ones."""
    return {stage: folder(stage) for stage in stages} | {bits: folder(stages[-1]) for bits in quantised}


def draw_shards(
    tasks: list[list[list[Prompt]]], draw: Draw, work: Path, title: str, rank: int = 0, size: int = 1
) -> None:
    """Draw the shards that are not whole in `work`, every `size`-th from `rank` on; whole batches are not redrawn."""

    def made(batch: list[Prompt]) -> Iterator[Member]:
        return _encoded(batch, draw(batch))

    fill_shards(tasks, made, work, title, rank, size)


def collect(
    tasks: list[list[list[Prompt]]], work: Path, out: Path, settings: dict[str, Any]
) -> tuple[int, float | None]:
    """Link the whole shards from `work` into `out`, the manifest last; (pictures, median pictures a second).

    The rate is the median over batches, so a warm-up does not count. Raises UserError where a shard is missing.
    """
    noted, rate = collect_shards(tasks, work, out)
    every = [prompt for task in tasks for batch in task for prompt in batch]
    atomic_write_text(out / PROMPTS, "".join(json.dumps(p._asdict(), ensure_ascii=False) + "\n" for p in every))
    atomic_write_text(out / MANIFEST, json.dumps({"settings": settings, "shards": noted}, indent=1) + "\n")
    return len(every), rate


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
        yield from (data for name, data in members(file) if name.endswith(".png"))


def _encoded(prompts: list[Prompt], pictures: np.ndarray) -> Iterator[Member]:
    """Members of a shard: each picture as PNG, then its prompt."""
    for prompt, picture in zip(prompts, pictures, strict=True):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "PNG")
        yield f"{prompt.number:06d}.png", file.getvalue()
        yield f"{prompt.number:06d}.txt", prompt.text.encode()
