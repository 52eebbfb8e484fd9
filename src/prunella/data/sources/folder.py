"""Pictures in a folder, with captions in `metadata.jsonl` or `metadata.csv`, or in a text beside each picture.

The listings follow `datasets`' imagefolder: a line for each picture, with `file_name` and a caption. Without a listing
every picture NAME.jpg (or png, webp, …) has its caption in NAME.txt.
"""

import csv
import io
import json
import posixpath
from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa

from prunella.data.images import PICTURES, RejectedImage, machine_faults, of_the_machine, read_bytes
from prunella.data.schema import NO_UTF8, faulty, found, of_rows
from prunella.data.sources.base import Source
from prunella.errors import UserError
from prunella.params import Filter
from prunella.storage.remote import Place, Remote, below, found_below, place, side_by_side

LISTINGS = ("metadata.jsonl", "metadata.csv")
NAMES = ("file_name", "file", "filename", "path", "image", "image_path")
OUTSIDE = "file outside filter.path"  # which DVC would not see change
BATCH = 65536
LONGEST_LINE = 16 << 20  # bytes of a line of a listing, or of a caption in a file; more is no caption
TOO_LONG = "line too long"
Rows = list[tuple[str, dict]]  # (line, row)
Wrong = list[tuple[str, str]]  # (line, cause)


class Folder(Source):
    """Keys are file names, as the listing has them or below the folder."""

    @classmethod
    def describe(cls, params: Filter, seed: int) -> dict:
        """With the caption of all pictures, where there is one."""
        return super().describe(params, seed) | ({"caption": params.caption} if params.caption else {})

    def __init__(self, source: dict):
        self.root, self.columns, self.caption = place(source["path"]), source["columns"], source.get("caption")

    def rows(self) -> Iterator[pa.Table]:
        """The rows of the listing, or of the captions beside pictures. Raises UserError for what is no such folder."""
        if not self.root.is_dir():
            raise UserError(f"filter.path: there is no folder {self.root}; it should hold pictures and {LISTINGS[0]}")
        if self.caption is not None:
            yield from _all_called(self.root, self.caption)
            return
        listing = next((self.root / name for name in LISTINGS if (self.root / name).is_file()), None)
        with machine_faults(str(listing or self.root)):
            yield from _texts_beside(self.root) if listing is None else _listed(listing, self.columns)

    def read(self, key: str) -> bytes:
        return inside(self.root, key)


def _listed(listing: Place, columns: dict[str, str]) -> Iterator[pa.Table]:
    rows, wrong = _json_rows(listing) if listing.suffix == ".jsonl" else _csv_rows(listing)
    image = _image([row for _, row in rows], columns)
    named = [(row[image], row) for _, row in rows if _is_name(row.get(image))]
    wrong += [(where, f"row without {image}") for where, row in rows if not _is_name(row.get(image))]
    if not named:
        names = ", ".join(dict.fromkeys(str(name) for _, row in rows for name in row))
        first = f"{wrong[0][0]}: {wrong[0][1]}" if wrong else "it has no rows"
        raise UserError(
            f"{listing}: no row names a picture; "
            + (f"its columns are {names}, and one should be file_name" if names else first)
            + ". A line is as " + ("file_name,text" if listing.suffix == ".csv" else '{"file_name": …, "text": …}')
        )  # fmt: skip
    spelt = found(list(dict.fromkeys(name for _, row in named for name in row)), columns)
    for start in range(0, len(named), BATCH):
        some = named[start : start + BATCH]
        yield of_rows([name for name, _ in some], [row for _, row in some], spelt)
    for key, cause in wrong:
        yield faulty([key], cause)


def inside(root: Place, name: str, outside: str = OUTSIDE) -> bytes:
    """The content of a file below `root`. Raises RejectedImage, with the cause `outside` where it lies elsewhere."""
    if isinstance(root, Remote):
        name = posixpath.normpath(name)
        if name.startswith(("/", "../")) or name == "..":
            raise RejectedImage(outside)
        return read_bytes(root / name)
    path = root / name
    try:
        if not path.resolve().is_relative_to(root.resolve()):
            raise RejectedImage(outside)
    except (ValueError, OSError, RuntimeError) as error:  # a NUL in the name, links in a circle
        if of_the_machine(error):
            raise
        raise RejectedImage("unreadable file") from None
    return read_bytes(path)


