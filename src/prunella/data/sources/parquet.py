"""Pairs in Parquet files: the picture's bytes in a column, as `datasets` stores it, or its path beside the file.

A small file can unpack to any size. Therefore rows are limited by the file's bytes, few are read at once where they are
long, and a column whose rows share a few long entries is read as a dictionary: an entry is then judged once, not
multiplied.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import cached_property, lru_cache
from itertools import pairwise
from threading import Lock

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from prunella.data.images import RejectedImage, is_system_error, raise_system_errors
from prunella.data.schema import (
    TABLE_COLUMNS,
    TEXT_TYPE,
    combine_chunks,
    count_caption_bytes,
    is_list_type,
    make_fault_rows,
    match_columns,
    normalize_captions,
    normalize_table,
)
from prunella.data.sources.base import Source
from prunella.data.sources.folder import read_below_root
from prunella.data.sources.footers import footer_copy, footer_is_safe
from prunella.errors import UserError
from prunella.storage.remote import READ_AHEAD, PathOrRemote, RemotePath, parse_location, relative_name, rglob_sorted

BATCH = 131_072  # rows at a time
DELTA_BATCH = 1024  # rows at a time of columns that cannot be read as dictionaries
MAX_EXPANSION = 64  # times its stored size that a column of captions may take when it is written out
PIECE_BYTES = 64 << 20  # bytes of rows, or of lists of captions, at a time
MAX_ROWS_PER_BYTE = 8  # for each byte of a file: rows that differ take more than a bit each
IMAGES_PER_READ = 32  # rows whose pictures are read at once
CACHED_BATCHES = 4  # such batches
READ_BUFFER = 1 << 20  # bytes read from a file at once; a memory map would end the process where the disk fails
DAMAGED, TOO_MANY_ROWS = "damaged Parquet file", "more rows than a file of its size can hold"
NOT_HTTP = "address that is neither http nor https"


class Parquet(Source):
    """Keys are FILE#ROW."""

    def __init__(self, source: dict):
        self.root, self.columns = parse_location(source["path"]), source["columns"]
        self._read_cell = _make_cell_reader(self.root, self.columns)

    def iter_rows(self) -> Iterator[pa.Table]:
        """A file without captions or pictures gives faults; UserError where every file lacks one of them."""
        num_usable, incomplete = 0, []
        for path in list_parquet_files(self.root):
            name = relative_name(self.root, path)
            with raise_system_errors(str(path)):
                try:
                    file = _open_parquet(path)
                except RejectedImage as rejection:
                    yield make_fault_rows([name], rejection.cause)
                    continue
                with file:
                    columns, rows = file.schema_arrow.names, range(file.metadata.num_rows)
                    names = match_columns(columns, self.columns)
                    missing = [column for column in ("image", "text") if column not in names]
                    if missing:
                        incomplete.append((name, missing, names, columns))
                        yield from _iter_fault_rows(name, rows, f"no column {missing[0]}")
                    elif any(columns.count(data_column) > 1 for data_column in names.values()):
                        yield from _iter_fault_rows(name, rows, "two columns of one name")
                    else:
                        num_usable += 1
                        yield from _iter_file_rows(
                            file,
                            name,
                            {
                                our_column: data_column
                                for our_column, data_column in names.items()
                                if our_column in TABLE_COLUMNS
                            },
                        )
        if incomplete and not num_usable:
            raise UserError(_format_missing_columns(*incomplete[0], self.columns))

    def read_image_bytes(self, key: str) -> bytes:
        return read_cell_bytes(self._read_cell(key), lambda path: read_below_root(self._files_root, path))

    @cached_property
    def _files_root(self) -> PathOrRemote:
        return self.root if self.root.is_dir() else self.root.parent


def list_parquet_files(path: PathOrRemote, key: str = "filter.path") -> list[PathOrRemote]:
    """The Parquet files of a file or folder, in order. Raises UserError, which names `key`, where there is none."""
    paths = [path] if path.is_file() else rglob_sorted(path, "*.parquet") if path.is_dir() else []
    paths = [file for file in paths if file.is_file()]
    if not paths:
        raise UserError(f"{key}: {path} is no Parquet file, nor a folder that holds one")
    return paths


