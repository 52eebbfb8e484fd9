"""Pictures in a folder, with captions in `metadata.jsonl` or `metadata.csv`, or in a text beside each picture.

The listings are the convention of `datasets`' imagefolder: `file_name` and a caption, a line each. Without one every
picture NAME.jpg (or png, webp, …) has its caption in NAME.txt.
"""

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from prunella.errors import UserError
from prunella.samples.columns import NO_UTF8, canonical, faulty, found
from prunella.samples.pictures import Unfit, read_bytes

LISTINGS = ("metadata.jsonl", "metadata.csv")
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
NAMES = ("file_name", "file", "filename", "path", "image", "image_path")
OUTSIDE = "file outside filter.path"  # which DVC would not see change
BATCH = 65536


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
    if not rows and wrong:
        raise UserError(f'{listing}: no line is of the form {{"file_name": …, "text": …}}; {wrong[0][0]} is the first')
    for start in range(0, len(rows), BATCH):
        yield from _batch(rows[start : start + BATCH], source["columns"])
    for key, cause in wrong:
        yield faulty([key], cause)


def reader(source: dict):
    """Key → bytes. Raises Unfit for what cannot be read."""
    root = Path(source["path"])

    def fetch(key: str) -> bytes:
        path = root / key
        if not path.resolve().is_relative_to(root.resolve()):
            raise Unfit(OUTSIDE)
        return read_bytes(path)

    return fetch


def _batch(rows: list[dict], asked: dict[str, str]) -> Iterator[pa.Table]:
    names = list(dict.fromkeys(name for row in rows for name in row))
    spelt = found(names, asked) | ({} if "image" in asked else _named(names))
    image = spelt.pop("image")
    columns = {name: [row.get(name) for row in rows] for name in spelt.values()}
    raw = pa.table({name: _column(values) for name, values in columns.items()} or {"key": [""] * len(rows)})
    yield canonical(raw, spelt, pa.array([str(row.get(image)) for row in rows])).replace_schema_metadata(
        {"columns": ", ".join(names)}
    )


def _named(names: list[str]) -> dict[str, str]:
    """The column of file names, which in a folder's listing comes before one that may say something else."""
    return {"image": next(name for name in NAMES if name in names)}


def _column(values: list) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError):  # of several kinds: what is no text or list of texts is no caption
        return pa.array([value if isinstance(value, str | None) else str(value) for value in values])


def _json_rows(listing: Path) -> tuple[list[dict], list[tuple[str, str]]]:
    """The lines that name a picture, and (line, cause) of those that do not."""
    rows, wrong = [], []
    for number, line in enumerate(listing.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        where = f"{listing.name}, line {number}"
        try:
            row = json.loads(line.decode())
        except UnicodeDecodeError:
            wrong.append((where, NO_UTF8))
            continue
        except (ValueError, RecursionError):
            wrong.append((where, "line is no JSON"))
            continue
        if isinstance(row, dict) and any(isinstance(row.get(name), str) for name in NAMES):
            rows.append(row)
        else:
            wrong.append((where, "line without file_name"))
    return rows, wrong


def _csv_rows(listing: Path) -> tuple[list[dict], list[tuple[str, str]]]:
    csv.field_size_limit(sys.maxsize)
    rows, wrong = [], []
    with listing.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        for number, row in enumerate(csv.DictReader((line.replace("\0", " ") for line in file), strict=False), 2):
            row.pop(None, None)
            if not any(row.get(name) for name in NAMES):
                wrong.append((f"{listing.name}, row {number}", "line without file_name"))
            elif any(_surrogates(value) for value in row.values()):
                wrong.append((f"{listing.name}, row {number}", NO_UTF8))
            else:
                rows.append(row)
    return rows, wrong


def _surrogates(value: str | None) -> bool:
    return value is not None and any("\ud800" <= letter <= "\udfff" for letter in value)


def _texts_beside(root: Path) -> Iterator[pa.Table]:
    pictures = sorted(path for path in root.rglob("*") if path.suffix.lower() in PICTURES)
    if not any(path.with_suffix(".txt").is_file() for path in pictures):
        raise UserError(
            f"filter.path: {root} has neither {LISTINGS[0]} nor {LISTINGS[1]} nor a NAME.txt beside a picture, so its "
            'pictures have no captions; write one line a picture, as {"file_name": "cat.png", "text": "a cat"}'
        )
    for start in range(0, len(pictures), BATCH):
        some = pictures[start : start + BATCH]
        texts = [_beside(path.with_suffix(".txt")) for path in some]
        keys = pa.array([path.relative_to(root).as_posix() for path in some])
        yield canonical(pa.table({"text": pa.array(texts, pa.binary())}), {"text": "text"}, keys)


def _beside(path: Path) -> bytes | None:
    try:
        return read_bytes(path)
    except Unfit:
        return None