def _image(rows: list[dict], asked: dict[str, str]) -> str:
    """The column of file names."""
    if "image" in asked:
        return asked["image"]
    lower = {str(name).lower(): name for row in reversed(rows) for name in row}
    return next((lower[name] for name in NAMES if name in lower), NAMES[0])


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _json_rows(listing: Place) -> tuple[Rows, Wrong]:
    rows, wrong = [], []
    with listing.open("rb") as file:
        for number, line in enumerate(_lines(file), 1):
            text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if not text.strip():
                continue
            row, cause = _json_row(text)
            where = f"{listing.name}, line {number}"
            if row is None:
                wrong.append((where, cause))
            else:
                rows.append((where, row))
    return rows, wrong


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file; of one that is longer than LONGEST_LINE only so much that it is seen to be."""
    while line := file.readline(LONGEST_LINE + 1):
        yield line
        while len(line) > LONGEST_LINE and not line.endswith(b"\n"):
            line = file.readline(LONGEST_LINE + 1)


def _json_row(line: bytes) -> tuple[dict | None, str]:
    """A line's object, or None and why there is none."""
    if len(line) > LONGEST_LINE:
        return None, TOO_LONG
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError:
        return None, NO_UTF8
    except (ValueError, RecursionError):
        return None, "line is no JSON"
    return (row, "") if isinstance(row, dict) else (None, "line is no JSON object")


def _csv_rows(listing: Place) -> tuple[Rows, Wrong]:
    csv.field_size_limit(LONGEST_LINE)
    rows, wrong = [], []
    with io.TextIOWrapper(listing.open("rb"), "utf-8-sig", errors="surrogateescape", newline="") as file:
        table = csv.DictReader(file, strict=True)
        try:
            names = table.fieldnames or []
            if twice := next((name for name in names if names.count(name) > 1), None):
                raise UserError(f"{listing}: two columns are called {twice!r}")
            for row in table:
                row.pop(None, None)  # more cells than columns
                rows.append((f"{listing.name}, line {table.line_num}", row))
        except csv.Error as error:  # a quotation that does not end takes all that follows
            cause = TOO_LONG if "limit" in str(error) else "CSV that ends inside a quotation"
            wrong.append((f"{listing.name}, after line {table.line_num}", cause))
    return rows, wrong


def _all_called(root: Place, caption: str) -> Iterator[pa.Table]:
    """Every picture below `root`, with one caption."""
    names = sorted(below(root, path) for path in root.rglob("*") if path.suffix.lower() in PICTURES)
    if not names:
        raise UserError(f"filter.path: {root} has no picture in it ({', '.join(sorted(PICTURES))})")
    for start in range(0, len(names), BATCH):
        some = names[start : start + BATCH]
        yield of_rows(some, [{"text": caption}] * len(some), {"text": "text"})


def _texts_beside(root: Place) -> Iterator[pa.Table]:
    files = found_below(root, "*")
    pictures = [path for path in files if path.suffix.lower() in PICTURES]
    texts = {path.with_suffix("") for path in files if path.suffix == ".txt"}
    if not texts & {path.with_suffix("") for path in pictures}:
        raise UserError(
            f"filter.path: {root} has neither {LISTINGS[0]} nor {LISTINGS[1]} nor a NAME.txt beside a picture, so its "
            'pictures have no captions; write one line a picture, as {"file_name": "cat.png", "text": "a cat"}'
        )
    for start in range(0, len(pictures), BATCH):
        some = pictures[start : start + BATCH]
        captions = side_by_side(_beside, [path.with_suffix(".txt") for path in some])
        yield of_rows([below(root, path) for path in some], [{} for _ in some], {}, captions)
    lonely = sorted(texts - {path.with_suffix("") for path in pictures})
    yield faulty([f"{below(root, path)}.txt" for path in lonely], "caption without picture")


def _beside(path: Place) -> bytes | None:
    try:
        return read_bytes(path, LONGEST_LINE)
    except RejectedImage:
        return None
