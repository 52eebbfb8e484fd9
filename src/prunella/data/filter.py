"""Filter: which pairs are used, and how many each criterion rejects.

The table's criteria are applied first, to all rows, a batch at a time. Then pictures are read in a seeded random order
until as many have passed as are wanted. The choice of pairs depends only on the seed and on the pairs.
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

from prunella.compute.resume import DONE_FILE, open_run_dir, remove_finished_runs
from prunella.data.criteria import (
    CRITERIA,
    NO_VALUE,
    PASSED,
    ImageFacts,
    apply_criteria,
    check_columns,
    find_failed_criterion,
)
from prunella.data.dedup import DuplicateFinder
from prunella.data.image_checks import ImageScorer, RoundChecker, make_checks_identity, make_round_checker
from prunella.data.images import RejectedImage
from prunella.data.manifest import Sample, write_sample_manifest
from prunella.data.prefetch import count_threads
from prunella.data.rejections import MAX_EXAMPLES, Example, RejectionStats
from prunella.data.scan_rows import scan_source
from prunella.data.schema import read_column_names
from prunella.data.sources import describe_source, open_source, parquet
from prunella.data.task_files import RESULT_GLOB
from prunella.errors import UserError
from prunella.params import Filter, Runtime
from prunella.storage.files import atomic_write_text

GOLDEN_RATIO_64 = 0x9E3779B97F4A7C15  # 2⁶⁴ over the golden ratio: multiples of it lie far apart
CAPTIONS_PER_CHUNK = 100_000  # captions that are Python strings at a time
MIN_IMAGES_BEFORE_STOP = 1000  # pictures to look at before too many broken ones stop the stage in the middle


def filter_dataset(
    params: Filter,
    seed: int,
    out: Path,
    workers: int = 0,
    score_images: ImageScorer | None = None,
    *,
    resume: bool = False,
    cluster: Runtime | None = None,
) -> tuple[dict, dict[str, list[Example]], dict]:
    """Write the manifest of what passes to `out`; return report, examples by criterion ("kept" among them) and source.

    The report: {"source", "read", "looked_at", "passed", "kept", "fell": {criterion: count}, "causes": {cause: count}};
    pairs beyond the `samples` wanted are not looked at. `score_images` gives aesthetic scores where the data have
    none. When `resume`, what was found of pictures is kept in `work/`, and a run that was killed goes on from there.
    With `cluster`, the workers of the Ray cluster at $RAY_ADDRESS look at them, each as `cluster` says, and score by
    themselves.
    Raises UserError when nothing is left, or when too many pictures are broken.
    """
    source, stats = describe_source(params, seed), RejectionStats()
    rendered = open_source(source).rendered
    with nullcontext() if rendered or not (resume or cluster) else _open_filter_work_dir(params, seed, source) as work:
        rows, num_rows = scan_source(source, params, stats, work, cluster)
        check_broken_fraction(stats.counts["broken"], num_rows, params, stats, "rows")
        if rendered:
            samples, num_checked = [_make_rendered_sample(row) for row in rows.to_pylist()], 0
        else:
            check_round = make_round_checker(params, source, count_threads(workers), score_images, work, cluster)
            samples, num_checked = _select_samples(rows, params, seed, check_round, stats)
    if not samples:
        raise UserError(f"no pair of {params.path} is left{_format_main_cause(stats, num_rows)}")
    write_sample_manifest(out, source, samples)
    for sample in samples[:MAX_EXAMPLES]:
        stats.add_example("kept", sample.key, sample.text)
    report = {
        "source": params.source,
        "read": num_rows,
        "looked_at": num_checked,
        "passed": num_rows - stats.counts.total(),
        "kept": len(samples),
        "fell": dict(stats.counts),
        "causes": dict(stats.causes.most_common()),
    }
    return report, dict(stats.examples), source


def format_counts_csv(report: dict) -> str:
    """The counts as CSV, for a chart."""
    rows = [f"{name},{count}" for name, count in report["fell"].items() if count]
    return "\n".join(["criterion,pairs", *rows, f"kept,{report['kept']}"]) + "\n"


def filter_urls(params: Filter | None, table: Path, out: Path, columns: dict[str, str]) -> tuple[int, int]:
    """Write the rows of a table of URLs that may be fetched to the Parquet file `out`; return (rows, written).

    Those are the rows with an http or https URL that pass the table's criteria, where `params` states any. `columns`
    names the table's "url" and "text". Raises UserError where no row is left.
    """
    stats, writer, num_written = RejectionStats(), None, 0
    found_columns: set[str] = set()
    data_columns: dict[str, None] = {}
    try:
        for rows, raw, schema in parquet.iter_url_rows(table, (params.columns if params else {}) | columns):
            found_columns, data_columns = (
                found_columns | set(rows.column_names),
                data_columns | dict.fromkeys(read_column_names(rows)),
            )
            reasons = apply_criteria(rows, params)[1] if params else _fault_criteria(rows)
            stats.add_rows(rows, reasons)
            writer = writer or pq.ParquetWriter(out, schema)
            passed = raw.filter(pa.array(reasons == PASSED))
            writer.write_table(_cast_to_schema(passed, writer.schema, table))
            num_written += len(passed)
    finally:
        if writer:
            writer.close()
    if params:
        check_columns(params, found_columns, list(data_columns))
    num_rows = num_written + stats.counts.total()
    if not num_written:
        raise UserError(f"no row of {table} is left{_format_main_cause(stats, num_rows)}")
    return num_rows, num_written


def _fault_criteria(rows: pa.Table) -> np.ndarray:
    """Judged by faults alone."""
    return np.where(np.asarray(pc.is_valid(rows["fault"])), CRITERIA.index("broken"), PASSED)


def _cast_to_schema(rows: pa.Table, schema: pa.Schema, table: Path) -> pa.Table:
    try:
        return rows.select(schema.names).cast(schema)
    except (pa.ArrowException, KeyError):
        raise UserError(f"{table}: its files have different columns; give one of them, or such as are alike") from None


@contextmanager
def _open_filter_work_dir(params: Filter, seed: int, source: dict) -> Iterator[Path]:
    """The folder where is kept what was found, finished when all went well inside."""
    with open_run_dir("filter", make_checks_identity(params, seed, source), started_glob=RESULT_GLOB) as work:
        remove_finished_runs("filter", retained_dir=work)  # nothing goes on from a finished filter
        yield work
        atomic_write_text(work / DONE_FILE, "{}")


def _make_rendered_sample(row: dict) -> Sample:
    return Sample(row["key"], row["text"], int(row["width"]), int(row["height"]), "")


def sample_order(rows: pa.Table, params: Filter, seed: int) -> np.ndarray:
    """The rows to look at, one after the other until enough have passed."""
    return random_order(rows["text"], seed) if len(rows) > params.samples else np.arange(len(rows))


def _select_samples(
    rows: pa.Table, params: Filter, seed: int, check_round: RoundChecker, stats: RejectionStats
) -> tuple[list[Sample], int]:
    """The pairs kept, in the source's order, and how many pictures were looked at.

    A round looks at as many as are missing; what falls out is replaced in the next.
    """
    image_criteria, remaining, rounds = ImageCriteria(params), sample_order(rows, params, seed), itertools.count()
    selected: dict[int, Sample] = {}
    num_checked = num_broken = 0
    with tqdm(desc="filter: pictures", unit="picture", total=min(params.samples, len(rows)), mininterval=1.0) as bar:
        while len(remaining) and len(selected) < params.samples:
            num_missing = params.samples - len(selected)
            batch, remaining = (
                np.sort(remaining[:num_missing]),
                remaining[num_missing:],
            )  # in the source's order, as it is stored
            batch_rows = rows.take(pa.array(batch))
            keys, texts = batch_rows["key"].to_pylist(), batch_rows["text"].to_pylist()
            num_after_round = num_checked + len(keys)
            for i, key, text, result in zip(batch.tolist(), keys, texts, check_round(next(rounds), keys), strict=True):
                num_checked += 1
                if rejection := image_criteria(result):
                    stats.add(rejection[0], key, text, rejection[1])
                    num_broken += rejection[0] == "broken"
                    if num_checked >= MIN_IMAGES_BEFORE_STOP:  # the round's end cannot mend it
                        check_broken_fraction(num_broken, num_after_round, params, stats, "pictures to look at")
                elif isinstance(result, ImageFacts):
                    selected[i] = _make_sample(key, text, result)
                    bar.update()
    check_broken_fraction(num_broken, num_checked, params, stats, "pictures looked at")
    return [selected[i] for i in sorted(selected)], num_checked


def random_order(texts: pa.ChunkedArray | pa.Array, seed: int) -> np.ndarray:
    """Indices of `texts` (captions) in an order that depends on the seed and the captions alone.

    A pair is identified by its caption and by its number among those with the same caption. Therefore the same pairs
    are chosen from a folder and from a table, and most of them again when others are added.
    """
    salt, digests = seed.to_bytes(8), bytearray()
    for start in range(0, len(texts), CAPTIONS_PER_CHUNK):
        for text in texts.slice(start, CAPTIONS_PER_CHUNK).to_pylist():
            caption = "\n".join(text) if isinstance(text, list) else text
            digests += hashlib.blake2b(caption.encode(), digest_size=8, key=salt).digest()
    values = np.frombuffer(digests, np.uint64).copy()
    order = np.argsort(values, kind="stable")
    sorted_values, positions = values[order], np.arange(len(values))
    is_first = np.append(True, sorted_values[1:] != sorted_values[:-1])[: len(values)]
    duplicate_index = positions - np.maximum.accumulate(np.where(is_first, positions, 0))
    values[order] = sorted_values + duplicate_index.astype(np.uint64) * np.uint64(GOLDEN_RATIO_64)  # modulo 2⁶⁴
    return np.argsort(values, kind="stable")


def _make_sample(key: str, text: str | list[str], facts: ImageFacts) -> Sample:
    caption = text[0] if isinstance(text, list) and len(text) == 1 else text
    return Sample(key, caption, facts.width, facts.height, facts.sha256)


class ImageCriteria:
    """Tells which criterion rejects a picture, remembering those before it."""

    def __init__(self, params: Filter):
        self.params = params
        self.seen_sha256: set[str] = set()
        self.duplicates = None if params.near_duplicates is None else DuplicateFinder(params.near_duplicates)

    def __call__(self, result: ImageFacts | RejectedImage) -> tuple[str, str] | None:
        """(criterion, cause), or None of a picture that passes."""
        if isinstance(result, RejectedImage):
            return result.criterion, result.cause if result.criterion == "broken" else ""
        if criterion := find_failed_criterion(result, self.params):
            return criterion, ""
        if result.sha256 in self.seen_sha256:
            return "duplicate", ""
        self.seen_sha256.add(result.sha256)
        return ("near_duplicate", "") if self.duplicates and self.duplicates.check_and_add(result.phash) else None


def check_broken_fraction(broken: int, total: int, params: Filter, stats: RejectionStats, unit: str) -> None:
    """Raises UserError where more are broken than `filter.max_corrupt_fraction` allows."""
    if total and broken / total > params.max_corrupt_fraction:
        cause_counts = [(cause, count) for cause, count in stats.causes.most_common() if not cause.endswith(NO_VALUE)]
        causes = ", ".join(f"{cause} ({count})" for cause, count in cause_counts[:4])
        examples = ", ".join(example.key for example in stats.examples["broken"][:3])
        raise UserError(
            f"{broken} of {total} {unit} in {params.path} cannot be used, more than filter.max_corrupt_fraction "
            f"({params.max_corrupt_fraction:g}) allows: {causes}; for example {examples}"
        )


def _format_main_cause(stats: RejectionStats, num_rows: int) -> str:
    """The criterion that rejected everything, or most, with the most frequent cause."""
    criterion, count = stats.counts.most_common(1)[0]
    text = f"; all {num_rows} fell out at" if count == num_rows else "; most fell out at"
    text += f" {criterion}" if count == num_rows else f" {criterion} ({count} of {num_rows})"
    causes = [cause for cause, _ in stats.causes.most_common() if not cause.endswith(NO_VALUE)]
    if criterion != "broken" or not causes:
        return text
    return f"{text}: {causes[0]}, for example {stats.examples['broken'][0].key}"
