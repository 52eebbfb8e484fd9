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
from prunella.params import QuantizedDtype
from prunella.sampling.benchmark_prompts import Prompt
from prunella.sampling.image_shards import TarMember, collect_shards, iter_tar_members, write_image_shards
from prunella.storage.files import atomic_write_text, sha256

STUDENT_STAGES = ("pruned", "distilled", "finetuned")  # stages of a student, in the order that they are made in
BASE_STAGE = "base"  # somebody else's model before it is tuned here
BASE_STAGES = (BASE_STAGE, STUDENT_STAGES[-1])  # stages of such a model
ALL_STAGES = (BASE_STAGE, *STUDENT_STAGES, *get_args(QuantizedDtype))  # and the last of them in fewer bits
MANIFEST_FILE, PROMPTS_FILE = "manifest.json", "prompts.jsonl"
GenerateFn = Callable[[list[Prompt]], np.ndarray]  # prompts of one size → NHWC uint8


def map_stage_folders(
    find_folder: Callable[[str], Path], quantized: list[QuantizedDtype], stages: Sequence[str] = STUDENT_STAGES
) -> dict[str, Path]:
    """The folder of each of a model's stages, and that of the last of them for its quantised ones."""
    return {stage: find_folder(stage) for stage in stages} | {dtype: find_folder(stages[-1]) for dtype in quantized}


def generate_image_shards(
    tasks: list[list[list[Prompt]]],
    generate_batch: GenerateFn,
    work_dir: Path,
    description: str,
    rank: int = 0,
    world_size: int = 1,
) -> None:
    """Draw the shards that are not whole in `work_dir`, every `world_size`-th from `rank` on.

    Whole batches are not redrawn.
    """

    def make_members(batch: list[Prompt]) -> Iterator[TarMember]:
        return _encode_image_members(batch, generate_batch(batch))

    write_image_shards(tasks, make_members, work_dir, description, rank, world_size)


def collect_images(
    tasks: list[list[list[Prompt]]], work_dir: Path, out: Path, settings: dict[str, Any]
) -> tuple[int, float | None]:
    """Link the whole shards from `work_dir` into `out`, the manifest last; (pictures, median pictures a second).

    The rate is the median over batches, so a warm-up does not count. Raises UserError where a shard is missing.
    """
    manifest_entries, images_per_second = collect_shards(tasks, work_dir, out)
    prompts = [prompt for task in tasks for batch in task for prompt in batch]
    atomic_write_text(out / PROMPTS_FILE, "".join(json.dumps(p._asdict(), ensure_ascii=False) + "\n" for p in prompts))
    atomic_write_text(
        out / MANIFEST_FILE, json.dumps({"settings": settings, "shards": manifest_entries}, indent=1) + "\n"
    )
    return len(prompts), images_per_second


class ImageShards:
    """A whole gallery; pictures are read shard by shard. Raises UserError where it is damaged."""

    def __init__(self, folder: Path):
        self.folder = folder
        if not (folder / MANIFEST_FILE).is_file():
            raise UserError(f"{folder}: no {MANIFEST_FILE}, so these pictures are not whole; run the draw stage again")
        manifest = json.loads((folder / MANIFEST_FILE).read_text())
        self.settings: dict[str, Any] = manifest["settings"]
        self.shards: list[dict[str, Any]] = manifest["shards"]
        lines = (folder / PROMPTS_FILE).read_text().split("\n")
        self.prompts = [Prompt(**json.loads(line)) for line in lines if line]

    def __len__(self) -> int:
        return len(self.prompts)

    def __iter__(self) -> Iterator[tuple[Prompt, np.ndarray]]:
        """Every prompt with its picture (HWC uint8), in the shards' order."""
        prompts = iter(self.prompts)
        for shard in self.shards:
            for data in self._iter_pngs(shard):
                yield next(prompts), np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))

    def iter_batches(self, size: int) -> Iterator[tuple[list[Prompt], list[np.ndarray]]]:
        """Prompts and pictures, at most `size` of one size of pictures at a time."""
        pending: list[tuple[Prompt, np.ndarray]] = []
        for prompt, image in self:
            if pending and (len(pending) == size or pending[0][1].shape != image.shape):
                yield [each for each, _ in pending], [each for _, each in pending]
                pending = []
            pending.append((prompt, image))
        if pending:
            yield [each for each, _ in pending], [each for _, each in pending]

    def read_first(self, count: int) -> list[tuple[Prompt, np.ndarray]]:
        """The prompts of the lowest numbers, with their pictures; only their shards are read."""
        selected, start = [], 0
        for shard in self.shards:
            shard_prompts = self.prompts[start : start + shard["pictures"]]
            start += shard["pictures"]
            if any(prompt.number < count for prompt in shard_prompts):
                pairs = zip(shard_prompts, self._iter_pngs(shard), strict=True)
                selected += [(prompt, data) for prompt, data in pairs if prompt.number < count]
        selected.sort(key=lambda pair: pair[0].number)
        return [(prompt, np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))) for prompt, data in selected]

    def _iter_pngs(self, shard: dict[str, Any]) -> Iterator[bytes]:
        file = self.folder / shard["name"]
        if not file.is_file() or sha256(file) != shard["sha256"]:
            raise UserError(f"{file}: not as it was drawn (its sum is not {shard['sha256']}); run the draw stage again")
        yield from (data for name, data in iter_tar_members(file) if name.endswith(".png"))


def _encode_image_members(prompts: list[Prompt], images: np.ndarray) -> Iterator[TarMember]:
    """Members of a shard: each picture as PNG, then its prompt."""
    for prompt, image in zip(prompts, images, strict=True):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        yield f"{prompt.number:06d}.png", file.getvalue()
        yield f"{prompt.number:06d}.txt", prompt.text.encode()
