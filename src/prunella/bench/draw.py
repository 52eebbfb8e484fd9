"""Cost of drawing for students of every architecture, with random weights from configs alone.

Speed and memory need no trained weights: a UNet of the right shapes with random numbers takes the same time. A student
is timed in turns with its teacher: one UNet step alone, or whole pictures (text encoders, the sampler's steps with
guidance, the VAE). The stock safety checker is left out, here as wherever we draw.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn

from prunella.bench.workload import Workload, make_distill_settings, make_random_text_encoders, make_random_vae
from prunella.compute.device import Placement, apply_placement
from prunella.compute.precision import AUTOCAST_DTYPES, tf32_context
from prunella.models.families import predict_with_unet
from prunella.models.pipeline import build_meta_unet
from prunella.models.reference_configs import load_teacher_config
from prunella.params import LatencyVariant
from prunella.profiling.energy import EnergyMeter
from prunella.profiling.meters import MemoryMeter
from prunella.profiling.timing import InterleavedTimer
from prunella.pruning.plan import Plan
from prunella.reporting.published import read_published_figures
from prunella.reporting.summary import EMPTY

GUIDANCE = 7.5
WARMUP = 2  # calls before any is timed
WEIGHT_STD = 0.02  # of the random weights, so that no number overflows or vanishes
TimedCall = Callable[[], object]


class GenerationCase(NamedTuple):
    """The request: every plan in every variant."""

    plans: dict[str, tuple[Plan, str]]  # by a student's name: its plan, and its teacher (an original or a folder)
    variants: list[LatencyVariant]
    device: str
    rounds: int
    resolution: int | None = None  # pixels; None: the teacher's own
    steps: int | None = None  # of the sampler, for whole pictures; None: one UNet step alone
    tiny_vae: bool = False  # as in Segmind-Vega's published chart
    energy: EnergyMeter | None = None


def make_latency_variants(
    precisions: list[str], compiles: list[bool], channels_last: list[bool], batch_sizes: list[int]
) -> list[LatencyVariant]:
    """Every combination; `layouts` says whether channels are last."""
    names = ("precision", "compile", "channels_last", "batch")
    combinations = product(precisions, compiles, channels_last, batch_sizes)
    return [LatencyVariant.model_validate(dict(zip(names, combination, strict=True))) for combination in combinations]


def measure_generation(case: GenerationCase) -> Iterator[dict[str, Any]]:
    """A row of figures for each teacher and student in each variant, as soon as it is there."""
    for variant in case.variants:
        finished_teachers: set[str] = set()  # teachers that have their row
        for student_name, (plan, teacher_name) in case.plans.items():
            teacher_metrics, student_metrics = _measure_teacher_and_student(case, variant, plan, teacher_name)
            if teacher_name not in finished_teachers:
                yield _make_generation_row(case, variant, teacher_name, teacher_name, teacher_metrics)
            yield _make_generation_row(case, variant, student_name, teacher_name, student_metrics)
            finished_teachers.add(teacher_name)


def _make_generation_row(
    case: GenerationCase, variant: LatencyVariant, model_name: str, teacher_name: str, metrics: dict[str, Any]
) -> dict[str, Any]:
    published_rows = [row for row in read_published_figures()["speed"] if model_name in row["students"]]
    published_speeds = [f"{row['times']:.2f} × on {row['setting']}, {row['figure']}" for row in published_rows]
    identity = {"model": model_name, "teacher": teacher_name, "variant": variant.title, "sampler_steps": case.steps}
    return identity | metrics | {"published": "; ".join(published_speeds) or None}


def _measure_teacher_and_student(
    case: GenerationCase, variant: LatencyVariant, plan: Plan, teacher_name: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Figures of the teacher and of the student, taken in turns."""
    placement = Placement(case.device, variant.compile, variant.channels_last)
    encoders_dir = Path(teacher_name) if Path(teacher_name).is_dir() else None
    workload = Workload(
        plan, load_teacher_config(teacher_name), make_distill_settings(), placement, case.resolution, encoders_dir
    )
    timed_name = "picture" if case.steps else "unet_step"
    metrics: dict[str, dict[str, Any]] = {}
    calls: dict[str, TimedCall] = {}
    with ExitStack() as stack, tf32_context(variant.precision), torch.no_grad():
        generation = _GenerationInputs(case, variant, workload)
        for name, config in (("teacher", workload.teacher_unet_config), ("student", workload.student_unet_config)):
            metrics[name], calls[name] = _load_and_warm_up(generation, config, stack)
        timer = InterleavedTimer(calls, case.rounds, case.energy)
    for name, model_metrics in metrics.items():
        model_metrics.update(
            timer.latency(name, timed_name) | {f"{timed_name}_speedup": timer.speedup(name, "teacher")}
        )
        if (joules := timer.energy(name)) is not None:
            model_metrics["energy_j"] = round(joules / variant.batch, 3)
    calls.clear()
    gc.collect()
    return metrics["teacher"], metrics["student"]


