"""Pairs in Parquet files: the picture's bytes in a column, as `datasets` stores it, or its path beside the file.

A small file can unpack to any size. So rows are limited by the file's bytes, few are read at once where they are long,
and a column whose rows share a few long entries is read as a dictionary: an entry is then judged once, not multiplied.
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

from prunella.data.images import RejectedImage, machine_faults, of_the_machine
from prunella.data.schema import TEXT, WANTED, as_captions, canonical, caption_bytes, faulty, found, is_list, whole
from prunella.data.sources.base import Source
from prunella.data.sources.folder import inside
from prunella.data.sources.footers import survivable, with_footer
from prunella.errors import UserError
from prunella.storage.remote import AHEAD, Place, Remote, below, found_below, place

BATCH = 131_072  # rows at a time
FEW = 1024  # rows at a time of columns that cannot be read as dictionaries
SHARED = 64  # times its stored size that a column of captions may take when it is written out
PIECE = 64 << 20  # bytes of rows, or of lists of captions, at a time
MOST_ROWS = 8  # for each byte of a file: rows that differ take more than a bit each
PICTURES = 32  # rows whose pictures are read at once
KEPT = 4  # such batches
BUFFER = 1 << 20  # bytes read from a file at once; a memory map would end the process where the disk fails
DAMAGED, TOO_MANY = "damaged Parquet file", "more rows than a file of its size can hold"
NO_ADDRESS = "address that is neither http nor https"


class Parquet(Source):
    """Keys are FILE#ROW."""

    def __init__(self, source: dict):
        self.root, self.columns = place(source["path"]), source["columns"]
        self._cell = _cells(self.root, self.columns)

    def rows(self) -> Iterator[pa.Table]:
        """A file without captions or pictures gives faults; UserError where every file lacks one of them."""
        sound, lacks = 0, []
        for path in files(self.root):
            name = below(self.root, path)
            with machine_faults(str(path)):
                try:
                    file = _opened(path)
                except RejectedImage as rejected:
                    yield faulty([name], rejected.cause)
                    continue
                with file:
                    columns, rows = file.schema_arrow.names, range(file.metadata.num_rows)
                    names = found(columns, self.columns)
                    missing = [column for column in ("image", "text") if column not in names]
                    if missing:
                        lacks.append((name, missing, names, columns))
                        yield from _faulty(name, rows, f"no column {missing[0]}")
                    elif any(columns.count(theirs) > 1 for theirs in names.values()):
                        yield from _faulty(name, rows, "two columns of one name")
                    else:
                        sound += 1
                        yield from _rows(file, name, {ours: theirs for ours, theirs in names.items() if ours in WANTED})
        if lacks and not sound:
            raise UserError(_lacking(*lacks[0], self.columns))

    def read(self, key: str) -> bytes:
        return content(self._cell(key), lambda path: inside(self._folder, path))

    @cached_property
    def _folder(self) -> Place:
        return self.root if self.root.is_dir() else self.root.parent


def files(path: Place, key: str = "filter.path") -> list[Place]:
    """The Parquet files of a file or folder, in order. Raises UserError, which names `key`, where there is none."""
    listed = [path] if path.is_file() else found_below(path, "*.parquet") if path.is_dir() else []
    listed = [each for each in listed if each.is_file()]
    if not listed:
        raise UserError(f"{key}: {path} is no Parquet file, nor a folder that holds one")
    return listed


def urls(path: Place, asked: dict[str, str]) -> Iterator[tuple[pa.Table, pa.Table, pa.Schema]]:
    """(rows keyed by URL, the table's own rows, its schema) of a table that has URLs instead of pictures.

    A URL that is neither http nor https is a fault. Raises UserError where a file is no such table.
    """
    for each in files(path, "table"):
        with machine_faults(str(each)):
            try:
                file = _opened(each)
            except RejectedImage as rejected:
                raise UserError(f"{each}: {rejected.cause}; a table of URLs is expected") from None
            with file:
                columns = file.schema_arrow.names
                names = found(columns, asked)
                if missing := [column for column in ("url", "text") if column not in names]:
                    raise UserError(f"{each}: no column for {missing[0]}; it has {', '.join(columns)}")
                wanted = {ours: theirs for ours, theirs in names.items() if ours in WANTED}
                for raw in _gathered(file, range(file.metadata.num_row_groups), None, wanted["text"]):
                    keys, _ = as_captions(whole(raw.column(names["url"])))
                    keys = pc.fill_null(keys.cast(TEXT), "")
                    rows = canonical(raw, wanted, keys, columns)
                    web = pc.match_substring_regex(keys, r"^(?i:https?)://[^\s/?#]")
                    faults = pc.coalesce(rows["fault"], pc.if_else(web, pa.scalar(None, pa.string()), NO_ADDRESS))
                    yield rows.set_column(rows.column_names.index("fault"), "fault", faults), raw, file.plain


