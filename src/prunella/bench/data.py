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
from prunella.encoding.encode import encode_dataset
from prunella.errors import UserError
from prunella.latents.encoders import open_latents
from prunella.params import Filter, Params, fill_section, validate_config
from prunella.training.data import make_training_batches
from prunella.training.sampler import batch_positions, sample_by_bucket

MAIN_THREAD_PHASES = (
    "vae",
    "text",
    "writing",
    "waiting for pictures",
)  # of the one who encodes; the rest is done ahead by threads
PREFETCH_PHASES = ("decode", "resize")
ROWS_PER_CHUNK = 1_000_000  # rows of a made-up table at a time


def measure_data_pipeline(params: Params, device: str) -> dict:
    """Filter and encode the data of `params` into a folder that is thrown away, and read them back.

    Pairs per second of each, the share that each part has of encode's time, and of the threads' the milliseconds that
    a picture takes.
    """
    teacher_dir = Path(params.teacher.path)
    if not (teacher_dir / "model_index.json").is_file():
        raise UserError(f"teacher.path: {teacher_dir} is no pipeline folder, which the encoders are taken from")
    num_workers, phase_timings = params.runtime.workers, Timings()
    with tempfile.TemporaryDirectory(dir=os.environ.get("DVC_ROOT", ".")) as folder, _use_dvc_root(folder) as root:
        start_time = time.perf_counter()
        report, *_ = filter_dataset(params.filter, params.seed, root / "pairs", num_workers)
        filter_seconds = time.perf_counter() - start_time
        total_timings = Timings()
        with total_timings("all"):
            counts = encode_dataset(
                params.encode,
                params.seed,
                teacher_dir,
                root / "pairs",
                root / "latents",
                device,
                num_workers,
                phase_timings,
            )
        num_samples = counts["train"] + counts["heldout"]
        encode_seconds = sum(phase_timings.seconds[name] for name in MAIN_THREAD_PHASES)
        read_back_metrics = _measure_read_back(params, root / "latents", teacher_dir, device)
    return {
        "filter": {"rows": report["read"], "pictures": report["looked_at"], "seconds": filter_seconds,
                   "per_second": report["read"] / filter_seconds},
        "encode": {"pairs": num_samples, "seconds": encode_seconds, "per_second": num_samples / encode_seconds,
                   "with_start": total_timings.seconds["all"],
                   "share": {name: phase_timings.seconds[name] / encode_seconds for name in MAIN_THREAD_PHASES},
                   "threads": count_threads(num_workers),
                   "ms_a_picture": {
                       name: 1000 * phase_timings.seconds[name] / num_samples for name in PREFETCH_PHASES}},
        "read_back": read_back_metrics,
    }  # fmt: skip


@contextmanager
def _use_dvc_root(folder: str) -> Iterator[Path]:
    """The folder as DVC_ROOT, so that no work of a real run is touched."""
    previous_root = os.environ.get("DVC_ROOT")
    os.environ["DVC_ROOT"] = folder
    try:
        yield Path(folder)
    finally:
        os.environ.pop("DVC_ROOT")
        if previous_root is not None:
            os.environ["DVC_ROOT"] = previous_root


def _measure_read_back(
    params: Params, latents_dir: Path, teacher_dir: Path, device: str, num_batches: int = 200
) -> dict:
    """Pairs per second of training's batches: read, and read and noised."""
    train_latents, _ = open_latents(latents_dir, teacher_dir, device)
    batch_size = params.distill.batch_size
    indices_by_size = train_latents.by_size(np.arange(len(train_latents)))
    batch_indices = [
        sample_by_bucket(batch_positions(number, batch_size), indices_by_size, batch_size, 0)
        for number in range(num_batches)
    ]
    train_latents.get_batch(batch_indices[0])
    start_time = time.perf_counter()
    for indices in batch_indices:
        train_latents.get_batch(indices)
    read_seconds = time.perf_counter() - start_time
    make_batch = make_training_batches(train_latents, batch_size, params.distill, 1000)
    start_time = time.perf_counter()
    for number in range(num_batches):
        make_batch(number)
    noised_seconds = time.perf_counter() - start_time
    return {
        "batch": batch_size,
        "read_per_second": num_batches * batch_size / read_seconds,
        "noised_per_second": num_batches * batch_size / noised_seconds,
    }


