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

from prunella.data.images import IMAGE_SUFFIXES, RejectedImage, is_system_error, raise_system_errors, read_file_bytes
from prunella.data.schema import NO_UTF8, make_fault_rows, match_columns, rows_to_table
from prunella.data.sources.base import Source
from prunella.errors import UserError
from prunella.params import Filter
from prunella.storage.remote import (
    PathOrRemote,
    RemotePath,
    map_concurrently,
    parse_location,
    relative_name,
    rglob_sorted,
)

LISTING_FILES = ("metadata.jsonl", "metadata.csv")
FILE_NAME_COLUMNS = ("file_name", "file", "filename", "path", "image", "image_path")
OUTSIDE_ROOT = "file outside filter.path"  # which DVC would not see change
BATCH = 65536
MAX_LINE_BYTES = 16 << 20  # bytes of a line of a listing, or of a caption in a file; more is no caption
LINE_TOO_LONG = "line too long"
Rows = list[tuple[str, dict]]  # (line, row)
Faults = list[tuple[str, str]]  # (line, cause)


class Folder(Source):
    """Keys are file names, as the listing has them or below the folder."""

    @classmethod
    def describe(cls, params: Filter, seed: int) -> dict:
        """With the caption of all pictures, where there is one."""
        return super().describe(params, seed) | ({"caption": params.caption} if params.caption else {})

    def __init__(self, source: dict):
        self.root, self.columns, self.caption = parse_location(source["path"]), source["columns"], source.get("caption")

    def iter_rows(self) -> Iterator[pa.Table]:
        """The rows of the listing, or of the captions beside pictures. Raises UserError for what is no such folder."""
        if not self.root.is_dir():
            raise UserError(
                f"filter.path: there is no folder {self.root}; it should hold pictures and {LISTING_FILES[0]}"
            )
        if self.caption is not None:
            yield from _iter_rows_of_one_caption(self.root, self.caption)
            return
        listing = next((self.root / name for name in LISTING_FILES if (self.root / name).is_file()), None)
        with raise_system_errors(str(listing or self.root)):
            yield from (
                _iter_caption_file_rows(self.root) if listing is None else _iter_listing_rows(listing, self.columns)
            )

    def read_image_bytes(self, key: str) -> bytes:
        return read_below_root(self.root, key)


def _iter_listing_rows(listing: PathOrRemote, columns: dict[str, str]) -> Iterator[pa.Table]:
    rows, faults = _read_jsonl(listing) if listing.suffix == ".jsonl" else _read_csv(listing)
    name_column = _find_file_name_column([row for _, row in rows], columns)
    named_rows = [(row[name_column], row) for _, row in rows if _is_name(row.get(name_column))]
    faults += [(location, f"row without {name_column}") for location, row in rows if not _is_name(row.get(name_column))]
    if not named_rows:
        names = ", ".join(dict.fromkeys(str(name) for _, row in rows for name in row))
        first_fault = f"{faults[0][0]}: {faults[0][1]}" if faults else "it has no rows"
        raise UserError(
            f"{listing}: no row names a picture; "
            + (f"its columns are {names}, and one should be file_name" if names else first_fault)
            + ". A line is as " + ("file_name,text" if listing.suffix == ".csv" else '{"file_name": …, "text": …}')
        )  # fmt: skip
    column_map = match_columns(list(dict.fromkeys(name for _, row in named_rows for name in row)), columns)
    for start in range(0, len(named_rows), BATCH):
        batch = named_rows[start : start + BATCH]
        yield rows_to_table([name for name, _ in batch], [row for _, row in batch], column_map)
    for key, cause in faults:
        yield make_fault_rows([key], cause)


def read_below_root(root: PathOrRemote, name: str, outside_cause: str = OUTSIDE_ROOT) -> bytes:
    """The content of a file below `root`.

    Raises RejectedImage, with the cause `outside_cause` where it lies elsewhere.
    """
    if isinstance(root, RemotePath):
        name = posixpath.normpath(name)
        if name.startswith(("/", "../")) or name == "..":
            raise RejectedImage(outside_cause)
        return read_file_bytes(root / name)
    path = root / name
    try:
        if not path.resolve().is_relative_to(root.resolve()):
            raise RejectedImage(outside_cause)
    except (ValueError, OSError, RuntimeError) as error:  # a NUL in the name, links in a circle
        if is_system_error(error):
            raise
        raise RejectedImage("unreadable file") from None
    return read_file_bytes(path)


