"""Pairs of a dataset on the Hub, or of a local folder of one, through `datasets`; files lie in that library's cache."""

import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pyarrow as pa

from prunella.data.columns import WANTED, canonical, found
from prunella.data.images import read_bytes
from prunella.data.sources.parquet import content
from prunella.errors import UserError

BATCH = 16384


def index(source: dict) -> Iterator[pa.Table]:
    """The rows of one split, keyed by number."""
    data = _loaded(source["id"], source["revision"], source["split"])
    names = found(data.column_names, source["columns"])
    if missing := [column for column in ("image", "text") if column not in names]:
        raise UserError(
            f"filter.id: {source['id']} has no column for the {missing[0]}; it has {', '.join(data.column_names)}. "
            f"filter.columns can name it, as {{{missing[0]}: NAME}}"
        )
    wanted = {ours: theirs for ours, theirs in names.items() if ours in WANTED}
    columns = data.select_columns(list(wanted.values())).with_format("arrow")
    for start in range(0, len(data), BATCH):
        rows = columns[start : start + BATCH]
        keys = pa.array([str(row) for row in range(start, start + len(rows))])
        yield canonical(rows, wanted, keys, data.column_names)


def reader(source: dict):
    """Key → bytes. Raises Unfit for what cannot be read."""
    data = _loaded(source["id"], source["revision"], source["split"])
    name = found(data.column_names, source["columns"])["image"]
    pictures = data.select_columns([name]).with_format("arrow")

    def fetch(key: str) -> bytes:
        value = pictures[int(key) : int(key) + 1].column(0)[0].as_py()
        return content(value, lambda path: read_bytes(Path(path)))  # where `datasets` itself has put it

    return fetch


def commit(name: str, revision: str) -> str:
    """The commit that `revision` is now, so that later stages read the same; of a local folder the revision itself."""
    if Path(name).is_dir() or os.environ.get("HF_HUB_OFFLINE") == "1":
        return revision
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(name, revision=revision).sha
    except Exception as error:  # of network, access and name alike, of many kinds
        raise UserError(f"filter.id: {name} at {revision} cannot be asked for: {error}") from None


@lru_cache(maxsize=1)
def _loaded(name: str, revision: str, split: str):
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