class _File(pq.ParquetFile):  # type: ignore[misc]  # pyarrow has no types
    """A Parquet file whose texts are read as dictionaries, but for the column `written_out`. `plain` is its schema."""

    def __init__(self, path: Place, known: pq.FileMetaData, plain: pa.Schema, written_out: str | None = None):
        texts = [leaf for leaf in _texts_in(known) if leaf.split(".")[0] != written_out]
        file, size = (path.raw(), AHEAD) if isinstance(path, Remote) else (path, BUFFER)
        super().__init__(file, metadata=known, read_dictionary=texts, buffer_size=size, pre_buffer=False)
        self.path, self.plain = path, plain

    def writing_out(self, column: str) -> "_File":
        """The same file, with one column as it is rather than as a dictionary."""
        return _File(self.path, self.metadata, self.plain, column)


def _opened(path: Place) -> _File:
    """Raises RejectedImage for what is no Parquet file, or one that must not be read."""
    with with_footer(path) as file:
        if not survivable(file):
            raise RejectedImage(DAMAGED)
        try:
            with pq.ParquetFile(file) as first:
                known, plain = first.metadata, first.schema_arrow
                _limited(known, file.stat().st_size)
                return _File(path, known, plain)
        except RejectedImage:
            raise
        except Exception as error:  # of damaged files Arrow raises many kinds
            if of_the_machine(error):
                raise
            raise RejectedImage(DAMAGED) from None


def _limited(known: pq.FileMetaData, size: int) -> None:
    groups = [known.row_group(i) for i in range(known.num_row_groups)]
    counts = [known.num_rows, *(group.num_rows for group in groups)]
    values = [group.column(i).num_values for group in groups for i in range(group.num_columns)]
    if min(counts) < 0:
        raise RejectedImage(DAMAGED)
    if max(known.num_rows, sum(counts[1:]), *values, 0) > MOST_ROWS * size:
        raise RejectedImage(TOO_MANY)