def _load_and_warm_up(
    generation: "_GenerationInputs", unet_config: dict, stack: ExitStack
) -> tuple[dict[str, Any], TimedCall]:
    """Size and peaks of a UNet, alone while it is loaded and while it draws, and the warmed-up call that draws."""
    meter, unets = MemoryMeter(), list[UNet2DConditionModel]()
    loading_peak_mb = meter.peak_mb(
        lambda: unets.append(make_random_unet_in_dtype(unet_config, generation.device, generation.dtype))
    )
    stack.enter_context(apply_placement(unets[0], [], generation.workload.placement))
    call = generation.make_call(unets[0])
    for _ in range(WARMUP):
        call()
    metrics = {
        "params": sum(weight.numel() for weight in unets[0].parameters()),
        "weights_mb": round(sum(weight.nbytes for weight in unets[0].parameters()) / 1e6, 1),
        "resolution": generation.workload.latent_size * generation.workload.vae_scale_factor,
        "loading_peak_memory_mb": loading_peak_mb,
        "peak_memory_mb": meter.peak_mb(call),
    }
    return metrics, call


class _GenerationInputs:
    """How teacher and student draw: random inputs, and for whole pictures text encoders, sampler and VAE."""

    def __init__(self, case: GenerationCase, variant: LatencyVariant, workload: Workload):
        self.workload, self.num_inference_steps, self.batch_size, self.device = (
            workload,
            case.steps,
            variant.batch,
            case.device,
        )
        self.dtype = AUTOCAST_DTYPES.get(variant.precision, torch.float32)
        generator = torch.Generator().manual_seed(0)
        random_tensors = {
            name: torch.randn(2 * self.batch_size, *shape, generator=generator)
            for name, shape in workload.example_shapes.items()
        }
        self.inputs = {
            name: value.to(self.device, self.dtype) for name, value in random_tensors.items()
        }  # with guidance twice
        if self.num_inference_steps:
            self.text_encoders = [self._to_device(text) for text in make_random_text_encoders(workload)]
            self.vae = self._to_device(AutoencoderTiny() if case.tiny_vae else make_random_vae(workload))
            vocab_size = min(text.config.vocab_size for text in self.text_encoders)
            tokens = torch.randint(0, vocab_size, (2 * self.batch_size, workload.num_tokens), generator=generator)
            self.tokens = tokens.to(self.device)
            self.scheduler = DDIMScheduler()

    def _to_device(self, model: nn.Module) -> Any:
        return nn.Module.to(model, self.device, self.dtype).eval()

    def make_call(self, unet: UNet2DConditionModel) -> TimedCall:
        """A whole picture with `unet`, or one step of it."""
        return (
            (lambda: self._generate_image(unet))
            if self.num_inference_steps
            else (lambda: self._run_unet_step(unet, self.inputs, 500))
        )

    def _run_unet_step(self, unet: UNet2DConditionModel, inputs: dict[str, Tensor], timestep: int) -> Tensor:
        timesteps = torch.full((2 * self.batch_size,), timestep, device=self.device)
        return predict_with_unet(unet, inputs["latents"], timesteps, inputs)

    def _generate_image(self, unet: UNet2DConditionModel) -> Tensor:
        text_embeddings = torch.cat([text(self.tokens).last_hidden_state for text in self.text_encoders], -1)
        latents = self.inputs["latents"][: self.batch_size]
        self.scheduler.set_timesteps(self.num_inference_steps)
        for timestep in self.scheduler.timesteps.tolist():
            inputs = self.inputs | {"latents": torch.cat([latents] * 2), "states": text_embeddings}
            uncond_prediction, text_prediction = self._run_unet_step(unet, inputs, timestep).chunk(2)
            prediction = uncond_prediction + GUIDANCE * (text_prediction - uncond_prediction)
            latents = self.scheduler.step(prediction, timestep, latents).prev_sample
        return self.vae.decode(latents).sample


def make_random_unet_in_dtype(unet_config: dict, device: str, dtype: torch.dtype) -> UNet2DConditionModel:
    """A UNet of random numbers, made in its own precision on the device: none is held in another meanwhile."""
    unet = nn.Module.to(build_meta_unet(unet_config), dtype).eval()
    unet.to_empty(device=device)
    for weight in unet.parameters():
        weight.requires_grad_(False).normal_(0, WEIGHT_STD)
    return unet


def build_generation_table(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Table cells, the head first: a row a model and variant; columns without values are left out."""
    columns: dict[str, tuple[str, Callable[[Any], str]]] = {
        "params": ("parameters", lambda v: f"{v / 1e6:,.0f} M"),
        "weights_mb": ("as stored, MB", lambda v: f"{v:,.0f}"),
        "variant": ("variant", str),
        "unet_step_ms_p50": ("step, ms", lambda v: f"{v:,.0f}" if v >= 100 else f"{v:.3g}"),
        "unet_step_speedup": ("times as fast", _format_speedup_interval),
        "picture_ms_p50": ("picture, ms", lambda v: f"{v:,.0f}"),
        "picture_speedup": ("times as fast", _format_speedup_interval),
        "loading_peak_memory_mb": ("loading, MB", lambda v: f"{v:,.0f}"),
        "peak_memory_mb": ("drawing, MB", lambda v: f"{v:,.0f}"),
        "energy_j": ("J a picture", lambda v: f"{v:,.1f}"),
        "published": ("published", str),
    }
    present_keys = [key for key in columns if any(row.get(key) is not None for row in rows)]
    cells = [[columns[key][1](row[key]) if row.get(key) is not None else EMPTY for key in present_keys] for row in rows]
    headers = [columns[key][0] for key in present_keys]
    return [["model", *headers], *([row["model"], *row_cells] for row, row_cells in zip(rows, cells, strict=True))]


def _format_speedup_interval(interval: dict[str, float]) -> str:
    return f"{interval['value']:.2f} ({interval['low']:.2f} to {interval['high']:.2f})"
