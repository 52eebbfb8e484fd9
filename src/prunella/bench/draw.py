"""What drawing costs students of every architecture, with random weights from configs alone.

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

from prunella.bench.workload import Workload, random_texts, random_vae, settings
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
DEVIATION = 0.02  # of the random weights, so that no number overflows or vanishes
Call = Callable[[], object]


class Case(NamedTuple):
    """What is asked for: every plan in every variant."""

    plans: dict[str, tuple[Plan, str]]  # by a student's name: its plan, and its teacher (an original or a folder)
    variants: list[LatencyVariant]
    device: str
    rounds: int
    resolution: int | None = None  # pixels; None: the teacher's own
    steps: int | None = None  # of the sampler, for whole pictures; None: one UNet step alone
    tiny_vae: bool = False  # as in Segmind-Vega's published chart
    energy: EnergyMeter | None = None


def variants(
    precisions: list[str], compiles: list[bool], layouts: list[bool], batches: list[int]
) -> list[LatencyVariant]:
    """Every combination; `layouts` says whether channels are last."""
    names = ("precision", "compile", "channels_last", "batch")
    every = product(precisions, compiles, layouts, batches)
    return [LatencyVariant.model_validate(dict(zip(names, each, strict=True))) for each in every]


def measured(case: Case) -> Iterator[dict[str, Any]]:
    """A row of figures for each teacher and student in each variant, as soon as it is there."""
    for variant in case.variants:
        told: set[str] = set()  # teachers that have their row
        for student, (plan, teacher) in case.plans.items():
            theirs, own = _pair(case, variant, plan, teacher)
            if teacher not in told:
                yield _row(case, variant, teacher, teacher, theirs)
            yield _row(case, variant, student, teacher, own)
            told.add(teacher)


def _row(case: Case, variant: LatencyVariant, model: str, teacher: str, figures: dict[str, Any]) -> dict[str, Any]:
    rows = [row for row in read_published_figures()["speed"] if model in row["students"]]
    shown = [f"{row['times']:.2f} × on {row['setting']}, {row['figure']}" for row in rows]
    known = {"model": model, "teacher": teacher, "variant": variant.title, "sampler_steps": case.steps}
    return known | figures | {"published": "; ".join(shown) or None}


def _pair(case: Case, variant: LatencyVariant, plan: Plan, teacher: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Figures of the teacher and of the student, taken in turns."""
    place = Placement(case.device, variant.compile, variant.channels_last)
    encoders = Path(teacher) if Path(teacher).is_dir() else None
    work = Workload(plan, load_teacher_config(teacher), settings(), place, case.resolution, encoders)
    what = "picture" if case.steps else "unet_step"
    figures: dict[str, dict[str, Any]] = {}
    calls: dict[str, Call] = {}
    with ExitStack() as stack, tf32_context(variant.precision), torch.no_grad():
        around = _Around(case, variant, work)
        for name, config in (("teacher", work.teacher), ("student", work.student)):
            figures[name], calls[name] = _loaded(around, config, stack)
        turns = InterleavedTimer(calls, case.rounds, case.energy)
    for name, own in figures.items():
        own.update(turns.latency(name, what) | {f"{what}_speedup": turns.speedup(name, "teacher")})
        if (joules := turns.energy(name)) is not None:
            own["energy_j"] = round(joules / variant.batch, 3)
    calls.clear()
    gc.collect()
    return figures["teacher"], figures["student"]


def _loaded(around: "_Around", config: dict, stack: ExitStack) -> tuple[dict[str, Any], Call]:
    """Size and peaks of a UNet, alone while it is loaded and while it draws, and the warmed-up call that draws."""
    meter, unets = MemoryMeter(), list[UNet2DConditionModel]()
    loading = meter.peak_mb(lambda: unets.append(random_unet(config, around.device, around.dtype)))
    stack.enter_context(apply_placement(unets[0], [], around.work.place))
    call = around.call(unets[0])
    for _ in range(WARMUP):
        call()
    figures = {
        "params": sum(weight.numel() for weight in unets[0].parameters()),
        "weights_mb": round(sum(weight.nbytes for weight in unets[0].parameters()) / 1e6, 1),
        "resolution": around.work.side * around.work.factor,
        "loading_peak_memory_mb": loading,
        "peak_memory_mb": meter.peak_mb(call),
    }
    return figures, call


