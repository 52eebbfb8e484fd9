"""How fast data go through filter and encode, what encode waits for, and how fast what it wrote is read back."""

import os
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from prunella.compute.timing import Timings
from prunella.data.filter import filter_dataset
from prunella.data.prefetch import count_threads
from prunella.data.rejections import RejectionStats
from prunella.data.scan_rows import scan_source
from prunella.encoding.encode import encoded
from prunella.errors import UserError
from prunella.latents.encoders import open_latents
from prunella.params import Filter, Params, fill_section, validate_config
from prunella.training.data import training_batches
from prunella.training.sampler import grouped, line

WAITS = ("vae", "text", "writing", "waiting for pictures")  # of the one who encodes; the rest is done ahead by threads
AHEAD = ("decode", "resize")
CHUNK = 1_000_000  # rows of a made-up table at a time


def measured(params: Params, device: str) -> dict:
    """Filter and encode the data of `params` into a folder that is thrown away, and read them back.

    Pairs per second of each, the share that each part has of encode's time, and of the threads' the milliseconds that
    a picture takes.
    """
    teacher = Path(params.teacher.path)
    if not (teacher / "model_index.json").is_file():
        raise UserError(f"teacher.path: {teacher} is no pipeline folder, which the encoders are taken from")
    workers, clock = params.runtime.workers, Timings()
    with tempfile.TemporaryDirectory(dir=os.environ.get("DVC_ROOT", ".")) as folder, _rooted(folder) as at:
        began = time.perf_counter()
        report, *_ = filter_dataset(params.filter, params.seed, at / "pairs", workers)
        filtering = time.perf_counter() - began
        started = Timings()
        with started("all"):
            counts = encoded(params.encode, params.seed, teacher, at / "pairs", at / "latents", device, workers, clock)
        pairs = counts["train"] + counts["heldout"]
        encoding = sum(clock.seconds[name] for name in WAITS)
        reading = _read_back(params, at / "latents", teacher, device)
    return {
        "filter": {"rows": report["read"], "pictures": report["looked_at"], "seconds": filtering,
                   "per_second": report["read"] / filtering},
        "encode": {"pairs": pairs, "seconds": encoding, "per_second": pairs / encoding,
                   "with_start": started.seconds["all"],
                   "share": {name: clock.seconds[name] / encoding for name in WAITS},
                   "threads": count_threads(workers),
                   "ms_a_picture": {name: 1000 * clock.seconds[name] / pairs for name in AHEAD}},
        "read_back": reading,
    }  # fmt: skip


@contextmanager
def _rooted(folder: str) -> Iterator[Path]:
    """The folder as DVC_ROOT, so that no work of a real run is touched."""
    before = os.environ.get("DVC_ROOT")
    os.environ["DVC_ROOT"] = folder
    try:
        yield Path(folder)
    finally:
        os.environ.pop("DVC_ROOT")
        if before is not None:
            os.environ["DVC_ROOT"] = before


def _read_back(params: Params, latents: Path, teacher: Path, device: str, batches: int = 200) -> dict:
    """Pairs per second of training's batches: read, and read and noised."""
    train, _ = open_latents(latents, teacher, device)
    size = params.distill.batch_size
    groups = train.groups(np.arange(len(train)))
    chosen = [grouped(line(number, size), groups, size, 0) for number in range(batches)]
    train.take(chosen[0])
    began = time.perf_counter()
    for some in chosen:
        train.take(some)
    read = time.perf_counter() - began
    batch = training_batches(train, size, params.distill, 1000)
    began = time.perf_counter()
    for number in range(batches):
        batch(number)
    noised = time.perf_counter() - began
    return {"batch": size, "read_per_second": batches * size / read, "noised_per_second": batches * size / noised}


def lines(figures: dict) -> list[str]:
    """What `measured` found, to be read."""
    filtering, encoding, reading = figures["filter"], figures["encode"], figures["read_back"]
    shares = ", ".join(f"{name} {share:.0%}" for name, share in encoding["share"].items())
    each = ", ".join(f"{name} {ms:.2f} ms" for name, ms in encoding["ms_a_picture"].items())
    rows, looked, pairs = filtering["rows"], filtering["pictures"], encoding["pairs"]
    return [
        f"filter: {filtering['per_second']:,.0f} rows/s ({rows:,} rows, {looked:,} pictures looked at)",
        f"encode: {encoding['per_second']:,.1f} pairs/s ({pairs:,} pairs; loading models not counted)",
        f"  of its time: {shares}",
        f"  ahead in {encoding['threads']} threads, a picture: {each}",
        f"read back: {reading['read_per_second']:,.0f} pairs/s; as training batches of {reading['batch']}, "
        f"noise drawn, {reading['noised_per_second']:,.0f} pairs/s",
    ]


# The table's criteria, on a table of any length

LIMITS = {
    "source": "parquet", "samples": 1_000_000, "min_side": 512, "max_aspect": 2.0, "min_caption": 5, "max_caption": 400,
    "max_corrupt_fraction": 0.1, "aesthetic": {"min": 7.5}, "max_punsafe": 0.5, "max_pwatermark": 0.8,
    "min_similarity": 0.28,
    "languages": ["en"], "blocked_words": ["nsfw", "watermark"],
}  # fmt: skip


def table(path: Path, rows: int) -> None:
    """A made-up table of the columns that LAION's have, its pictures left out."""
    chance, words = (
        np.random.default_rng(0),
        np.array(["a", "red", "small", "heart", "of", "the", "oil", "painting", "with", "sea", "photo"]),
    )
    writer = None
    for start in range(0, rows, CHUNK):
        count = min(CHUNK, rows - start)
        texts = [" ".join(line) for line in words[chance.integers(len(words), size=(count, 11))]]
        columns = {
            "TEXT": texts,
            "image": pa.nulls(count, pa.string()),
            "LANGUAGE": np.where(chance.random(count) < 0.6, "en", "de"),
        }
        columns |= {name: chance.integers(200, 2000, count) for name in ("WIDTH", "HEIGHT")}
        columns |= {name: chance.random(count) for name in ("punsafe", "pwatermark", "similarity")}
        columns["AESTHETIC_SCORE"] = chance.normal(6, 1, count)
        batch = pa.table(columns)
        writer = writer or pq.ParquetWriter(path, batch.schema)
        writer.write_table(batch)
    if writer:
        writer.close()


def judged_rows(path: Path) -> dict:
    """Filter the rows of a `table`: seconds, and the memory that this process had at its highest."""
    params = validate_config(Filter, fill_section("filter", LIMITS | {"path": str(path)}), "bench")
    began, tally = time.perf_counter(), RejectionStats()
    kept, read = scan_source({"source": "parquet", "path": str(path), "columns": {}}, params, tally)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return {
        "rows": read,
        "candidates": len(kept),
        "seconds": seconds,
        "rows_per_second": read / seconds,
        "peak_gb": peak,
    }