def iter_url_rows(path: PathOrRemote, overrides: dict[str, str]) -> Iterator[tuple[pa.Table, pa.Table, pa.Schema]]:
    """(rows keyed by URL, the table's own rows, its schema) of a table that has URLs instead of pictures.

    A URL that is neither http nor https is a fault. Raises UserError where a file is no such table.
    """
    for file_path in list_parquet_files(path, "table"):
        with raise_system_errors(str(file_path)):
            try:
                file = _open_parquet(file_path)
            except RejectedImage as rejection:
                raise UserError(f"{file_path}: {rejection.cause}; a table of URLs is expected") from None
            with file:
                columns = file.schema_arrow.names
                names = match_columns(columns, overrides)
                if missing := [column for column in ("url", "text") if column not in names]:
                    raise UserError(f"{file_path}: no column for {missing[0]}; it has {', '.join(columns)}")
                column_map = {
                    our_column: data_column for our_column, data_column in names.items() if our_column in TABLE_COLUMNS
                }
                for raw in _iter_tables(file, range(file.metadata.num_row_groups), None, column_map["text"]):
                    keys, _ = normalize_captions(combine_chunks(raw.column(names["url"])))
                    keys = pc.fill_null(keys.cast(TEXT_TYPE), "")
                    rows = normalize_table(raw, column_map, keys, columns)
                    is_http = pc.match_substring_regex(keys, r"^(?i:https?)://[^\s/?#]")
                    faults = pc.coalesce(rows["fault"], pc.if_else(is_http, pa.scalar(None, pa.string()), NOT_HTTP))
                    yield rows.set_column(rows.column_names.index("fault"), "fault", faults), raw, file.plain_schema


class _ParquetReader(pq.ParquetFile):  # type: ignore[misc]  # pyarrow has no types
    """A Parquet file whose texts are read as dictionaries, but for the column `written_out`.

    `plain_schema` is its schema.
    """

    def __init__(
        self, path: PathOrRemote, metadata: pq.FileMetaData, plain_schema: pa.Schema, plain_column: str | None = None
    ):
        text_leaves = [leaf for leaf in _find_dictionary_columns(metadata) if leaf.split(".")[0] != plain_column]
        file, size = (path.open_raw(), READ_AHEAD) if isinstance(path, RemotePath) else (path, READ_BUFFER)
        super().__init__(file, metadata=metadata, read_dictionary=text_leaves, buffer_size=size, pre_buffer=False)
        self.path, self.plain_schema = path, plain_schema

    def with_plain_column(self, column: str) -> "_ParquetReader":
        """The same file, with one column as it is rather than as a dictionary."""
        return _ParquetReader(self.path, self.metadata, self.plain_schema, column)


def _open_parquet(path: PathOrRemote) -> _ParquetReader:
    """Raises RejectedImage for what is no Parquet file, or one that must not be read."""
    with footer_copy(path) as file:
        if not footer_is_safe(file):
            raise RejectedImage(DAMAGED)
        try:
            with pq.ParquetFile(file) as probe:
                metadata, plain_schema = probe.metadata, probe.schema_arrow
                _check_row_counts(metadata, file.stat().st_size)
                return _ParquetReader(path, metadata, plain_schema)
        except RejectedImage:
            raise
        except Exception as error:  # of damaged files Arrow raises many kinds
            if is_system_error(error):
                raise
            raise RejectedImage(DAMAGED) from None


def _check_row_counts(metadata: pq.FileMetaData, size: int) -> None:
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    counts = [metadata.num_rows, *(group.num_rows for group in groups)]
    values = [group.column(i).num_values for group in groups for i in range(group.num_columns)]
    if min(counts) < 0:
        raise RejectedImage(DAMAGED)
    if max(metadata.num_rows, sum(counts[1:]), *values, 0) > MAX_ROWS_PER_BYTE * size:
        raise RejectedImage(TOO_MANY_ROWS)


