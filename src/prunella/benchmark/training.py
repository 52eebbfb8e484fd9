"""How fast a training step is, with random weights, and against the procedure that the published students came from.

Two ways to make a step on models of the same configs: `Ours`, of the loop's own parts, and `Published`, as the public
distillation scripts do it (BK-SDM's kd_train_text_to_image.py, segmind/distill-sd): pictures through the VAE and
captions through the text encoders in every step, fp16 autocast on a GPU and fp32 on a CPU, the teacher in fp32 among
the prepared models, torch's AdamW as it comes, nothing compiled.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel

from prunella.benchmark.cost import macs
from prunella.errors import UserError
from prunella.latents.shards import Latents, Writer
from prunella.params import Distill, check
from prunella.students.derive import feature_pairs, student_config
from prunella.students.families import family
from prunella.students.plan import Plan
from prunella.training.batches import training_batches
from prunella.training.feeding import fed
from prunella.training.losses import Distillation
from prunella.training.memory import GB, Example, Subject, needed
from prunella.training.optimizer import adamw
from prunella.training.placing import Place, settled
from prunella.training.precision import BITS, autocast, rounding

PAIRS = 64  # of the random set that is learned from
Mark = Callable[[str], None]

# The originals' encoders, as far as they shape the networks: the VAE of all, CLIP ViT-L and OpenCLIP's ViT-H and bigG.
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}
TEXT = {
    768: {"num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    1024: {"num_hidden_layers": 23, "num_attention_heads": 16, "intermediate_size": 4096},
    1280: {"num_hidden_layers": 32, "num_attention_heads": 20, "intermediate_size": 5120},
}


class Case(NamedTuple):
    """What is timed: a student of a teacher with UNet config `teacher`."""

    plan: Plan
    teacher: dict
    settings: Distill
    place: Place
    resolution: int | None = None  # pixels; None: the teacher's own
    encoders: Path | None = None  # a pipeline folder whose encoders' configs are used; None: the originals'

    @property
    def factor(self) -> int:
        """Pixels of a latent pixel's side."""
        return 2 ** (len(_vae_config(self)["block_out_channels"]) - 1)

    @property
    def side(self) -> int:
        """Latent pixels. Raises UserError for a resolution that the VAE and the UNet do not halve evenly."""
        if self.resolution is None:
            return self.teacher["sample_size"]
        multiple = self.factor * 2 ** (len(self.teacher["down_block_types"]) - 1)
        if self.resolution % multiple:
            raise UserError(f"--resolution: {self.resolution} is no multiple of {multiple}, which this teacher needs")
        return self.resolution // self.factor

    @property
    def student(self) -> dict:
        return student_config(self.plan, self.teacher)

    @property
    def tokens(self) -> int:
        """Of a caption: as many as the text encoder has positions."""
        if self.encoders is None:
            return 77
        return CLIPTextConfig.from_pretrained(self.encoders / "text_encoder").max_position_embeddings

    @property
    def example(self) -> Example:
        added = {}
        if self.teacher.get("addition_embed_type") == "text_time":
            times = 6 * self.teacher["addition_time_embed_dim"]
            added = {"pooled": (self.teacher["projection_class_embeddings_input_dim"] - times,), "sizes": (6,)}
        latents = (self.teacher["in_channels"], self.side, self.side)
        return {"latents": latents, "states": (self.tokens, self.teacher["cross_attention_dim"]), **added}

    @property
    def subject(self) -> Subject:
        pairs = feature_pairs(self.plan, self.settings.features)
        listened = tuple(pair.student for pair in pairs)
        gpu = self.place.device.startswith("cuda")
        return Subject(self.student, self.teacher, self.example, gpu=gpu, listened=listened)

    def flops(self) -> float:
        """Of an image: the teacher's forward, the student's forward and twice that for its backward pass."""
        teacher, student = (
            macs({**config, "sample_size": self.side})["macs"] for config in (self.teacher, self.student)
        )
        return 2.0 * (teacher + 3 * student)


class Timing(NamedTuple):
    """Of a way to make a step: median seconds, seconds of each part, the highest memory in bytes (None: unknown)."""

    seconds: float
    parts: dict[str, float]
    peak: int | None


