"""Pictures in a folder, with captions in `metadata.jsonl` or `metadata.csv`, or in a text beside each picture.

The listings are the convention of `datasets`' imagefolder: `file_name` and a caption, a line each. Without one every
picture NAME.jpg (or png, webp, …) has its caption in NAME.txt.
"""

import csv
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa

from prunella.data.columns import NO_UTF8, faulty, found, of_rows
from prunella.data.images import PICTURES, RejectedImage, of_the_machine, read_bytes
from prunella.errors import UserError

LISTINGS = ("metadata.jsonl", "metadata.csv")
NAMES = ("file_name", "file", "filename", "path", "image", "image_path")
OUTSIDE = "file outside filter.path"  # which DVC would not see change
BATCH = 65536
Rows = list[tuple[str, dict]]  # (line, row)
Wrong = list[tuple[str, str]]  # (line, cause)


def index(source: dict) -> Iterator[pa.Table]:
    """The rows of the folder `source["path"]`, keyed by file name. Raises UserError for what is no such folder."""
    root = Path(source["path"])
    if not root.is_dir():
        raise UserError(f"filter.path: there is no folder {root}; it should hold pictures and {LISTINGS[0]}")
    listing = next((root / name for name in LISTINGS if (root / name).is_file()), None)
    if listing is None:
        yield from _texts_beside(root)
        return
    rows, wrong = _json_rows(listing) if listing.suffix == ".jsonl" else _csv_rows(listing)
    image = _image([row for _, row in rows], source["columns"])
    named = [(row[image], row) for _, row in rows if _is_name(row.get(image))]
    wrong += [(where, f"row without {image}") for where, row in rows if not _is_name(row.get(image))]
    if not named:
        names = ", ".join(dict.fromkeys(str(name) for _, row in rows for name in row))
        raise UserError(
            f"{listing}: no row names a picture; "
            + (f"its columns are {names}, and one should be file_name" if names else f"{wrong[0][0]}: {wrong[0][1]}")
            + ". A line is as " + ("file_name,text" if listing.suffix == ".csv" else '{"file_name": …, "text": …}')
        )  # fmt: skip
    spelt = found(list(dict.fromkeys(name for _, row in named for name in row)), source["columns"])
    for start in range(0, len(named), BATCH):
        some = named[start : start + BATCH]
        yield of_rows([name for name, _ in some], [row for _, row in some], spelt)
    for key, cause in wrong:
        yield faulty([key], cause)


def reader(source: dict) -> Callable[[str], bytes]:
    """Key → bytes. Raises Unfit for what cannot be read."""
    root = Path(source["path"])
    return lambda key: inside(root, key)


def inside(root: Path, name: str) -> bytes:
    """The content of a file below `root`. Raises Unfit."""
    path = root / name
    try:
        if not path.resolve().is_relative_to(root.resolve()):
            raise RejectedImage(OUTSIDE)
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


def _is_name(value) -> bool:
    return isinstance(value, str) and bool(value)


def _json_rows(listing: Path) -> tuple[Rows, Wrong]:
    rows, wrong = [], []
    for number, line in enumerate(listing.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            row, cause = json.loads(line.decode()), "line is no JSON object"
        except UnicodeDecodeError:
            row, cause = None, NO_UTF8
        except (ValueError, RecursionError):
            row, cause = None, "line is no JSON"
        where = f"{listing.name}, line {number}"
        if isinstance(row, dict):
            rows.append((where, row))
        else:
            wrong.append((where, cause))
    return rows, wrong


def _csv_rows(listing: Path) -> tuple[Rows, Wrong]:
    csv.field_size_limit(sys.maxsize)
    rows, wrong = [], []
    with listing.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        table = csv.DictReader(file, strict=True)
        names = table.fieldnames or []
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise UserError(f"{listing}: two columns are called {twice!r}")
        try:
            for row in table:
                row.pop(None, None)  # more cells than columns
                rows.append((f"{listing.name}, line {table.line_num}", row))
        except csv.Error:  # a quotation that does not end takes all that follows
            wrong.append((f"{listing.name}, after line {table.line_num}", "CSV that ends inside a quotation"))
    return rows, wrong


def _texts_beside(root: Path) -> Iterator[pa.Table]:
    files = sorted(root.rglob("*"))
    pictures = [path for path in files if path.suffix.lower() in PICTURES]
    texts = {path.with_suffix("") for path in files if path.suffix == ".txt"}
    if not texts & {path.with_suffix("") for path in pictures}:
        raise UserError(
            f"filter.path: {root} has neither {LISTINGS[0]} nor {LISTINGS[1]} nor a NAME.txt beside a picture, so its "
            'pictures have no captions; write one line a picture, as {"file_name": "cat.png", "text": "a cat"}'
        )
    for start in range(0, len(pictures), BATCH):
        some = pictures[start : start + BATCH]
        captions = [_beside(path.with_suffix(".txt")) for path in some]
        yield of_rows([path.relative_to(root).as_posix() for path in some], [{} for _ in some], {}, captions)
    lonely = sorted(texts - {path.with_suffix("") for path in pictures})
    yield faulty([f"{path.relative_to(root).as_posix()}.txt" for path in lonely], "caption without picture")


def _beside(path: Path) -> bytes | None:
    try:
        return read_bytes(path)
    except RejectedImage:
        return None
