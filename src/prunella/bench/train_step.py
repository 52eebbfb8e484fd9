"""How fast a training step is, with random weights, part by part, and against the published procedure."""

import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import torch

from prunella.bench.baselines import Mark
from prunella.bench.workload import Workload, encoder_flops, random_pairs
from prunella.compute.precision import AUTOCAST_DTYPES, tf32_context
from prunella.params import Precision
from prunella.profiling.timing import synchronize_gpu
from prunella.training.memory_estimate import GB, needed


class Timing(NamedTuple):
    """Of a way to make a step: mean seconds, seconds of each part, the highest memory in bytes (None: unknown)."""

    seconds: float
    parts: dict[str, float]
    peak: int | None


def timed(way: type, case: Workload, steps: int, warmup: int = 2) -> Timing:
    """Time `steps` steps of a way, after `warmup` and before as many again whose parts are timed one by one.

    The steps are timed together, so that a GPU may go on while it is looked at, as it does in training.
    """
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        random_pairs(case, Path(folder))
        gpu = case.place.device.startswith("cuda")
        if gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        one = way(case, Path(folder), stack, warmup + 2 * steps)
        for _ in range(warmup):
            one.step(lambda name: None)
        seconds = _seconds(lambda: [one.step(lambda name: None) for _ in range(steps)]) / steps
        peak = torch.cuda.max_memory_allocated() if gpu else None
        marks: list[dict[str, float]] = []
        for _ in range(steps):
            marks.append({})
            one.step(_marker(marks[-1]))
        parts = {name: statistics.median(mark[name] for mark in marks) for name in marks[0]}
    return Timing(seconds, parts, peak)


def matrix_peak(device: str, precision: Precision) -> float:
    """FLOP/s of a plain matrix product in `precision`, the best of several."""
    gpu = device.startswith("cuda")
    size = 8192 if gpu else 2048
    a = torch.randn(size, size, device=device, dtype=AUTOCAST_DTYPES.get(precision, torch.float32))
    with tf32_context(precision):
        fastest = min(_seconds(lambda: [a @ a for _ in range(10 if gpu else 1)]) for _ in range(7))
    return 2 * size**3 * (10 if gpu else 1) / fastest


def compared(case: Workload, steps: int, rounds: int, ways: tuple[type, ...]) -> dict[str, list[Timing]]:
    """Timings by way, taken in turns: A B A B."""
    timings: dict[str, list[Timing]] = {way.__name__.lower(): [] for way in ways}
    for _ in range(rounds):
        for way in ways:
            timings[way.__name__.lower()].append(timed(way, case, steps))
    return timings


def report(case: Workload, timings: dict[str, list[Timing]]) -> dict:
    """Images/s, TFLOP/s and shares of each way, and how they compare."""
    flops, batch = case.flops(), case.settings.batch_size * case.settings.gradient_accumulation_steps
    peak = matrix_peak(case.place.device, case.settings.precision)
    ways = {name: _way(case, runs, batch, flops, peak) for name, runs in timings.items()}
    result = {
        "tflop_an_image": flops / 1e12,
        "matrix_peak_tflops": peak / 1e12,
        "memory_gb_reckoned": needed(case.subject, case.settings, case.at_once).total / GB,
        "ways": ways,
    }
    if len(ways) == 2:
        ours, published = timings["ours"], timings["published"]
        result["counted_ratio"] = (flops + encoder_flops(case)) / flops
        result["measured_ratios"] = [b.seconds / a.seconds for a, b in zip(ours, published, strict=True)]
    return result


def rows(figures: dict) -> list[list[str]]:
    """The report as a table, the head first: a row a way, a column a figure and a part's share."""
    names = ("data", "encoders", "teacher", "student", "backward", "optimizer")
    table = [["procedure", "images/s", "TFLOP/s", "of peak", "s a step", "peak GB", *names]]
    for name, way in figures["ways"].items():
        memory = f"{way['peak_memory_gb']:.1f}" if way["peak_memory_gb"] else "–"
        shares = [f"{way['shares'][part]:.1%}" if part in way["shares"] else "–" for part in names]
        table.append(
            [
                name,
                f"{way['images_per_second']:.2f}",
                f"{way['tflops']:.3g}",
                f"{way['share_of_peak']:.1%}",
                f"{way['seconds_a_step']:.3f}",
                memory,
                *shares,
            ]
        )
    return table


def said(case: Workload, figures: dict) -> str:
    """What stands beside the table."""
    settings, place = case.settings, case.place
    lines = [
        f"{case.plan.name} at {case.side * case.factor} px, batch {settings.batch_size}, {case.at_once} at once, "
        f"{settings.precision}, "
        f"{place.device}, compile {place.compile}, channels last {place.channels_last}, "
        f"gradient checkpointing {settings.gradient_checkpointing}, {torch.get_num_threads()} threads",
        f"counted: {figures['tflop_an_image']:.4g} TFLOP an image; a plain matrix product reaches "
        f"{figures['matrix_peak_tflops']:.3g} TFLOP/s; memory reckoned: {figures['memory_gb_reckoned']:.2f} GB",
    ]
    if "counted_ratio" in figures:
        ratios = ", ".join(f"{ratio:.2f}" for ratio in figures["measured_ratios"])
        lines.append(
            f"against the published procedure: {ratios} times as fast ({figures['counted_ratio']:.2f} counted)"
        )
    return "\n".join(lines)


def _way(case: Workload, runs: list[Timing], batch: int, flops: float, peak: float) -> dict:
    seconds = statistics.median(run.seconds for run in runs)
    parts = {name: statistics.median(run.parts[name] for run in runs) for name in runs[0].parts}
    whole = sum(parts.values())
    peaks = [run.peak for run in runs if run.peak]
    return {
        "images_per_second": batch / seconds,
        "tflops": flops * batch / seconds / 1e12,
        "share_of_peak": flops * batch / seconds / peak,
        "seconds_a_step": seconds,
        "peak_memory_gb": max(peaks) / GB if peaks else None,
        "shares": {name: value / whole for name, value in parts.items()},
    }


def _marker(seconds: dict[str, float]) -> Mark:
    """Notes the seconds since the last mark under the mark's name."""
    synchronize_gpu()
    last = [time.perf_counter()]

    def mark(name: str) -> None:
        synchronize_gpu()
        now = time.perf_counter()
        seconds[name] = seconds.get(name, 0.0) + now - last[0]
        last[0] = now

    return mark


def _seconds(call: Callable[[], object]) -> float:
    synchronize_gpu()
    began = time.perf_counter()
    call()
    synchronize_gpu()
    return time.perf_counter() - began