def _find_file_name_column(rows: list[dict], overrides: dict[str, str]) -> str:
    """The column of file names."""
    if "image" in overrides:
        return overrides["image"]
    lower = {str(name).lower(): name for row in reversed(rows) for name in row}
    return next((lower[name] for name in FILE_NAME_COLUMNS if name in lower), FILE_NAME_COLUMNS[0])


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _read_jsonl(listing: PathOrRemote) -> tuple[Rows, Faults]:
    rows, faults = [], []
    with listing.open("rb") as file:
        for number, line in enumerate(_iter_lines(file), 1):
            text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if not text.strip():
                continue
            row, cause = _parse_json_row(text)
            location = f"{listing.name}, line {number}"
            if row is None:
                faults.append((location, cause))
            else:
                rows.append((location, row))
    return rows, faults


def _iter_lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file; of one that is longer than LONGEST_LINE only so much that it is seen to be."""
    while line := file.readline(MAX_LINE_BYTES + 1):
        yield line
        while len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
            line = file.readline(MAX_LINE_BYTES + 1)


def _parse_json_row(line: bytes) -> tuple[dict | None, str]:
    """A line's object, or None and why there is none."""
    if len(line) > MAX_LINE_BYTES:
        return None, LINE_TOO_LONG
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError:
        return None, NO_UTF8
    except (ValueError, RecursionError):
        return None, "line is no JSON"
    return (row, "") if isinstance(row, dict) else (None, "line is no JSON object")


def _read_csv(listing: PathOrRemote) -> tuple[Rows, Faults]:
    csv.field_size_limit(MAX_LINE_BYTES)
    rows, faults = [], []
    with io.TextIOWrapper(listing.open("rb"), "utf-8-sig", errors="surrogateescape", newline="") as file:
        table = csv.DictReader(file, strict=True)
        try:
            names = table.fieldnames or []
            if duplicate := next((name for name in names if names.count(name) > 1), None):
                raise UserError(f"{listing}: two columns are called {duplicate!r}")
            for row in table:
                row.pop(None, None)  # more cells than columns
                rows.append((f"{listing.name}, line {table.line_num}", row))
        except csv.Error as error:  # a quotation that does not end takes all that follows
            cause = LINE_TOO_LONG if "limit" in str(error) else "CSV that ends inside a quotation"
            faults.append((f"{listing.name}, after line {table.line_num}", cause))
    return rows, faults


def _iter_rows_of_one_caption(root: PathOrRemote, caption: str) -> Iterator[pa.Table]:
    """Every picture below `root`, with one caption."""
    names = sorted(relative_name(root, path) for path in root.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not names:
        raise UserError(f"filter.path: {root} has no picture in it ({', '.join(sorted(IMAGE_SUFFIXES))})")
    for start in range(0, len(names), BATCH):
        batch = names[start : start + BATCH]
        yield rows_to_table(batch, [{"text": caption}] * len(batch), {"text": "text"})


def _iter_caption_file_rows(root: PathOrRemote) -> Iterator[pa.Table]:
    files = rglob_sorted(root, "*")
    images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    caption_stems = {path.with_suffix("") for path in files if path.suffix == ".txt"}
    if not caption_stems & {path.with_suffix("") for path in images}:
        raise UserError(
            f"filter.path: {root} has neither {LISTING_FILES[0]} nor {LISTING_FILES[1]} nor a NAME.txt beside a "
            "picture, so its "
            'pictures have no captions; write one line a picture, as {"file_name": "cat.png", "text": "a cat"}'
        )
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH]
        captions = map_concurrently(_read_caption_file, [path.with_suffix(".txt") for path in batch])
        yield rows_to_table([relative_name(root, path) for path in batch], [{} for _ in batch], {}, captions)
    unmatched = sorted(caption_stems - {path.with_suffix("") for path in images})
    yield make_fault_rows([f"{relative_name(root, path)}.txt" for path in unmatched], "caption without picture")


def _read_caption_file(path: PathOrRemote) -> bytes | None:
    try:
        return read_file_bytes(path, MAX_LINE_BYTES)
    except RejectedImage:
        return None