class Ours:
    """The step that `distill` makes."""

    def __init__(self, case: Case, folder: Path, stack: ExitStack):
        device = torch.device(case.place.device)
        self.student, self.teacher = _unet(case.student, device).train(), _unet(case.teacher, device)
        pairs, precision = feature_pairs(case.plan, case.settings.features), case.settings.precision
        if precision in BITS:
            self.teacher.to(BITS[precision])
        if case.settings.gradient_checkpointing:
            self.student.enable_gradient_checkpointing()
        stack.enter_context(settled(self.teacher, [pair.teacher for pair in pairs], case.place))
        stack.enter_context(settled(self.student, [pair.student for pair in pairs], case.place))
        self.loss = Distillation(self.teacher, pairs, DDPMScheduler(), case.settings)
        self.optimizer = adamw(self.student.parameters(), case.settings)
        batches = training_batches(Latents(folder, "train"), case.settings.batch_size, case.settings, 1000)
        self.feed = fed(batches, iter(range(10**9)), device)
        self.settings, self.device = case.settings, device

    def step(self, mark: Mark) -> None:
        with rounding(self.settings.precision):
            self._step(mark)

    def _step(self, mark: Mark) -> None:
        batch = next(self.feed)
        mark("data")
        with _marked(self.teacher, mark), autocast(self.device, self.settings.precision):
            total = self.loss(self.student, batch)["loss"]
        mark("student")
        total.backward()
        mark("backward")
        nn.utils.clip_grad_norm_(self.student.parameters(), self.settings.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        total.item()  # the loop looks at it at every step
        mark("optimizer")


class Published:
    """The step of the public scripts."""

    def __init__(self, case: Case, folder: Path, stack: ExitStack):
        self.device = torch.device(case.place.device)
        self.precision = "fp16" if self.device.type == "cuda" else "fp32"
        frozen = BITS.get(self.precision, torch.float32)
        self.student, self.teacher = _unet(case.student, self.device).train(), _unet(case.teacher, self.device)
        if case.settings.gradient_checkpointing:
            self.student.enable_gradient_checkpointing()
        self.vae, *self.texts = (
            nn.Module.to(part, self.device, frozen).eval().requires_grad_(False) for part in (_vae(case), *_texts(case))
        )
        self.words = min(text.config.vocab_size for text in self.texts)
        pairs = feature_pairs(case.plan, case.settings.features)
        self.loss = Distillation(self.teacher, pairs, DDPMScheduler(), case.settings)
        self.optimizer = torch.optim.AdamW(self.student.parameters(), lr=case.settings.learning_rate)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        # Made once: the public scripts have workers that read and decode meanwhile.
        side, n = case.side * case.factor, case.settings.batch_size
        source = torch.Generator().manual_seed(0)
        self.pixels = torch.rand(n, 3, side, side, generator=source) * 2 - 1
        self.tokens = torch.randint(0, self.words, (n, case.tokens), generator=source)
        if self.device.type == "cuda":
            self.pixels, self.tokens = self.pixels.pin_memory(), self.tokens.pin_memory()
        self.case = case

    def step(self, mark: Mark) -> None:
        case, n = self.case, self.case.settings.batch_size
        pixels = self.pixels.to(self.device, non_blocking=True).to(self.vae.dtype)
        tokens = self.tokens.to(self.device, non_blocking=True)
        mark("data")
        with torch.no_grad():
            latents = self.vae.encode(pixels).latent_dist.sample().float() * 0.18215
            states = torch.cat([text(tokens).last_hidden_state for text in self.texts], -1).float()
        mark("encoders")
        batch = {
            "latents": latents,
            "noise": torch.randn_like(latents),
            "timesteps": torch.randint(0, 1000, (n,), device=self.device),
            "states": states,
        }
        batch |= {
            name: torch.zeros(n, *case.example[name], device=self.device)
            for name in ("pooled", "sizes")
            if name in case.example
        }
        with _marked(self.teacher, mark), autocast(self.device, self.precision):
            total = self.loss(self.student, batch)["loss"]
        mark("student")
        self.scaler.scale(total).backward()
        mark("backward")
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.student.parameters(), case.settings.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        total.item()
        mark("optimizer")


def timed(way: type, case: Case, steps: int, warmup: int = 2) -> Timing:
    """Time `steps` steps of a way, after `warmup` and before as many again whose parts are timed one by one."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        _random_pairs(case, Path(folder))
        gpu = case.place.device.startswith("cuda")
        if gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        one = way(case, Path(folder), stack)
        for _ in range(warmup):
            one.step(lambda name: None)
        seconds = [_seconds(lambda: one.step(lambda name: None)) for _ in range(steps)]
        peak = torch.cuda.max_memory_allocated() if gpu else None
        marks: list[dict[str, float]] = []
        for _ in range(steps):
            marks.append({})
            one.step(_marker(marks[-1]))
        parts = {name: statistics.median(mark[name] for mark in marks) for name in marks[0]}
    return Timing(statistics.median(seconds), parts, peak)


def settings(**changes) -> Distill:
    """Those of SD-Small and SD-Tiny as far as speed is concerned, in small batches of fp32, with `changes`."""
    learning = {"steps": 1, "learning_rate": 1e-5, "warmup_steps": 0, "schedule": "constant", "weight_decay": 0.01}
    learning |= {"clip_norm": 1.0, "ema_decay": 0.0, "checkpoint_every": 1, "evaluate_every": 1, "picture_every": 1}
    learning |= {"snr_gamma": None, "noise_offset": 0.0, "caption_dropout": 0.1, "storage": "fp16", "seed": 0}
    terms = {"task_weight": 1.0, "output_weight": 0.5, "feature_weight": 0.5, "features": None}
    terms |= {"feature_normalisation": "none", "batch_size": 4, "precision": "fp32", "gradient_checkpointing": False}
    return check(Distill, learning | terms | changes, "bench")


def matrix_peak(device: str, precision: str) -> float:
    """FLOP/s of a plain matrix product in `precision`, the best of several."""
    gpu = device.startswith("cuda")
    size = 8192 if gpu else 2048
    a = torch.randn(size, size, device=device, dtype=BITS.get(precision, torch.float32))
    with rounding(precision):
        fastest = min(_seconds(lambda: [a @ a for _ in range(10 if gpu else 1)]) for _ in range(7))
    return 2 * size**3 * (10 if gpu else 1) / fastest


def encoder_flops(case: Case) -> float:
    """Of an image: the VAE's encoder and the text encoders, which the published procedure runs in every step."""
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        vae = _vae(case)
        vae.set_attn_processor(AttnProcessor())
        side = case.side * case.factor
        vae.encode(torch.empty(1, 3, side, side))
        for text in _texts(case):
            text(torch.empty(1, case.tokens, dtype=torch.long))
    return float(counter.get_total_flops())


def compared(case: Case, steps: int, rounds: int, ways: tuple[type, ...]) -> dict[str, list[Timing]]:
    """Timings by way, taken in turns: A B A B."""
    timings: dict[str, list[Timing]] = {way.__name__.lower(): [] for way in ways}
    for _ in range(rounds):
        for way in ways:
            timings[way.__name__.lower()].append(timed(way, case, steps))
    return timings


def report(case: Case, timings: dict[str, list[Timing]]) -> dict:
    """Images/s, TFLOP/s and shares of each way, and how they compare."""
    flops, batch = case.flops(), case.settings.batch_size
    peak = matrix_peak(case.place.device, case.settings.precision)
    ways = {name: _way(case, runs, batch, flops, peak) for name, runs in timings.items()}
    result = {
        "tflop_an_image": flops / 1e12,
        "matrix_peak_tflops": peak / 1e12,
        "memory_gb_reckoned": needed(case.subject, case.settings).total / GB,
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


def said(case: Case, figures: dict) -> str:
    """What stands beside the table."""
    settings, place = case.settings, case.place
    lines = [
        f"{case.plan.name} at {case.side * case.factor} px, batch {settings.batch_size}, {settings.precision}, "
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


def _way(case: Case, runs: list[Timing], batch: int, flops: float, peak: float) -> dict:
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


def _random_pairs(case: Case, folder: Path) -> None:
    """An encoded folder of random pairs, so that reading and noising are timed as they are."""
    writer, shapes = Writer(folder, PAIRS), case.example
    source = torch.Generator().manual_seed(0)
    latents = torch.randn(PAIRS, *shapes["latents"], generator=source)
    rows = {"mean": latents, "std": torch.full_like(latents, 0.1), "text": torch.randn(PAIRS, *shapes["states"])}
    rows |= {name: torch.randn(PAIRS, *shapes[name]) for name in ("pooled", "sizes") if name in shapes}
    writer.add("train", ["a caption"] * PAIRS, rows)
    writer.close(
        {"text": rows["text"][0]} | ({"pooled": rows["pooled"][0]} if "pooled" in rows else {}), scaling_factor=1.0
    )


def _unet(config: dict, device: torch.device) -> UNet2DConditionModel:
    with device:
        return UNet2DConditionModel.from_config(config)


def _vae(case: Case) -> AutoencoderKL:
    return AutoencoderKL.from_config(
        {name: value for name, value in _vae_config(case).items() if not name.startswith("_")}
    )


def _vae_config(case: Case) -> dict:
    return AutoencoderKL.load_config(case.encoders / "vae") if case.encoders else VAE


def _texts(case: Case) -> list[CLIPTextModel]:
    if case.encoders:
        return [CLIPTextModel(CLIPTextConfig.from_pretrained(case.encoders / "text_encoder"))]
    widths = (768, 1280) if family(case.teacher) == "sdxl" else (case.teacher["cross_attention_dim"],)
    return [CLIPTextModel(CLIPTextConfig(hidden_size=width, **TEXT[width])) for width in widths]


@contextmanager
def _marked(teacher: nn.Module, mark: Mark) -> Iterator[None]:
    """Mark the end of the teacher's forward pass."""
    hook = teacher.register_forward_hook(lambda module, inputs, output: mark("teacher"))
    try:
        yield
    finally:
        hook.remove()


def _marker(seconds: dict[str, float]) -> Mark:
    """Notes the seconds since the last mark under the mark's name."""
    _synchronize()
    last = [time.perf_counter()]

    def mark(name: str) -> None:
        _synchronize()
        now = time.perf_counter()
        seconds[name] = seconds.get(name, 0.0) + now - last[0]
        last[0] = now

    return mark


def _seconds(call: Callable[[], object]) -> float:
    _synchronize()
    began = time.perf_counter()
    call()
    _synchronize()
    return time.perf_counter() - began


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
