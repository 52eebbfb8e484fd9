"""Filter: which pairs are used, and how many each criterion rejects.

The table's criteria are applied first, to all rows, a batch at a time. Then pictures are read in a seeded random order
until as many have passed as are wanted. Which pairs are chosen depends only on the seed and on the pairs.
"""

import hashlib
import itertools
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tqdm import tqdm

from prunella.compute.resume import DONE, resume_dir, sweep
from prunella.data.criteria import CRITERIA, NO_VALUE, PASSED, Facts, judged, lacking, picture_fails
from prunella.data.dedup import DuplicateFinder
from prunella.data.image_checks import Look, Score, known, looking
from prunella.data.images import RejectedImage
from prunella.data.manifest import Sample, write_manifest
from prunella.data.prefetch import threads
from prunella.data.rejections import EXAMPLES, Example, Tally
from prunella.data.scan_rows import candidates
from prunella.data.schema import there
from prunella.data.sources import describe, open_source, parquet
from prunella.data.task_files import BEGUN
from prunella.errors import UserError
from prunella.params import Filter, Runtime
from prunella.storage.files import atomic_write_text

GOLDEN = 0x9E3779B97F4A7C15  # 2⁶⁴ over the golden ratio: multiples of it lie far apart
AT_ONCE = 100_000  # captions that are Python strings at a time
SURE = 1000  # pictures to look at before too many broken ones stop the stage in the middle


def filtered(
    params: Filter,
    seed: int,
    out: Path,
    workers: int = 0,
    score: Score | None = None,
    *,
    resumed: bool = False,
    cluster: Runtime | None = None,
) -> tuple[dict, dict[str, list[Example]], dict]:
    """Write the manifest of what passes to `out`; return report, examples by criterion ("kept" among them) and source.

    The report: {"source", "read", "looked_at", "passed", "kept", "fell": {criterion: count}, "causes": {cause: count}};
    pairs beyond the `samples` wanted are not looked at. `score` gives aesthetic scores where the data have none. When
    `resumed`, what was found of pictures is kept in `work/`, and a run that was killed goes on from there. With
    `cluster`, the workers of the Ray cluster at $RAY_ADDRESS look at them, each as `cluster` says, and score by
    themselves.
    Raises UserError when nothing is left, or when too many pictures are broken.
    """
    source, tally = describe(params, seed), Tally()
    rendered = open_source(source).rendered
    with nullcontext() if rendered or not (resumed or cluster) else _work(params, seed, source) as work:
        rows, read = candidates(source, params, tally, work, cluster)
        not_too_many(tally.fell["broken"], read, params, tally, "rows")
        if rendered:
            pairs, looked = [_rendered(row) for row in rows.to_pylist()], 0
        else:
            look = looking(params, source, threads(workers), score, work, cluster)
            pairs, looked = _chosen(rows, params, seed, look, tally)
    if not pairs:
        raise UserError(f"no pair of {params.path} is left{_most(tally, read)}")
    write_manifest(out, source, pairs)
    for pair in pairs[:EXAMPLES]:
        tally.show("kept", pair.key, pair.text)
    report = {
        "source": params.source,
        "read": read,
        "looked_at": looked,
        "passed": read - tally.fell.total(),
        "kept": len(pairs),
        "fell": dict(tally.fell),
        "causes": dict(tally.causes.most_common()),
    }
    return report, dict(tally.examples), source


def counted(report: dict) -> str:
    """The counts as CSV, for a chart."""
    rows = [f"{name},{count}" for name, count in report["fell"].items() if count]
    return "\n".join(["criterion,pairs", *rows, f"kept,{report['kept']}"]) + "\n"


def shortlisted(params: Filter | None, table: Path, out: Path, columns: dict[str, str]) -> tuple[int, int]:
    """Write the rows of a table of URLs that may be fetched to the Parquet file `out`; return (rows, written).

    Those are the rows with an http or https URL that pass the table's criteria, where `params` states any. `columns`
    names the table's "url" and "text". Raises UserError where no row is left.
    """
    tally, writer, written = Tally(), None, 0
    ours: set[str] = set()
    names: dict[str, None] = {}
    try:
        for rows, raw, schema in parquet.urls(table, (params.columns if params else {}) | columns):
            ours, names = ours | set(rows.column_names), names | dict.fromkeys(there(rows))
            reasons = judged(rows, params)[1] if params else _faults(rows)
            tally.add_rows(rows, reasons)
            writer = writer or pq.ParquetWriter(out, schema)
            passed = raw.filter(pa.array(reasons == PASSED))
            writer.write_table(_like(passed, writer.schema, table))
            written += len(passed)
    finally:
        if writer:
            writer.close()
    if params:
        lacking(params, ours, list(names))
    read = written + tally.fell.total()
    if not written:
        raise UserError(f"no row of {table} is left{_most(tally, read)}")
    return read, written


def _faults(rows: pa.Table) -> np.ndarray:
    """As `judged`, of faults alone."""
    return np.where(np.asarray(pc.is_valid(rows["fault"])), CRITERIA.index("broken"), PASSED)


def _like(rows: pa.Table, schema: pa.Schema, table: Path) -> pa.Table:
    try:
        return rows.select(schema.names).cast(schema)
    except (pa.ArrowException, KeyError):
        raise UserError(f"{table}: its files have different columns; give one of them, or such as are alike") from None


