"""Pictures that the stage `generate` made, with their latents: a webdataset whose manifest says that it is whole."""

import io
import tarfile
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from prunella.data.sources.webdataset import WebDataset
from prunella.errors import UserError
from prunella.storage.files import read_json, sha256
from prunella.storage.remote import PathOrRemote, parse_location

MANIFEST = "manifest.json"


class GeneratedImages(WebDataset):
    """Keys are places in tars, as of any webdataset. `latent_space` says whose latents they are."""

    def __init__(self, source: dict):
        super().__init__(source)
        manifest = self.root / MANIFEST
        if not manifest.is_file():
            raise UserError(
                f"filter.path: {self.root} has no {MANIFEST}; it should be a folder that the stage generate made whole"
            )
        content = read_json(manifest)
        if not isinstance(content, dict) or not {"latents", "shards"} <= content.keys():
            raise UserError(f"{manifest}: not as the stage generate writes it; run that stage again")
        self.latent_space: str = content["latents"]
        self.shards: list[dict[str, Any]] = content["shards"]
        self.root = parse_location(content.get("store", self.root))  # the tars may lie elsewhere than what lists them
        self._tar_members = lru_cache(maxsize=16)(_index_tar)

    def iter_rows(self) -> Iterator[pa.Table]:
        """The rows of every shard. Raises UserError where one is not as it was drawn."""
        for shard in self.shards:
            file = self.root / shard["name"]
            if not file.is_file() or sha256(file) != shard["sha256"]:
                raise UserError(f"{file}: not as it was drawn; run the stage generate again")
        yield from super().iter_rows()

    def shard_names(self) -> list[str]:
        """None: all shards are looked at first."""
        return []

    def read_latents(self, key: str) -> np.ndarray:
        """The raw latents (CHW) that the picture of `key` was decoded from."""
        tar, _, name = key.rpartition("#")[0].partition("/")
        offset, size = self._tar_members(self.root / tar)[name.removesuffix(".png") + ".npy"]
        return np.load(io.BytesIO(self.read_range(self.root / tar, offset, size)))


def _index_tar(tar: PathOrRemote) -> dict[str, tuple[int, int]]:
    """The offset and length of each member of a tar."""
    with tar.open("rb") as raw, tarfile.open(fileobj=raw, mode="r:") as tar_file:
        return {member.name: (member.offset_data, member.size) for member in tar_file}
