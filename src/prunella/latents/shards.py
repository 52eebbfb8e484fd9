"""Encoded pairs on disk: shards of safetensors and a manifest.

A folder holds `SPLIT-00000.safetensors` (tensors "mean", "std" NCHW and "text" NLD; of an SDXL teacher also "pooled" NP
and "sizes" N6; fp32), `SPLIT.jsonl` (a caption a line, in the same order), `empty.safetensors` ("text" and "pooled" of
no caption) and `manifest.json`. The manifest is written last: a folder without one is not whole. Splits: "train" and
"heldout".
"""

import hashlib
import json
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from prunella.errors import UserError


class Writer:
    """Writes a folder of shards: `add` batches split by split, then `close`."""

    def __init__(self, folder: Path, shard_size: int):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.shard_size = folder, shard_size
        self.waiting: dict[str, list[dict[str, Tensor]]] = {}
        self.shards: dict[str, list[int]] = {}
        self.content = hashlib.sha256()

    def add(self, split: str, captions: list[str], tensors: dict[str, Tensor]) -> None:
        """Append pairs whose tensors share their first dimension."""
        self.content.update(json.dumps([split, captions]).encode())
        for name in sorted(tensors):
            self.content.update(tensors[name].contiguous().numpy())
        self.waiting.setdefault(split, []).append(tensors)
        with (self.folder / f"{split}.jsonl").open("a") as file:
            file.writelines(json.dumps(caption, ensure_ascii=False) + "\n" for caption in captions)
        while sum(len(part["mean"]) for part in self.waiting[split]) >= self.shard_size:
            self._flush(split, self.shard_size)

    def close(self, empty: dict[str, Tensor], **notes) -> dict:
        """Write what is left, what no caption is encoded to, and the manifest; `notes` (scaling_factor, …) go there."""
        for split in self.waiting:
            self._flush(split, self.shard_size)
        save_file({name: value.contiguous() for name, value in empty.items()}, self.folder / "empty.safetensors")
        manifest = {"splits": self.shards, "sha256": self.content.hexdigest(), **notes}
        (self.folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
        return manifest

    def _flush(self, split: str, size: int) -> None:
        parts = self.waiting[split]
        whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]} if parts else {}
        if not parts or not len(whole["mean"]):
            return
        counts = self.shards.setdefault(split, [])
        shard = {name: value[:size].contiguous() for name, value in whole.items()}
        save_file(shard, self.folder / f"{split}-{len(counts):05d}.safetensors")
        counts.append(len(shard["mean"]))
        self.waiting[split] = [{name: value[size:] for name, value in whole.items()}]


class Latents:
    """One split of an encoded folder; pairs are read from the mapped shards as they are asked for."""

    def __init__(self, folder: Path, split: str):
        path = folder / "manifest.json"
        if not path.is_file():
            raise UserError(f"{folder}: no manifest.json, so these latents are not whole; run the encode stage again")
        self.manifest = json.loads(path.read_text())
        self.folder, self.split = folder, split
        counts = self.manifest["splits"].get(split, [])
        self.starts = np.concatenate([[0], np.cumsum(counts)]).astype(int)
        self.scaling_factor = self.manifest["scaling_factor"]

    def __len__(self) -> int:
        return int(self.starts[-1])

    @cached_property
    def captions(self) -> list[str]:
        path = self.folder / f"{self.split}.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []

    @cached_property
    def empty(self) -> dict[str, Tensor]:
        """ "text" (LD) and, of an SDXL teacher, "pooled" (P) of no caption."""
        return load_file(self.folder / "empty.safetensors")

    @cached_property
    def _shards(self) -> list:
        return [safe_open(self.folder / f"{self.split}-{i:05d}.safetensors", "pt") for i in range(len(self.starts) - 1)]

    def take(self, indices) -> dict[str, Tensor]:
        """Every tensor of the pairs at `indices`, by name, in that order."""
        rows: dict[str, list[Tensor]] = {}
        for index in map(int, indices):
            shard = int(np.searchsorted(self.starts, index, side="right")) - 1
            place = index - int(self.starts[shard])
            for name in self._shards[shard].keys():  # noqa: SIM118 - a file, no dict
                rows.setdefault(name, []).append(self._shards[shard].get_slice(name)[place : place + 1])
        return {name: torch.cat(parts) for name, parts in rows.items()}