@contextmanager
def _work(params: Filter, seed: int, source: dict) -> Iterator[Path]:
    """The folder where is kept what was found, finished when all went well inside."""
    with resume_dir("filter", known(params, seed, source), begun=BEGUN) as work:
        sweep("filter", keep=work)  # nothing goes on from a finished filter
        yield work
        atomic_write_text(work / DONE, "{}")


def _rendered(row: dict) -> Sample:
    return Sample(row["key"], row["text"], int(row["width"]), int(row["height"]), "")


def drawn(rows: pa.Table, params: Filter, seed: int) -> np.ndarray:
    """Which rows are looked at, one after the other until enough have passed."""
    return random_order(rows["text"], seed) if len(rows) > params.samples else np.arange(len(rows))


def _chosen(rows: pa.Table, params: Filter, seed: int, look: Look, tally: Tally) -> tuple[list[Sample], int]:
    """The pairs kept, in the source's order, and how many pictures were looked at.

    A round looks at as many as are missing; what falls out is replaced in the next.
    """
    judge, waiting, rounds = Judge(params), drawn(rows, params, seed), itertools.count()
    kept: dict[int, Sample] = {}
    looked = broken = 0
    with tqdm(desc="filter: pictures", unit="picture", total=min(params.samples, len(rows)), mininterval=1.0) as bar:
        while len(waiting) and len(kept) < params.samples:
            missing = params.samples - len(kept)
            some, waiting = np.sort(waiting[:missing]), waiting[missing:]  # in the source's order, as it is stored
            taken = rows.take(pa.array(some))
            keys, texts = taken["key"].to_pylist(), taken["text"].to_pylist()
            last = looked + len(keys)
            for i, key, text, found in zip(some.tolist(), keys, texts, look(next(rounds), keys), strict=True):
                looked += 1
                if fallen := judge(found):
                    tally.add(fallen[0], key, text, fallen[1])
                    broken += fallen[0] == "broken"
                    if looked >= SURE:  # the round's end cannot mend it
                        not_too_many(broken, last, params, tally, "pictures to look at")
                elif isinstance(found, Facts):
                    kept[i] = _pair(key, text, found)
                    bar.update()
    not_too_many(broken, looked, params, tally, "pictures looked at")
    return [kept[i] for i in sorted(kept)], looked


def random_order(texts: pa.ChunkedArray | pa.Array, seed: int) -> np.ndarray:
    """Indices of `texts` (captions) in an order that depends on the seed and the captions alone.

    A pair is identified by its caption and by its number among those with the same caption. So the same pairs are
    chosen from a folder and from a table, and most of them again when others are added.
    """
    salt, lots = seed.to_bytes(8), bytearray()
    for start in range(0, len(texts), AT_ONCE):
        for text in texts.slice(start, AT_ONCE).to_pylist():
            said = "\n".join(text) if isinstance(text, list) else text
            lots += hashlib.blake2b(said.encode(), digest_size=8, key=salt).digest()
    values = np.frombuffer(lots, np.uint64).copy()
    order = np.argsort(values, kind="stable")
    alike, places = values[order], np.arange(len(values))
    first = np.append(True, alike[1:] != alike[:-1])[: len(values)]
    number = places - np.maximum.accumulate(np.where(first, places, 0))
    values[order] = alike + number.astype(np.uint64) * np.uint64(GOLDEN)  # modulo 2⁶⁴
    return np.argsort(values, kind="stable")


def _pair(key: str, text: str | list[str], found: Facts) -> Sample:
    single = text[0] if isinstance(text, list) and len(text) == 1 else text
    return Sample(key, single, found.width, found.height, found.sum)


class Judge:
    """Tells which criterion rejects a picture, remembering those before it."""

    def __init__(self, params: Filter):
        self.params = params
        self.sums: set[str] = set()
        self.near = None if params.near_duplicates is None else DuplicateFinder(params.near_duplicates)

    def __call__(self, found: Facts | RejectedImage) -> tuple[str, str] | None:
        """(criterion, cause), or None of a picture that passes."""
        if isinstance(found, RejectedImage):
            return found.criterion, found.cause if found.criterion == "broken" else ""
        if criterion := picture_fails(found, self.params):
            return criterion, ""
        if found.sum in self.sums:
            return "duplicate", ""
        self.sums.add(found.sum)
        return ("near_duplicate", "") if self.near and self.near.before(found.hash) else None


def not_too_many(broken: int, of: int, params: Filter, tally: Tally, what: str) -> None:
    """Raises UserError where more are broken than `filter.max_broken` allows."""
    if of and broken / of > params.max_broken:
        broken_by = [(cause, count) for cause, count in tally.causes.most_common() if not cause.endswith(NO_VALUE)]
        causes = ", ".join(f"{cause} ({count})" for cause, count in broken_by[:4])
        examples = ", ".join(example.key for example in tally.examples["broken"][:3])
        raise UserError(
            f"{broken} of {of} {what} in {params.path} cannot be used, more than filter.max_broken "
            f"({params.max_broken:g}) allows: {causes}; for example {examples}"
        )


def _most(tally: Tally, read: int) -> str:
    """What rejected everything, or most, with the most frequent cause."""
    criterion, count = tally.fell.most_common(1)[0]
    text = f"; all {read} fell out at" if count == read else "; most fell out at"
    text += f" {criterion}" if count == read else f" {criterion} ({count} of {read})"
    causes = [cause for cause, _ in tally.causes.most_common() if not cause.endswith(NO_VALUE)]
    if criterion != "broken" or not causes:
        return text
    return f"{text}: {causes[0]}, for example {tally.examples['broken'][0].key}"
