"""Contents of a user's folder of pictures: which layout it has, and how many pairs."""

from pathlib import Path
from typing import Literal, NamedTuple

import pyarrow.compute as pc

from prunella.data.sources import describe_source, open_source
from prunella.data.sources.folder import LISTING_FILES
from prunella.errors import UserError
from prunella.params import Filter, fill_section, validate_config
from prunella.storage.remote import PathOrRemote, parse_location

LAYOUT_BY_SUFFIX: dict[str, Literal["webdataset", "parquet"]] = {".tar": "webdataset", ".parquet": "parquet"}
MIN_SAMPLES = 2  # pairs: one to learn from, one held out


class DatasetInfo(NamedTuple):
    """Pairs of pictures and captions, as the section `filter` names them."""

    source: Literal["folder", "parquet", "webdataset"]
    path: str
    num_samples: int | None  # None: counting them would mean to read tars from end to end

    def __str__(self) -> str:
        return f"{self.path} ({self.source}{f', {self.num_samples:,} pairs' if self.num_samples else ''})"


def detect_dataset(name: str) -> DatasetInfo:
    """Contents of the path `name`. Raises UserError where that is nothing that a student can learn from."""
    path = parse_location(name)
    path = path.expanduser() if isinstance(path, Path) else path
    if not path.exists():
        raise UserError(f"{name}: there is no such folder of pictures")
    source = _detect_layout(path)
    if source == "webdataset":
        return DatasetInfo(source, str(path), None)
    try:
        num_samples = _count_usable_samples(source, path)
    except UserError as error:
        raise UserError(str(error).removeprefix("filter.path: ")) from None
    if num_samples < MIN_SAMPLES:
        raise UserError(
            f"{name}: only {num_samples} of its pictures has a caption; a student needs {MIN_SAMPLES} at the very least"
        )
    return DatasetInfo(source, str(path), num_samples)


def _detect_layout(path: PathOrRemote) -> Literal["folder", "parquet", "webdataset"]:
    if path.is_file():
        if path.suffix not in LAYOUT_BY_SUFFIX:
            raise UserError(
                f"{path}: is a file; a folder of pictures is expected, or one of {', '.join(LAYOUT_BY_SUFFIX)} files"
            )
        return LAYOUT_BY_SUFFIX[path.suffix]
    if any((path / name).is_file() for name in LISTING_FILES):
        return "folder"
    return next((layout for suffix, layout in LAYOUT_BY_SUFFIX.items() if any(path.rglob(f"*{suffix}"))), "folder")


def _count_usable_samples(source: str, path: PathOrRemote) -> int:
    filter_config = validate_config(Filter, fill_section("filter", {"source": source, "path": str(path)}), "pictures")
    usable_masks = (
        pc.and_(pc.is_null(rows["fault"]), pc.is_valid(rows["text"]))
        for rows in open_source(describe_source(filter_config, 0)).iter_rows()
    )
    return sum(pc.sum(mask).as_py() or 0 for mask in usable_masks)