def _texts_in(known: pq.FileMetaData) -> list[str]:
    """Columns of text or bytes that Arrow can read as dictionaries."""
    groups = [known.row_group(i) for i in range(known.num_row_groups)]
    chunks = [group.column(i) for group in groups for i in range(group.num_columns)]
    delta = {chunk.path_in_schema for chunk in chunks if _delta(chunk)}
    leaves = [known.schema.column(i) for i in range(len(known.schema))]
    return [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY" and leaf.path not in delta]


def _gathered(file: _File, groups: Sequence[int], columns: list[str] | None, text: str) -> Iterator[pa.Table]:
    """Rows of several row groups in tables of about BATCH rows or PIECE bytes at most; `text` names the captions."""
    longest = [_longest(file, group, text) for group in groups]
    known = [file.metadata.row_group(group) for group in groups]
    shared = any(_shared(group, text, each) for group, each in zip(known, longest, strict=True))
    count = _at_once(file.metadata, groups, 0 if shared else max(longest, default=0))
    with nullcontext(file) if shared else file.writing_out(text) as reader:
        held: list[pa.RecordBatch] = []
        rows = size = 0
        for batch in reader.iter_batches(count, row_groups=list(groups), columns=columns):
            held, rows, size = [*held, batch], rows + len(batch), size + batch.nbytes
            if rows >= BATCH or size >= PIECE:
                yield from _pieces(pa.Table.from_batches(held), text)
                held, rows, size = [], 0, 0
        if held:
            yield from _pieces(pa.Table.from_batches(held), text)


def _longest(file: _File, group: int, text: str) -> int:
    """Bytes of the longest entry in the dictionary of the column `text`; 0 where it has none."""
    for batch in file.iter_batches(1, row_groups=[group], columns=[text]):  # the dictionary comes whole
        column = batch.column(0)
        while is_list(column.type):
            column = column.flatten()
        if pa.types.is_dictionary(column.type):
            return pc.max(pc.binary_length(column.dictionary)).as_py() or 0
    return 0


def _shared(group: pq.RowGroupMetaData, text: str, longest: int) -> bool:
    """Whether the column `text` might take more than SHARED times its stored size, and more than PIECE."""
    chunks = [group.column(i) for i in range(group.num_columns)]
    chunks = [chunk for chunk in chunks if chunk.path_in_schema.split(".")[0] == text]
    stored, values = (
        sum(getattr(chunk, name) for chunk in chunks) for name in ("total_uncompressed_size", "num_values")
    )
    return longest * values > max(PIECE, SHARED * stored)


def _at_once(known: pq.FileMetaData, groups: Sequence[int], entry: int) -> int:
    """Rows to read at once, so that their texts take about PIECE bytes at most; `entry` bytes each if not shared."""
    most, longest = BATCH, float(entry)
    for group in map(known.row_group, groups):
        chunks = [group.column(i) for i in range(group.num_columns)]
        chunks = [chunk for chunk in chunks if chunk.physical_type == "BYTE_ARRAY"]
        size = sum(chunk.total_uncompressed_size for chunk in chunks)
        longest = max(longest, size / max(1, group.num_rows))
        if any(map(_delta, chunks)):
            most = FEW
    return max(1, min(most, int(PIECE / max(1.0, longest))))


def _delta(chunk: pq.ColumnChunkMetaData) -> bool:
    """Whether a column is stored as differences, which Arrow cannot read as a dictionary."""
    return any(encoding.startswith("DELTA") for encoding in chunk.encodings)


def _pieces(raw: pa.Table, text: str) -> Iterator[pa.Table]:
    """Parts of a table whose lists of captions take about PIECE bytes when they are written out."""
    ends = np.cumsum(caption_bytes(whole(raw.column(text)))) // PIECE
    edges = [0, *(np.flatnonzero(np.diff(ends)) + 1).tolist(), len(raw)]
    for start, end in pairwise(edges):
        yield raw.slice(start, end - start)


def _cells(root: Place, columns: dict[str, str]) -> Callable[[str], object]:
    """From a key to the picture's cell. Raises RejectedImage where it cannot be read.

    A few rows are read at a time, front to back, since a row group may hold more pictures than the memory.
    """
    lock = Lock()

    @lru_cache(maxsize=8)
    def opened(name: str) -> tuple[pq.ParquetFile, str, np.ndarray]:
        file = _opened(root if root.is_file() else root / name)
        groups = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
        return file, found(file.schema_arrow.names, columns)["image"], np.concatenate([[0], np.cumsum(groups)])

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

    def cell(key: str) -> object:
        name, _, row = key.rpartition("#")
        try:
            with lock:
                starts = opened(name)[2]
                group = int(np.searchsorted(starts, int(row), side="right")) - 1
                number, place = divmod(int(row) - int(starts[group]), PICTURES)
                return pictures(name, group, number)[place].as_py()
        except Exception as error:  # of damaged files Arrow raises many kinds
            if of_the_machine(error):
                raise
            raise RejectedImage(DAMAGED) from None

    return cell


def content(value: object, read: Callable[[str], bytes]) -> bytes:
    """The bytes of a picture's cell: bytes, a path to `read`, or `datasets`' {"bytes": …, "path": …}."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str) or not value:
        raise RejectedImage("no picture in the row")
    return read(value)


def _rows(file: _File, name: str, names: dict[str, str]) -> Iterator[pa.Table]:
    """Row groups together where they are small. Of a damaged one the rows not yet read are faults."""
    groups: list[int] = []
    start = rows = 0
    for group in range(file.metadata.num_row_groups):
        more = file.metadata.row_group(group).num_rows
        if groups and rows + more > BATCH:
            yield from _read(file, name, names, groups, start)
            start, rows, groups = start + rows, 0, []
        groups, rows = [*groups, group], rows + more
    if groups:
        yield from _read(file, name, names, groups, start)


def _read(file: _File, name: str, names: dict[str, str], groups: list[int], start: int) -> Iterator[pa.Table]:
    counts, done = [file.metadata.row_group(group).num_rows for group in groups], 0
    try:
        tables = _gathered(file, groups, list(names.values()), names["text"])
        for some in tables if len(groups) == 1 else list(tables):  # all of several, or none
            numbers = pa.array(np.arange(start + done, start + done + len(some))).cast(TEXT)
            keys = pc.binary_join_element_wise(pa.scalar(name, TEXT), numbers, pa.scalar("#", TEXT))
            yield canonical(some, names, keys, file.schema_arrow.names)
            done += len(some)
    except Exception as error:  # of damaged files Arrow raises many kinds
        if of_the_machine(error):
            raise
        if len(groups) == 1:
            yield from _faulty(name, range(start + done, start + sum(counts)), DAMAGED)
            return
        for group, count in zip(groups, counts, strict=True):
            yield from _read(file, name, names, [group], start)
            start += count


def _faulty(name: str, rows: range, cause: str) -> Iterator[pa.Table]:
    for start in range(rows.start, rows.stop, BATCH):
        yield faulty([f"{name}#{row}" for row in range(start, min(start + BATCH, rows.stop))], cause)


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
