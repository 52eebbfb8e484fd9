"""How fast a training step is, with random weights, part by part, and against the published procedure."""

import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import torch

from prunella.bench.baselines import MarkCallback
from prunella.bench.workload import Workload, count_encoder_flops, write_random_latents
from prunella.compute.precision import AUTOCAST_DTYPES, tf32_context
from prunella.params import Precision
from prunella.profiling.timing import synchronize_gpu
from prunella.training.memory_estimate import GB, estimate_memory


class StepTiming(NamedTuple):
    """One way to make a step: mean seconds, seconds of each part, the highest memory in bytes (None: unknown)."""

    seconds: float
    part_seconds: dict[str, float]
    peak_memory_bytes: int | None


def time_training_step(procedure: type, workload: Workload, steps: int, warmup_steps: int = 2) -> StepTiming:
    """Time `steps` steps of a way, after `warmup` and before as many again whose parts are timed one by one.

    The steps are timed together, so that a GPU may go on while it is looked at, as it does in training.
    """
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        write_random_latents(workload, Path(folder))
        is_gpu = workload.placement.device.startswith("cuda")
        if is_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        stepper = procedure(workload, Path(folder), stack, warmup_steps + 2 * steps)
        for _ in range(warmup_steps):
            stepper.step(lambda name: None)
        seconds = _time_call(lambda: [stepper.step(lambda name: None) for _ in range(steps)]) / steps
        peak_memory_bytes = torch.cuda.max_memory_allocated() if is_gpu else None
        marks: list[dict[str, float]] = []
        for _ in range(steps):
            marks.append({})
            stepper.step(_make_marker(marks[-1]))
        part_seconds = {name: statistics.median(mark[name] for mark in marks) for name in marks[0]}
    return StepTiming(seconds, part_seconds, peak_memory_bytes)


def measure_matrix_peak(device: str, precision: Precision) -> float:
    """FLOP/s of a plain matrix product in `precision`, the best of several."""
    is_gpu = device.startswith("cuda")
    size = 8192 if is_gpu else 2048
    a = torch.randn(size, size, device=device, dtype=AUTOCAST_DTYPES.get(precision, torch.float32))
    with tf32_context(precision):
        min_seconds = min(_time_call(lambda: [a @ a for _ in range(10 if is_gpu else 1)]) for _ in range(7))
    return 2 * size**3 * (10 if is_gpu else 1) / min_seconds


def time_procedures(
    workload: Workload, steps: int, num_rounds: int, procedures: tuple[type, ...]
) -> dict[str, list[StepTiming]]:
    """Timings by way, taken in turns: A B A B."""
    timings: dict[str, list[StepTiming]] = {procedure.__name__.lower(): [] for procedure in procedures}
    for _ in range(num_rounds):
        for procedure in procedures:
            timings[procedure.__name__.lower()].append(time_training_step(procedure, workload, steps))
    return timings


def make_step_report(workload: Workload, timings: dict[str, list[StepTiming]]) -> dict:
    """Images/s, TFLOP/s and shares of each way, and how they compare."""
    flops_per_image, images_per_step = (
        workload.count_flops_per_image(),
        workload.settings.batch_size * workload.settings.gradient_accumulation_steps,
    )
    peak_flops = measure_matrix_peak(workload.placement.device, workload.settings.precision)
    result_by_procedure = {
        name: _summarize_procedure(workload, runs, images_per_step, flops_per_image, peak_flops)
        for name, runs in timings.items()
    }
    step_report = {
        "tflop_an_image": flops_per_image / 1e12,
        "matrix_peak_tflops": peak_flops / 1e12,
        "memory_gb_reckoned": estimate_memory(workload.memory_spec, workload.settings, workload.micro_batch).total / GB,
        "ways": result_by_procedure,
    }
    if len(result_by_procedure) == 2:
        our_timings, published_timings = timings["ours"], timings["published"]
        step_report["counted_ratio"] = (flops_per_image + count_encoder_flops(workload)) / flops_per_image
        step_report["measured_ratios"] = [
            b.seconds / a.seconds for a, b in zip(our_timings, published_timings, strict=True)
        ]
    return step_report


def build_step_table(step_report: dict) -> list[list[str]]:
    """The report as a table, the head first: a row a way, a column a figure and a part's share."""
    names = ("data", "encoders", "teacher", "student", "backward", "optimizer")
    table = [["procedure", "images/s", "TFLOP/s", "of peak", "s a step", "peak GB", *names]]
    for name, result in step_report["ways"].items():
        peak_memory = f"{result['peak_memory_gb']:.1f}" if result["peak_memory_gb"] else "–"
        fractions = [f"{result['shares'][part]:.1%}" if part in result["shares"] else "–" for part in names]
        table.append(
            [
                name,
                f"{result['images_per_second']:.2f}",
                f"{result['tflops']:.3g}",
                f"{result['share_of_peak']:.1%}",
                f"{result['seconds_a_step']:.3f}",
                peak_memory,
                *fractions,
            ]
        )
    return table


def format_step_summary(workload: Workload, step_report: dict) -> str:
    """Text beside the table."""
    settings, placement = workload.settings, workload.placement
    lines = [
        f"{workload.plan.name} at {workload.latent_size * workload.vae_scale_factor} px, batch "
        f"{settings.batch_size}, {workload.micro_batch} at once, "
        f"{settings.precision}, "
        f"{placement.device}, compile {placement.compile}, channels last {placement.channels_last}, "
        f"gradient checkpointing {settings.gradient_checkpointing}, {torch.get_num_threads()} threads",
        f"counted: {step_report['tflop_an_image']:.4g} TFLOP an image; a plain matrix product reaches "
        f"{step_report['matrix_peak_tflops']:.3g} TFLOP/s; memory reckoned: {step_report['memory_gb_reckoned']:.2f} GB",
    ]
    if "counted_ratio" in step_report:
        ratios = ", ".join(f"{ratio:.2f}" for ratio in step_report["measured_ratios"])
        lines.append(
            f"against the published procedure: {ratios} times as fast ({step_report['counted_ratio']:.2f} counted)"
        )
    return "\n".join(lines)


def _summarize_procedure(
    workload: Workload, runs: list[StepTiming], images_per_step: int, flops_per_image: float, peak_flops: float
) -> dict:
    seconds = statistics.median(run.seconds for run in runs)
    part_seconds = {name: statistics.median(run.part_seconds[name] for run in runs) for name in runs[0].part_seconds}
    total_seconds = sum(part_seconds.values())
    peak_memories = [run.peak_memory_bytes for run in runs if run.peak_memory_bytes]
    return {
        "images_per_second": images_per_step / seconds,
        "tflops": flops_per_image * images_per_step / seconds / 1e12,
        "share_of_peak": flops_per_image * images_per_step / seconds / peak_flops,
        "seconds_a_step": seconds,
        "peak_memory_gb": max(peak_memories) / GB if peak_memories else None,
        "shares": {name: value / total_seconds for name, value in part_seconds.items()},
    }


def _make_marker(part_seconds: dict[str, float]) -> MarkCallback:
    """Notes the seconds since the last mark under the mark's name."""
    synchronize_gpu()
    last_time = [time.perf_counter()]

    def mark(name: str) -> None:
        synchronize_gpu()
        now = time.perf_counter()
        part_seconds[name] = part_seconds.get(name, 0.0) + now - last_time[0]
        last_time[0] = now

    return mark


def _time_call(function: Callable[[], object]) -> float:
    synchronize_gpu()
    start_time = time.perf_counter()
    function()
    synchronize_gpu()
    return time.perf_counter() - start_time
