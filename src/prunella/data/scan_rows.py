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

from prunella.data.criteria import PASSED, apply_criteria, check_columns
from prunella.data.rejections import RejectionStats
from prunella.data.schema import TEXT_LIST_TYPE, TEXT_TYPE, read_column_names
from prunella.data.sources import open_source
from prunella.data.sources.base import Source
from prunella.data.task_files import list_finished_tasks, read_result, run_tasks_on_ray, write_result
from prunella.errors import UserError
from prunella.params import Filter, Runtime

EMPTY_TABLE = pa.table({"key": pa.array([], TEXT_TYPE), "text": pa.array([], TEXT_TYPE)})


class ScanResult(NamedTuple):
    """The result for rows of a source."""

    passed: pa.Table  # "key", "text" and, of rendered sources, sizes
    read: int  # rows
    columns: list[str]  # under our names
    names: list[str]  # of the data's own columns
    stats: RejectionStats


class ScanTask(NamedTuple):
    """A piece of a source, to be scanned."""

    task_index: int
    payload: str

    @property
    def name(self) -> str:
        return f"rows-{self.task_index:05d}"


def scan_source(
    source_spec: dict, params: Filter, stats: RejectionStats, work: Path | None = None, cluster: Runtime | None = None
) -> tuple[pa.Table, int]:
    """The rows ("key", "text" and, where true, sizes) of a source that pass the table's criteria, and how many it has.

    The result for pieces of a source is kept in the folder `work`. With `cluster` the Ray cluster scans them.
    """
    source = open_source(source_spec)
    with tqdm(desc="filter: rows", unit="row", unit_scale=True, mininterval=1.0) as bar:
        scan = _concat_scans(_with_progress(_iter_scans(source_spec, source, params, work, cluster), bar))
    if not scan.read:
        raise UserError(f"there is no pair at all in {params.path}")
    check_columns(params, set(scan.columns), scan.names)
    stats.merge(scan.stats)
    return scan.passed.combine_chunks(), scan.read


def _iter_scans(
    source_spec: dict, source: Source, params: Filter, work: Path | None, cluster: Runtime | None
) -> Iterator[ScanResult]:
    """For each piece, in order; of a source without pieces that of each batch of rows."""
    all_tasks = list_scan_tasks(source) if work else []
    if not work or not all_tasks:
        batches = _take_first_rows(source.iter_rows(), params.samples) if source.rendered else source.iter_rows()
        yield from (_scan_batch(batch, params, source.rendered) for batch in batches)
        return
    finished = list_finished_tasks(all_tasks, work)
    if finished:
        tqdm.write(f"filter: {len(finished):,} of {len(all_tasks):,} files were scanned before ({work})")
    make_scanner = partial(Scanner, source_spec, params, work)
    completed_tasks: Iterator[ScanTask]
    if cluster and len(all_tasks) - len(finished) > 1:  # one alone is scanned before workers have started
        completed_tasks = run_tasks_on_ray(make_scanner, all_tasks, finished, cluster, work, label="file")
    else:
        completed_tasks = _run_scans_locally(make_scanner(), all_tasks, finished)
    for task in completed_tasks:
        yield _read_scan(work, task)


def _run_scans_locally(scanner: "Scanner", all_tasks: list[ScanTask], finished: set[str]) -> Iterator[ScanTask]:
    """The pieces, each once it is scanned."""
    for task in all_tasks:
        if task.name not in finished:
            scanner(task)
        yield task


def list_scan_tasks(source: Source) -> list[ScanTask]:
    """The tasks of a source whose rows are scanned in pieces."""
    return [ScanTask(task_index, name) for task_index, name in enumerate(source.shard_names())]


class Scanner:
    """Scans a piece at a time, and keeps what it gave."""

    def __init__(self, source_spec: dict, params: Filter, work: Path):
        self.source, self.params, self.work = open_source(source_spec), params, work

    def __call__(self, task: ScanTask) -> None:
        scan = _concat_scans(
            _scan_batch(batch, self.params, False) for batch in self.source.iter_shard_rows(task.payload)
        )
        write_result(self.work, task, _scan_to_bytes(scan))


def _scan_batch(batch: pa.Table, params: Filter, rendered: bool) -> ScanResult:
    rows, reasons = apply_criteria(batch, params)
    stats = RejectionStats()
    stats.add_rows(rows, reasons)
    columns = ["key", "text", *(["width", "height"] if rendered else [])]
    passed = _decode_dictionary(rows.select(columns).filter(pa.array(reasons == PASSED))).replace_schema_metadata()
    return ScanResult(passed, len(rows), batch.column_names, read_column_names(batch), stats)


def _concat_scans(scans: Iterable[ScanResult]) -> ScanResult:
    """Scans one after the other, as one."""
    passed: list[pa.Table] = []
    columns: dict[str, None] = {}
    names: dict[str, None] = {}
    read, stats = 0, RejectionStats()
    for scan in scans:
        passed.append(scan.passed)
        columns |= dict.fromkeys(scan.columns)
        names |= dict.fromkeys(scan.names)
        read += scan.read
        stats.merge(scan.stats)
    has_lists = any(pa.types.is_list(rows.schema.field("text").type) for rows in passed)
    table = (
        pa.concat_tables([_captions_as_lists(rows) for rows in passed] if has_lists else passed)
        if passed
        else EMPTY_TABLE
    )
    return ScanResult(table, read, list(columns), list(names), stats)


def _with_progress(scans: Iterable[ScanResult], bar: Any) -> Iterator[ScanResult]:
    for scan in scans:
        bar.update(scan.read)
        yield scan


def _take_first_rows(tables: Iterable[pa.Table], count: int) -> Iterator[pa.Table]:
    """The first `count` rows."""
    for rows in tables:
        yield rows.slice(0, count)
        count -= len(rows)
        if count <= 0:
            return


def _decode_dictionary(rows: pa.Table) -> pa.Table:
    """Captions as strings where they were a dictionary."""
    if not pa.types.is_dictionary(rows.schema.field("text").type):
        return rows
    return rows.set_column(rows.column_names.index("text"), "text", rows["text"].cast(TEXT_TYPE))


def _captions_as_lists(rows: pa.Table) -> pa.Table:
    """Captions as lists, so that tables with one each and with several go together."""
    if pa.types.is_list(rows.schema.field("text").type):
        return rows
    lists = pa.array([[text] for text in rows["text"].to_pylist()], TEXT_LIST_TYPE)
    return rows.set_column(rows.column_names.index("text"), "text", lists)


# A scan as a file: a line of JSON, a line of the tally, and the rows as Arrow has them


def _scan_to_bytes(scan: ScanResult) -> bytes:
    header = json.dumps({"read": scan.read, "columns": scan.columns, "names": scan.names})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, scan.passed.schema) as writer:
        writer.write_table(scan.passed)
    return f"{header}\n{scan.stats.to_json()}\n".encode() + sink.getvalue().to_pybytes()


def _read_scan(work: Path, task: ScanTask) -> ScanResult:
    header, stats, rows = read_result(work, task).split(b"\n", 2)
    return ScanResult(pa.ipc.open_stream(rows).read_all(), stats=RejectionStats.from_json(stats), **json.loads(header))
