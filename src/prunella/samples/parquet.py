"""Pairs in Parquet files: the picture's bytes in a column, as `datasets` stores it, or its path beside the file."""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from threading import Lock

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from prunella.errors import UserError
from prunella.samples.columns import WANTED, canonical, faulty, found
from prunella.samples.pictures import Unfit, read_bytes

BATCH = 131_072  # rows at a time
GROUPS = 3  # row groups kept in memory while their pictures are fetched


def files(path: Path) -> list[Path]:
    """The Parquet files of a file or folder, in order. Raises UserError where there is none."""
    listed = [path] if path.is_file() else sorted(path.rglob("*.parquet")) if path.is_dir() else []
    if not listed:
        raise UserError(f"filter.path: {path} is no Parquet file, nor a folder that holds one")
    return listed


def index(source: dict) -> Iterator[pa.Table]:
    """The rows, keyed FILE#ROW. A file without captions or pictures gives faults; UserError where none has both."""
    root, whole = Path(source["path"]), 0
    lacks, listed = [], files(root)
    for path in listed:
        name = _relative(path, root)
        try:
            file = pq.ParquetFile(path)
        except (OSError, pa.ArrowException):
            yield faulty([name], "damaged Parquet file")
            continue
        with file:
            names = found(file.schema_arrow.names, source["columns"] if len(listed) == 1 else {})
            names |= {ours: theirs for ours, theirs in source["columns"].items() if theirs in file.schema_arrow.names}
            missing = [column for column in ("image", "text") if column not in names]
            if missing:
                lacks.append((name, missing, names, file.schema_arrow.names))
                yield faulty([f"{name}#{row}" for row in range(file.metadata.num_rows)], f"no column {missing[0]}")
                continue
            whole += 1
            yield from _rows(file, name, {ours: theirs for ours, theirs in names.items() if ours in WANTED})
    if lacks and not whole:
        raise UserError(_lacking(*lacks[0]))


def urls(path: Path, asked: dict[str, str]) -> Iterator[tuple[pa.Table, pa.RecordBatch]]:
    """(rows, the same as they stand there) of a table whose pictures are only URLs, keyed by those."""
    for each in files(path):
        with pq.ParquetFile(each) as file:
            names = found(file.schema_arrow.names, asked)
            if missing := [column for column in ("url", "text") if column not in names]:
                raise UserError(f"{each}: no column for {missing[0]}; it has {', '.join(file.schema_arrow.names)}")
            wanted = {ours: theirs for ours, theirs in names.items() if ours in WANTED}
            for batch in file.iter_batches(BATCH):
                yield canonical(pa.Table.from_batches([batch]), wanted, batch.column(names["url"])), batch


def reader(source: dict):
    """Key → bytes. Raises Unfit for what cannot be read. The row groups last asked for stay in memory."""
    root, lock = Path(source["path"]), Lock()

    @lru_cache(maxsize=8)
    def opened(name: str) -> tuple[pq.ParquetFile, str, np.ndarray]:
        path = root if root.is_file() else root / name
        file = pq.ParquetFile(path, memory_map=True)
        names = found(file.schema_arrow.names, {}) | source["columns"]
        counts = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
        return file, names["image"], np.concatenate([[0], np.cumsum(counts)])

    @lru_cache(maxsize=GROUPS)
    def pictures(name: str, group: int) -> pa.ChunkedArray:
        file, column, _ = opened(name)
        return file.read_row_group(group, columns=[column]).column(0)

    def fetch(key: str) -> bytes:
        name, _, row = key.rpartition("#")
        try:
            with lock:
                starts = opened(name)[2]
                group = int(np.searchsorted(starts, int(row), side="right")) - 1
                value = pictures(name, group)[int(row) - int(starts[group])].as_py()
        except (OSError, pa.ArrowException, IndexError):
            raise Unfit("damaged Parquet file") from None
        return content(value, root if root.is_dir() else root.parent)

    return fetch


def content(value, root: Path) -> bytes:
    """The bytes of a picture's cell: bytes, a path below `root`, or `datasets`' {"bytes": …, "path": …}."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str) or not value:
        raise Unfit("no picture in the row")
    path = root / value
    if not path.resolve().is_relative_to(root.resolve()):
        raise Unfit("file outside filter.path")
    return read_bytes(path)


def _rows(file: pq.ParquetFile, name: str, names: dict[str, str]) -> Iterator[pa.Table]:
    start, schema = 0, {"columns": ", ".join(file.schema_arrow.names)}
    batches = file.iter_batches(BATCH, columns=list(names.values()))
    while True:
        try:
            batch = next(batches, None)
        except (OSError, pa.ArrowException):
            yield faulty([f"{name}#{start}"], "damaged Parquet file")
            return
        if batch is None:
            return
        rows = pa.array(np.arange(start, start + len(batch)))
        keys = pc.binary_join_element_wise(name, rows.cast(pa.string()), "#")
        yield canonical(pa.Table.from_batches([batch]), names, keys).replace_schema_metadata(schema)
        start += len(batch)


def _relative(path: Path, root: Path) -> str:
    return path.name if path == root else path.relative_to(root).as_posix()


def _lacking(name: str, missing: list[str], names: dict[str, str], there: list[str]) -> str:
    if missing == ["image"] and "url" in names:
        return (
            f"filter.path: {name} has only URLs ({names['url']!r}), no pictures; "
            "`prunella download` makes a webdataset of it, which filter.source webdataset reads"
        )
    return (
        f"filter.path: {name} has no column for the {' nor one for the '.join(missing)}; it has "
        f"{', '.join(there)}. filter.columns can name them, as {{{missing[0]}: NAME}}"
    )
