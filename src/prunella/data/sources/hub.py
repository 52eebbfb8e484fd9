"""Pairs of a dataset on the Hub, or of a local folder of one, through `datasets`; files lie in that library's cache."""

import os
from collections.abc import Iterator
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from prunella.data.schema import TABLE_COLUMNS, match_columns, normalize_table
from prunella.data.sources.base import Source
from prunella.data.sources.folder import read_below_root
from prunella.data.sources.parquet import read_cell_bytes
from prunella.errors import UserError
from prunella.params import Filter

BATCH = 16384
OUTSIDE_DATASET = "file outside the dataset"  # a stranger's table must not name files of this machine


class Hub(Source):
    """Keys are row numbers of one split."""

    @classmethod
    def describe(cls, params: Filter, seed: int) -> dict:
        revision = resolve_dataset_revision(params.id or "", params.revision)  # the schema asks for one
        pinned = {"id": params.id, "revision": revision, "split": params.split}
        return {"source": params.source, "path": params.path, **pinned, "columns": dict(params.columns)}

    def __init__(self, source: dict):
        self.id, self.revision, self.split = source["id"], source["revision"], source["split"]
        self.columns = source["columns"]

    def iter_rows(self) -> Iterator[pa.Table]:
        names = match_columns(self._dataset.column_names, self.columns)
        if missing := [column for column in ("image", "text") if column not in names]:
            raise UserError(
                f"filter.id: {self.id} has no column for the {missing[0]}; it has "
                f"{', '.join(self._dataset.column_names)}. filter.columns can name it, as {{{missing[0]}: NAME}}"
            )
        column_map = {
            our_column: data_column for our_column, data_column in names.items() if our_column in TABLE_COLUMNS
        }
        columns = self._dataset.select_columns(list(column_map.values())).with_format("arrow")
        for start in range(0, len(self._dataset), BATCH):
            rows = columns[start : start + BATCH]
            keys = pa.array([str(row) for row in range(start, start + len(rows))])
            yield normalize_table(rows, column_map, keys, self._dataset.column_names)

    def read_image_bytes(self, key: str) -> bytes:
        value = self._image_column[int(key) : int(key) + 1].column(0)[0].as_py()
        return read_cell_bytes(value, lambda name: read_below_root(self._files_root, name, OUTSIDE_DATASET))

    @property
    def _dataset(self) -> Any:
        return _load_split(self.id, self.revision, self.split)

    @cached_property
    def _image_column(self) -> Any:
        name = match_columns(self._dataset.column_names, self.columns)["image"]
        return self._dataset.select_columns([name]).with_format("arrow")

    @cached_property
    def _files_root(self) -> Path:
        """The place of the dataset's files: a local dataset's folder, or the dataset's part of the Hub's cache."""
        if Path(self.id).is_dir():
            return Path(self.id)
        from huggingface_hub.constants import HF_HUB_CACHE
        from huggingface_hub.file_download import repo_folder_name

        return Path(HF_HUB_CACHE) / repo_folder_name(repo_id=self.id, repo_type="dataset")


def resolve_dataset_revision(name: str, revision: str) -> str:
    """The commit that `revision` is now, so that later stages read the same; of a local folder the revision itself."""
    if Path(name).is_dir() or os.environ.get("HF_HUB_OFFLINE") == "1":
        return revision
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(name, revision=revision).sha or revision
    except Exception as error:  # of network, access and name alike, of many kinds
        raise UserError(f"filter.id: {name} at {revision} cannot be asked for: {error}") from None


@lru_cache(maxsize=1)
def _load_split(name: str, revision: str, split: str) -> Any:
    from datasets import Image, disable_progress_bars, load_dataset

    disable_progress_bars()
    try:
        data = load_dataset(name, revision=None if Path(name).is_dir() else revision, split=split)
    except Exception as error:  # as above
        raise UserError(f"filter.id: the split {split!r} of {name} at {revision} cannot be had: {error}") from None
    for column, feature in data.features.items():
        if isinstance(feature, Image):
            data = data.cast_column(column, Image(decode=False))
    return data