def _find_dictionary_columns(metadata: pq.FileMetaData) -> list[str]:
    """Columns of text or bytes that Arrow can read as dictionaries."""
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    chunks = [group.column(i) for group in groups for i in range(group.num_columns)]
    delta_paths = {chunk.path_in_schema for chunk in chunks if _is_delta_encoded(chunk)}
    leaves = [metadata.schema.column(i) for i in range(len(metadata.schema))]
    return [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY" and leaf.path not in delta_paths]


def _iter_tables(
    file: _ParquetReader, groups: Sequence[int], columns: list[str] | None, text_column: str
) -> Iterator[pa.Table]:
    """Rows of several row groups in tables of about BATCH rows or PIECE bytes at most.

    `text_column` names the captions.
    """
    longest = [_longest_entry(file, group, text_column) for group in groups]
    group_metadata = [file.metadata.row_group(group) for group in groups]
    use_dictionary = any(
        _expands_too_much(group, text_column, entry_bytes)
        for group, entry_bytes in zip(group_metadata, longest, strict=True)
    )
    batch_rows = _rows_per_read(file.metadata, groups, 0 if use_dictionary else max(longest, default=0))
    with nullcontext(file) if use_dictionary else file.with_plain_column(text_column) as reader:
        pending: list[pa.RecordBatch] = []
        rows = size = 0
        for batch in reader.iter_batches(batch_rows, row_groups=list(groups), columns=columns):
            pending, rows, size = [*pending, batch], rows + len(batch), size + batch.nbytes
            if rows >= BATCH or size >= PIECE_BYTES:
                yield from _split_by_caption_bytes(pa.Table.from_batches(pending), text_column)
                pending, rows, size = [], 0, 0
        if pending:
            yield from _split_by_caption_bytes(pa.Table.from_batches(pending), text_column)


def _longest_entry(file: _ParquetReader, group: int, text_column: str) -> int:
    """Bytes of the longest entry in the dictionary of the column `text_column`; 0 where it has none."""
    for batch in file.iter_batches(1, row_groups=[group], columns=[text_column]):  # the dictionary comes whole
        column = batch.column(0)
        while is_list_type(column.type):
            column = column.flatten()
        if pa.types.is_dictionary(column.type):
            return pc.max(pc.binary_length(column.dictionary)).as_py() or 0
    return 0


def _expands_too_much(group: pq.RowGroupMetaData, text_column: str, longest: int) -> bool:
    """Whether the column `text_column` might take more than SHARED times its stored size, and more than PIECE."""
    chunks = [group.column(i) for i in range(group.num_columns)]
    chunks = [chunk for chunk in chunks if chunk.path_in_schema.split(".")[0] == text_column]
    stored, values = (
        sum(getattr(chunk, name) for chunk in chunks) for name in ("total_uncompressed_size", "num_values")
    )
    return longest * values > max(PIECE_BYTES, MAX_EXPANSION * stored)


def _rows_per_read(metadata: pq.FileMetaData, groups: Sequence[int], entry: int) -> int:
    """Rows to read at once, so that their texts take about PIECE bytes at most; `entry` bytes each if not shared."""
    max_rows, longest = BATCH, float(entry)
    for group in map(metadata.row_group, groups):
        chunks = [group.column(i) for i in range(group.num_columns)]
        chunks = [chunk for chunk in chunks if chunk.physical_type == "BYTE_ARRAY"]
        size = sum(chunk.total_uncompressed_size for chunk in chunks)
        longest = max(longest, size / max(1, group.num_rows))
        if any(map(_is_delta_encoded, chunks)):
            max_rows = DELTA_BATCH
    return max(1, min(max_rows, int(PIECE_BYTES / max(1.0, longest))))


def _is_delta_encoded(chunk: pq.ColumnChunkMetaData) -> bool:
    """Whether a column is stored as differences, which Arrow cannot read as a dictionary."""
    return any(encoding.startswith("DELTA") for encoding in chunk.encodings)


def _split_by_caption_bytes(raw: pa.Table, text_column: str) -> Iterator[pa.Table]:
    """Parts of a table whose lists of captions take about PIECE bytes when they are written out."""
    ends = np.cumsum(count_caption_bytes(combine_chunks(raw.column(text_column)))) // PIECE_BYTES
    edges = [0, *(np.flatnonzero(np.diff(ends)) + 1).tolist(), len(raw)]
    for start, end in pairwise(edges):
        yield raw.slice(start, end - start)


def _make_cell_reader(root: PathOrRemote, columns: dict[str, str]) -> Callable[[str], object]:
    """From a key to the picture's cell. Raises RejectedImage where it cannot be read.

    A few rows are read at a time, front to back, since a row group may hold more pictures than the memory.
    """
    lock = Lock()

    @lru_cache(maxsize=8)
    def open_indexed(name: str) -> tuple[pq.ParquetFile, str, np.ndarray]:
        file = _open_parquet(root if root.is_file() else root / name)
        groups = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
        return file, match_columns(file.schema_arrow.names, columns)["image"], np.concatenate([[0], np.cumsum(groups)])

    @lru_cache(maxsize=2)
    def iter_row_group(name: str, group: int) -> list:
        """[number of the next batch, those that follow]"""
        file, column, _ = open_indexed(name)
        return [0, file.iter_batches(IMAGES_PER_READ, row_groups=[group], columns=[column])]

    cache: dict[tuple, pa.Array] = {}

    def read_batch(name: str, group: int, number: int) -> pa.Array:
        if (name, group, number) not in cache:
            if iter_row_group(name, group)[0] > number:  # it has gone by
                iter_row_group.cache_clear()
            state = iter_row_group(name, group)
            while state[0] <= number:
                cache[name, group, state[0]] = next(state[1]).column(0)
                state[0] += 1
                while len(cache) > CACHED_BATCHES:
                    cache.pop(next(iter(cache)))
        return cache[name, group, number]

    def read_cell(key: str) -> object:
        name, _, row = key.rpartition("#")
        try:
            with lock:
                starts = open_indexed(name)[2]
                group = int(np.searchsorted(starts, int(row), side="right")) - 1
                number, index = divmod(int(row) - int(starts[group]), IMAGES_PER_READ)
                return read_batch(name, group, number)[index].as_py()
        except Exception as error:  # of damaged files Arrow raises many kinds
            if is_system_error(error):
                raise
            raise RejectedImage(DAMAGED) from None

    return read_cell


def read_cell_bytes(value: object, read_file: Callable[[str], bytes]) -> bytes:
    """The bytes of a picture's cell: bytes, a path to `read_file`, or `datasets`' {"bytes": …, "path": …}."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str) or not value:
        raise RejectedImage("no picture in the row")
    return read_file(value)


def _iter_file_rows(file: _ParquetReader, name: str, names: dict[str, str]) -> Iterator[pa.Table]:
    """Row groups together where they are small. For a damaged one, the rows not yet read are faults."""
    groups: list[int] = []
    start = rows = 0
    for group in range(file.metadata.num_row_groups):
        num_rows = file.metadata.row_group(group).num_rows
        if groups and rows + num_rows > BATCH:
            yield from _read_row_groups(file, name, names, groups, start)
            start, rows, groups = start + rows, 0, []
        groups, rows = [*groups, group], rows + num_rows
    if groups:
        yield from _read_row_groups(file, name, names, groups, start)


def _read_row_groups(
    file: _ParquetReader, name: str, names: dict[str, str], groups: list[int], start: int
) -> Iterator[pa.Table]:
    counts, num_done = [file.metadata.row_group(group).num_rows for group in groups], 0
    try:
        tables = _iter_tables(file, groups, list(names.values()), names["text"])
        for table in tables if len(groups) == 1 else list(tables):  # all of several, or none
            numbers = pa.array(np.arange(start + num_done, start + num_done + len(table))).cast(TEXT_TYPE)
            keys = pc.binary_join_element_wise(pa.scalar(name, TEXT_TYPE), numbers, pa.scalar("#", TEXT_TYPE))
            yield normalize_table(table, names, keys, file.schema_arrow.names)
            num_done += len(table)
    except Exception as error:  # of damaged files Arrow raises many kinds
        if is_system_error(error):
            raise
        if len(groups) == 1:
            yield from _iter_fault_rows(name, range(start + num_done, start + sum(counts)), DAMAGED)
            return
        for group, count in zip(groups, counts, strict=True):
            yield from _read_row_groups(file, name, names, [group], start)
            start += count


def _iter_fault_rows(name: str, rows: range, cause: str) -> Iterator[pa.Table]:
    for start in range(rows.start, rows.stop, BATCH):
        yield make_fault_rows([f"{name}#{row}" for row in range(start, min(start + BATCH, rows.stop))], cause)


def _format_missing_columns(
    name: str, missing: list[str], names: dict[str, str], column_names: list[str], overrides: dict[str, str]
) -> str:
    if missing == ["image"] and "url" in names:
        return (
            f"filter.path: {name} has only URLs ({names['url']!r}), no pictures; "
            "`prunella download` makes a webdataset of it, which filter.source webdataset reads"
        )
    if misnamed := next((our_column for our_column in missing if our_column in overrides), None):
        return (
            f"filter.columns.{misnamed}: the data have no column {overrides[misnamed]!r}; they have "
            f"{', '.join(column_names)}"
        )
    return (
        f"filter.path: {name} has no column for the {' nor one for the '.join(missing)}; it has "
        f"{', '.join(column_names)}. filter.columns can name them, as {{{missing[0]}: NAME}}"
    )