class _Around:
    """What teacher and student draw with: random inputs, and for whole pictures text encoders, sampler and VAE."""

    def __init__(self, case: Case, variant: LatencyVariant, work: Workload):
        self.work, self.steps, self.batch, self.device = work, case.steps, variant.batch, case.device
        self.dtype = AUTOCAST_DTYPES.get(variant.precision, torch.float32)
        source = torch.Generator().manual_seed(0)
        rows = {name: torch.randn(2 * self.batch, *shape, generator=source) for name, shape in work.example.items()}
        self.inputs = {name: value.to(self.device, self.dtype) for name, value in rows.items()}  # with guidance twice
        if self.steps:
            self.texts = [self._part(text) for text in random_texts(work)]
            self.vae = self._part(AutoencoderTiny() if case.tiny_vae else random_vae(work))
            words = min(text.config.vocab_size for text in self.texts)
            tokens = torch.randint(0, words, (2 * self.batch, work.tokens), generator=source)
            self.tokens = tokens.to(self.device)
            self.scheduler = DDIMScheduler()

    def _part(self, model: nn.Module) -> Any:
        return nn.Module.to(model, self.device, self.dtype).eval()

    def call(self, unet: UNet2DConditionModel) -> Call:
        """A whole picture with `unet`, or one step of it."""
        return (lambda: self._picture(unet)) if self.steps else (lambda: self._step(unet, self.inputs, 500))

    def _step(self, unet: UNet2DConditionModel, inputs: dict[str, Tensor], timestep: int) -> Tensor:
        timesteps = torch.full((2 * self.batch,), timestep, device=self.device)
        return predict_with_unet(unet, inputs["latents"], timesteps, inputs)

    def _picture(self, unet: UNet2DConditionModel) -> Tensor:
        states = torch.cat([text(self.tokens).last_hidden_state for text in self.texts], -1)
        latents = self.inputs["latents"][: self.batch]
        self.scheduler.set_timesteps(self.steps)
        for timestep in self.scheduler.timesteps.tolist():
            inputs = self.inputs | {"latents": torch.cat([latents] * 2), "states": states}
            without, with_text = self._step(unet, inputs, timestep).chunk(2)
            guided = without + GUIDANCE * (with_text - without)
            latents = self.scheduler.step(guided, timestep, latents).prev_sample
        return self.vae.decode(latents).sample


def random_unet(config: dict, device: str, dtype: torch.dtype) -> UNet2DConditionModel:
    """A UNet of random numbers, made in its own precision on the device: none is held in another meanwhile."""
    unet = nn.Module.to(build_meta_unet(config), dtype).eval()
    unet.to_empty(device=device)
    for weight in unet.parameters():
        weight.requires_grad_(False).normal_(0, DEVIATION)
    return unet


def table(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Table cells, the head first: a row a model and variant; columns without values are left out."""
    columns: dict[str, tuple[str, Callable[[Any], str]]] = {
        "params": ("parameters", lambda v: f"{v / 1e6:,.0f} M"),
        "weights_mb": ("as stored, MB", lambda v: f"{v:,.0f}"),
        "variant": ("variant", str),
        "unet_step_ms_p50": ("step, ms", lambda v: f"{v:,.0f}" if v >= 100 else f"{v:.3g}"),
        "unet_step_speedup": ("times as fast", _times),
        "picture_ms_p50": ("picture, ms", lambda v: f"{v:,.0f}"),
        "picture_speedup": ("times as fast", _times),
        "loading_peak_memory_mb": ("loading, MB", lambda v: f"{v:,.0f}"),
        "peak_memory_mb": ("drawing, MB", lambda v: f"{v:,.0f}"),
        "energy_j": ("J a picture", lambda v: f"{v:,.1f}"),
        "published": ("published", str),
    }
    there = [key for key in columns if any(row.get(key) is not None for row in rows)]
    cells = [[columns[key][1](row[key]) if row.get(key) is not None else EMPTY for key in there] for row in rows]
    heads = [columns[key][0] for key in there]
    return [["model", *heads], *([row["model"], *own] for row, own in zip(rows, cells, strict=True))]


def _times(found: dict[str, float]) -> str:
    return f"{found['value']:.2f} ({found['low']:.2f} to {found['high']:.2f})"
