"""What lies in a user's folder of pictures: which layout it has, and how many pairs."""

from pathlib import Path
from typing import Literal, NamedTuple

import pyarrow.compute as pc

from prunella.data.sources import describe, open_source
from prunella.data.sources.folder import LISTINGS
from prunella.errors import UserError
from prunella.params import Filter, check, completed
from prunella.storage.remote import Place, place

LAYOUTS: dict[str, Literal["webdataset", "parquet"]] = {".tar": "webdataset", ".parquet": "parquet"}
FEWEST = 2  # pairs: one to learn from, one held out


class Pictures(NamedTuple):
    """Pairs of pictures and captions, as the section `filter` names them."""

    source: Literal["folder", "parquet", "webdataset"]
    path: str
    pairs: int | None  # None: counting them would mean to read tars from end to end

    def __str__(self) -> str:
        return f"{self.path} ({self.source}{f', {self.pairs:,} pairs' if self.pairs else ''})"


def looked_at(name: str) -> Pictures:
    """What lies at the path `name`. Raises UserError where that is nothing that a student can learn from."""
    path = place(name)
    path = path.expanduser() if isinstance(path, Path) else path
    if not path.exists():
        raise UserError(f"{name}: there is no such folder of pictures")
    source = _layout(path)
    if source == "webdataset":
        return Pictures(source, str(path), None)
    try:
        pairs = _counted(source, path)
    except UserError as error:
        raise UserError(str(error).removeprefix("filter.path: ")) from None
    if pairs < FEWEST:
        raise UserError(
            f"{name}: only {pairs} of its pictures has a caption; a student needs {FEWEST} at the very least"
        )
    return Pictures(source, str(path), pairs)


def _layout(path: Place) -> Literal["folder", "parquet", "webdataset"]:
    if path.is_file():
        if path.suffix not in LAYOUTS:
            raise UserError(
                f"{path}: is a file; a folder of pictures is expected, or one of {', '.join(LAYOUTS)} files"
            )
        return LAYOUTS[path.suffix]
    if any((path / name).is_file() for name in LISTINGS):
        return "folder"
    return next((layout for end, layout in LAYOUTS.items() if any(path.rglob(f"*{end}"))), "folder")


def _counted(source: str, path: Place) -> int:
    known = check(Filter, completed("filter", {"source": source, "path": str(path)}), "pictures")
    whole = (
        pc.and_(pc.is_null(rows["fault"]), pc.is_valid(rows["text"])) for rows in open_source(describe(known, 0)).rows()
    )
    return sum(pc.sum(each).as_py() or 0 for each in whole)
