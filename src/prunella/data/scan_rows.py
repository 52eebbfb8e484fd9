"""Scanning rows: the table's criteria, applied to all of them.

A source whose rows cost something, as tars do, has pieces, each scanned by a task that leaves a file of the rows that
pass and of what was counted. They are put together in order, as if all had been read at once.
"""

import json
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from tqdm import tqdm

from prunella.data.criteria import PASSED, judged, lacking
from prunella.data.rejections import Tally
from prunella.data.schema import TEXT, TEXTS, there
from prunella.data.sources import open_source
from prunella.data.sources.base import Source
from prunella.data.task_files import by_cluster, content, done, keep
from prunella.errors import UserError
from prunella.params import Filter, Runtime

NONE = pa.table({"key": pa.array([], TEXT), "text": pa.array([], TEXT)})


class Scan(NamedTuple):
    """What rows of a source gave."""

    passed: pa.Table  # "key", "text" and, of rendered sources, sizes
    read: int  # rows
    columns: list[str]  # under our names
    names: list[str]  # of the data's own columns
    tally: Tally


class Piece(NamedTuple):
    """A piece of a source, to be scanned."""

    number: int
    of: str

    @property
    def name(self) -> str:
        return f"rows-{self.number:05d}"


def candidates(
    known: dict, params: Filter, tally: Tally, work: Path | None = None, cluster: Runtime | None = None
) -> tuple[pa.Table, int]:
    """The rows ("key", "text" and, where true, sizes) of a source that pass the table's criteria, and how many it has.

    What pieces of a source gave is kept in the folder `work`. With `cluster` the Ray cluster scans them.
    """
    source = open_source(known)
    with tqdm(desc="filter: rows", unit="row", unit_scale=True, mininterval=1.0) as bar:
        scan = _together(_counting(_scans(known, source, params, work, cluster), bar))
    if not scan.read:
        raise UserError(f"there is no pair at all in {params.path}")
    lacking(params, set(scan.columns), scan.names)
    tally.join(scan.tally)
    return scan.passed.combine_chunks(), scan.read


def _scans(known: dict, source: Source, params: Filter, work: Path | None, cluster: Runtime | None) -> Iterator[Scan]:
    """Of each piece in order; of a source without pieces that of each batch of rows."""
    every = pieces(source) if work else []
    if not work or not every:
        rows = _first(source.rows(), params.samples) if source.rendered else source.rows()
        yield from (_scan(batch, params, source.rendered) for batch in rows)
        return
    there = done(every, work)
    if there:
        tqdm.write(f"filter: {len(there):,} of {len(every):,} files were scanned before ({work})")
    begin = partial(Scanner, known, params, work)
    scanned: Iterator[Piece]
    if cluster and len(every) - len(there) > 1:  # one alone is scanned before workers have started
        scanned = by_cluster(begin, every, there, cluster, work, named="file")
    else:
        scanned = _here(begin(), every, there)
    for piece in scanned:
        yield _read(work, piece)


def _here(scanner: "Scanner", every: list[Piece], there: set[str]) -> Iterator[Piece]:
    """The pieces, each once it is scanned."""
    for piece in every:
        if piece.name not in there:
            scanner(piece)
        yield piece


def pieces(source: Source) -> list[Piece]:
    """The tasks of a source whose rows are scanned in pieces."""
    return [Piece(number, name) for number, name in enumerate(source.pieces())]


class Scanner:
    """Scans a piece at a time, and keeps what it gave."""

    def __init__(self, known: dict, params: Filter, work: Path):
        self.source, self.params, self.work = open_source(known), params, work

    def __call__(self, piece: Piece) -> None:
        scan = _together(_scan(batch, self.params, False) for batch in self.source.rows_of(piece.of))
        keep(self.work, piece, _written(scan))


def _scan(batch: pa.Table, params: Filter, rendered: bool) -> Scan:
    rows, reasons = judged(batch, params)
    tally = Tally()
    tally.add_rows(rows, reasons)
    wanted = ["key", "text", *(["width", "height"] if rendered else [])]
    passed = _written_out(rows.select(wanted).filter(pa.array(reasons == PASSED))).replace_schema_metadata()
    return Scan(passed, len(rows), batch.column_names, there(batch), tally)


def _together(scans: Iterable[Scan]) -> Scan:
    """Scans one after the other, as one."""
    passed: list[pa.Table] = []
    columns: dict[str, None] = {}
    names: dict[str, None] = {}
    read, tally = 0, Tally()
    for scan in scans:
        passed.append(scan.passed)
        columns |= dict.fromkeys(scan.columns)
        names |= dict.fromkeys(scan.names)
        read += scan.read
        tally.join(scan.tally)
    several = any(pa.types.is_list(rows.schema.field("text").type) for rows in passed)
    whole = pa.concat_tables([_listed(rows) for rows in passed] if several else passed) if passed else NONE
    return Scan(whole, read, list(columns), list(names), tally)


def _counting(scans: Iterable[Scan], bar: Any) -> Iterator[Scan]:
    for scan in scans:
        bar.update(scan.read)
        yield scan


def _first(tables: Iterable[pa.Table], count: int) -> Iterator[pa.Table]:
    """The first `count` rows."""
    for rows in tables:
        yield rows.slice(0, count)
        count -= len(rows)
        if count <= 0:
            return


def _written_out(rows: pa.Table) -> pa.Table:
    """Captions as strings where they were a dictionary."""
    if not pa.types.is_dictionary(rows.schema.field("text").type):
        return rows
    return rows.set_column(rows.column_names.index("text"), "text", rows["text"].cast(TEXT))


def _listed(rows: pa.Table) -> pa.Table:
    """Captions as lists, so that tables with one each and with several go together."""
    if pa.types.is_list(rows.schema.field("text").type):
        return rows
    lists = pa.array([[text] for text in rows["text"].to_pylist()], TEXTS)
    return rows.set_column(rows.column_names.index("text"), "text", lists)


# A scan as a file: a line of JSON, a line of the tally, and the rows as Arrow has them


def _written(scan: Scan) -> bytes:
    head = json.dumps({"read": scan.read, "columns": scan.columns, "names": scan.names})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, scan.passed.schema) as writer:
        writer.write_table(scan.passed)
    return f"{head}\n{scan.tally.as_json()}\n".encode() + sink.getvalue().to_pybytes()


def _read(work: Path, piece: Piece) -> Scan:
    head, tally, rows = content(work, piece).split(b"\n", 2)
    return Scan(pa.ipc.open_stream(rows).read_all(), tally=Tally.of_json(tally), **json.loads(head))