def format_pipeline_metrics(metrics: dict) -> list[str]:
    """The results of `measured`, for people."""
    filter_metrics, encode_metrics, read_back_metrics = metrics["filter"], metrics["encode"], metrics["read_back"]
    fractions_text = ", ".join(f"{name} {fraction:.0%}" for name, fraction in encode_metrics["share"].items())
    ms_per_image_text = ", ".join(f"{name} {ms:.2f} ms" for name, ms in encode_metrics["ms_a_picture"].items())
    num_rows, num_checked, num_samples = filter_metrics["rows"], filter_metrics["pictures"], encode_metrics["pairs"]
    return [
        f"filter: {filter_metrics['per_second']:,.0f} rows/s ({num_rows:,} rows, {num_checked:,} pictures looked at)",
        f"encode: {encode_metrics['per_second']:,.1f} pairs/s ({num_samples:,} pairs; loading models not counted)",
        f"  of its time: {fractions_text}",
        f"  ahead in {encode_metrics['threads']} threads, a picture: {ms_per_image_text}",
        f"read back: {read_back_metrics['read_per_second']:,.0f} pairs/s; as training batches of "
        f"{read_back_metrics['batch']}, "
        f"noise drawn, {read_back_metrics['noised_per_second']:,.0f} pairs/s",
    ]


# The table's criteria, on a table of any length

LAION_CRITERIA = {
    "source": "parquet", "samples": 1_000_000, "min_side": 512, "max_aspect": 2.0, "min_caption": 5, "max_caption": 400,
    "max_corrupt_fraction": 0.1, "aesthetic": {"min": 7.5}, "max_punsafe": 0.5, "max_pwatermark": 0.8,
    "min_similarity": 0.28,
    "languages": ["en"], "blocked_words": ["nsfw", "watermark"],
}  # fmt: skip


def write_synthetic_table(path: Path, num_rows: int) -> None:
    """A made-up table of the columns that LAION's have, its pictures left out."""
    rng, vocabulary = (
        np.random.default_rng(0),
        np.array(["a", "red", "small", "heart", "of", "the", "oil", "painting", "with", "sea", "photo"]),
    )
    writer = None
    for start in range(0, num_rows, ROWS_PER_CHUNK):
        chunk_rows = min(ROWS_PER_CHUNK, num_rows - start)
        captions = [" ".join(line) for line in vocabulary[rng.integers(len(vocabulary), size=(chunk_rows, 11))]]
        columns = {
            "TEXT": captions,
            "image": pa.nulls(chunk_rows, pa.string()),
            "LANGUAGE": np.where(rng.random(chunk_rows) < 0.6, "en", "de"),
        }
        columns |= {name: rng.integers(200, 2000, chunk_rows) for name in ("WIDTH", "HEIGHT")}
        columns |= {name: rng.random(chunk_rows) for name in ("punsafe", "pwatermark", "similarity")}
        columns["AESTHETIC_SCORE"] = rng.normal(6, 1, chunk_rows)
        batch = pa.table(columns)
        writer = writer or pq.ParquetWriter(path, batch.schema)
        writer.write_table(batch)
    if writer:
        writer.close()


def measure_row_filter(path: Path) -> dict:
    """Filter the rows of a `table`: seconds, and the memory that this process had at its highest."""
    params = validate_config(Filter, fill_section("filter", LAION_CRITERIA | {"path": str(path)}), "bench")
    start_time, rejections = time.perf_counter(), RejectionStats()
    retained, num_read = scan_source({"source": "parquet", "path": str(path), "columns": {}}, params, rejections)
    seconds = time.perf_counter() - start_time
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return {
        "rows": num_read,
        "candidates": len(retained),
        "seconds": seconds,
        "rows_per_second": num_read / seconds,
        "peak_gb": peak_gb,
    }
