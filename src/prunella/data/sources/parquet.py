"""Pairs in Parquet files: the picture's bytes in a column, as `datasets` stores it, or its path beside the file."""

from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from threading import Lock

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from prunella.data.columns import TEXT, WANTED, canonical, faulty, found
from prunella.data.images import RejectedImage
from prunella.data.sources.folder import inside
from prunella.errors import UserError

BATCH = 131_072  # rows at a time
PICTURES = 32  # rows whose pictures are read at once
KEPT = 4  # such batches
DAMAGED = "damaged Parquet file"


def files(path: Path) -> list[Path]:
    """The Parquet files of a file or folder, in order. Raises UserError where there is none."""
    listed = [path] if path.is_file() else sorted(path.rglob("*.parquet")) if path.is_dir() else []
    listed = [each for each in listed if each.is_file()]
    if not listed:
        raise UserError(f"filter.path: {path} is no Parquet file, nor a folder that holds one")
    return listed


def index(source: dict) -> Iterator[pa.Table]:
    """The rows, keyed FILE#ROW. A file without captions or pictures gives faults; UserError where none has both."""
    root, whole, lacks = Path(source["path"]), 0, []
    for path in files(root):
        name = _relative(path, root)
        try:
            file = pq.ParquetFile(path)
        except (OSError, pa.ArrowException):
            yield faulty([name], DAMAGED)
            continue
        with file:
            columns, rows = file.schema_arrow.names, range(file.metadata.num_rows)
            names = found(columns, source["columns"])
            missing = [column for column in ("image", "text") if column not in names]
            if missing:
                lacks.append((name, missing, names, columns))
                yield faulty(_keys(name, rows), f"no column {missing[0]}")
            elif any(columns.count(theirs) > 1 for theirs in names.values()):
                yield faulty(_keys(name, rows), "two columns of one name")
            else:
                whole += 1
                yield from _rows(file, name, {ours: theirs for ours, theirs in names.items() if ours in WANTED})
    if lacks and not whole:
        raise UserError(_lacking(*lacks[0], source["columns"]))


def urls(path: Path, asked: dict[str, str]) -> Iterator[tuple[pa.Table, pa.RecordBatch]]:
    """(rows, the same as they stand there) of a table whose pictures are only URLs, keyed by those."""
    for each in files(path):
        with pq.ParquetFile(each) as file:
            columns = file.schema_arrow.names
            names = found(columns, asked)
            if missing := [column for column in ("url", "text") if column not in names]:
                raise UserError(f"{each}: no column for {missing[0]}; it has {', '.join(columns)}")
            wanted = {ours: theirs for ours, theirs in names.items() if ours in WANTED}
            for batch in file.iter_batches(BATCH):
                yield canonical(pa.Table.from_batches([batch]), wanted, batch.column(names["url"]), columns), batch


def reader(source: dict) -> Callable[[str], bytes]:
    """Key → bytes. Raises Unfit for what cannot be read.

    A few rows are read at a time, front to back, since a row group may hold more pictures than the memory.
    """
    root, lock = Path(source["path"]), Lock()

    @lru_cache(maxsize=8)
    def opened(name: str) -> tuple[pq.ParquetFile, str, np.ndarray]:
        file = pq.ParquetFile(root if root.is_file() else root / name, memory_map=True)
        groups = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
        return (
            file,
            found(file.schema_arrow.names, source["columns"])["image"],
            np.concatenate([[0], np.cumsum(groups)]),
        )

    @lru_cache(maxsize=2)
    def batches(name: str, group: int) -> list:
        """[number of the next batch, those that follow]"""
        file, column, _ = opened(name)
        return [0, file.iter_batches(PICTURES, row_groups=[group], columns=[column])]

    kept: dict[tuple, pa.Array] = {}

    def pictures(name: str, group: int, number: int) -> pa.Array:
        if (name, group, number) not in kept:
            if batches(name, group)[0] > number:  # it has gone by
                batches.cache_clear()
            state = batches(name, group)
            while state[0] <= number:
                kept[name, group, state[0]] = next(state[1]).column(0)
                state[0] += 1
                while len(kept) > KEPT:
                    kept.pop(next(iter(kept)))
        return kept[name, group, number]

    def fetch(key: str) -> bytes:
        name, _, row = key.rpartition("#")
        try:
            with lock:
                starts = opened(name)[2]
                group = int(np.searchsorted(starts, int(row), side="right")) - 1
                number, place = divmod(int(row) - int(starts[group]), PICTURES)
                value = pictures(name, group, number)[place].as_py()
        except (OSError, pa.ArrowException, IndexError, KeyError, ValueError, StopIteration):
            raise RejectedImage(DAMAGED) from None
        return content(value, lambda path: inside(root if root.is_dir() else root.parent, path))

    return fetch


def content(value, read: Callable[[str], bytes]) -> bytes:
    """The bytes of a picture's cell: bytes, a path to `read`, or `datasets`' {"bytes": …, "path": …}."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str) or not value:
        raise RejectedImage("no picture in the row")
    return read(value)


def _rows(file: pq.ParquetFile, name: str, names: dict[str, str]) -> Iterator[pa.Table]:
    """Row groups together, as far as they are sound; of a damaged one each row is a fault."""
    start, rows, groups = 0, 0, []
    for group in range(file.metadata.num_row_groups):
        groups.append(group)
        rows += file.metadata.row_group(group).num_rows
        if rows >= BATCH or group == file.metadata.num_row_groups - 1:
            yield from _read(file, name, names, groups, start)
            start, rows, groups = start + rows, 0, []


def _read(file: pq.ParquetFile, name: str, names: dict[str, str], groups: list[int], start: int) -> Iterator[pa.Table]:
    try:
        raw = file.read_row_groups(groups, columns=list(names.values()))
    except (OSError, pa.ArrowException):
        counts = [file.metadata.row_group(group).num_rows for group in groups]
        if len(groups) == 1:
            yield faulty(_keys(name, range(start, start + counts[0])), DAMAGED)
            return
        for group, count in zip(groups, counts, strict=True):
            yield from _read(file, name, names, [group], start)
            start += count
        return
    for first in range(0, len(raw), BATCH):
        some = raw.slice(first, BATCH)
        rows = pa.array(np.arange(start + first, start + first + len(some))).cast(TEXT)
        keys = pc.binary_join_element_wise(pa.scalar(name, TEXT), rows, pa.scalar("#", TEXT))
        yield canonical(some, names, keys, file.schema_arrow.names)


def _keys(name: str, rows: range) -> list[str]:
    return [f"{name}#{row}" for row in rows]


def _relative(path: Path, root: Path) -> str:
    return path.name if path == root else path.relative_to(root).as_posix()


def _lacking(name: str, missing: list[str], names: dict[str, str], there: list[str], asked: dict[str, str]) -> str:
    if missing == ["image"] and "url" in names:
        return (
            f"filter.path: {name} has only URLs ({names['url']!r}), no pictures; "
            "`prunella download` makes a webdataset of it, which filter.source webdataset reads"
        )
    if wrong := next((ours for ours in missing if ours in asked), None):
        return f"filter.columns.{wrong}: the data have no column {asked[wrong]!r}; they have {', '.join(there)}"
    return (
        f"filter.path: {name} has no column for the {' nor one for the '.join(missing)}; it has "
        f"{', '.join(there)}. filter.columns can name them, as {{{missing[0]}: NAME}}"
    )
