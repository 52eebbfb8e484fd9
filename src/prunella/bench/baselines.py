"""Two ways to make training steps on models of the same configs.

`Ours` is the training loop itself. `Published` is what the public distillation scripts do (segmind/distill-sd, and
BK-SDM's kd_train_text_to_image.py): pictures through the VAE and captions through the text encoders in every step, fp16
autocast on a GPU and fp32 on a CPU, torch's AdamW as it is, nothing compiled. The teacher is in fp32 among the prepared
models, as segmind/distill-sd has it; BK-SDM casts its own to fp16, which is faster on a GPU.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from diffusers import DDPMScheduler
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from prunella.bench.workload import Workload, random_texts, random_unet, random_vae
from prunella.compute.device import apply_placement
from prunella.compute.precision import AUTOCAST_DTYPES, autocast
from prunella.latents.shards import Latents
from prunella.params import Precision
from prunella.pruning.mapping import feature_pairs
from prunella.training.data import Batch, training_batches
from prunella.training.loop import averaged, train
from prunella.training.losses import Distillation

Mark = Callable[[str], None]  # is told at the end of each part of a step


class Ours:
    """The steps that `distill` makes: `train` itself, of `steps` steps."""

    def __init__(self, case: Workload, folder: Path, stack: ExitStack, steps: int):
        device, settings = torch.device(case.place.device), case.settings.model_copy(update={"steps": steps})
        student, teacher = random_unet(case.student, device), random_unet(case.teacher, device)
        pairs = feature_pairs(case.plan, settings.features)
        if settings.precision in AUTOCAST_DTYPES:
            teacher.to(AUTOCAST_DTYPES[settings.precision])
        if settings.gradient_checkpointing:
            student.enable_gradient_checkpointing()
        stack.enter_context(apply_placement(teacher, [pair.teacher for pair in pairs], case.place))
        stack.enter_context(apply_placement(student, [pair.student for pair in pairs], case.place))
        self.loss = Distillation(teacher, pairs, DDPMScheduler(), settings, compile=case.place.compile)
        self.mark: Mark = lambda name: None
        self.passed = False  # whether a forward pass of this step was made
        before = register_optimizer_step_pre_hook(lambda *given: self.mark("backward"))
        stack.callback(before.remove)
        self.steps = train(
            student,
            self._marked_loss,
            training_batches(Latents(folder, "train"), settings.batch_size, settings, 1000),
            settings,
            ema=averaged(student, settings),
            micro_batch=case.at_once,
            title="bench",
        )
        stack.callback(self.steps.close)

    def step(self, mark: Mark) -> None:
        self.mark, self.passed = mark, False
        next(self.steps)
        mark("optimizer")

    def _marked_loss(self, student: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        self.mark("backward" if self.passed else "data")  # of the pass before, its data included; those are ahead
        self.passed = True
        with _marked(self.loss.teacher, self.mark):
            terms = self.loss(student, batch)
        self.mark("student")
        return terms


class Published:
    """The step of the public scripts."""

    def __init__(self, case: Workload, folder: Path, stack: ExitStack, steps: int):
        self.device = torch.device(case.place.device)
        self.precision: Precision = "fp16" if self.device.type == "cuda" else "fp32"
        frozen = AUTOCAST_DTYPES.get(self.precision, torch.float32)
        self.student, self.teacher = (
            random_unet(case.student, self.device).train(),
            random_unet(case.teacher, self.device),
        )
        if case.settings.gradient_checkpointing:
            self.student.enable_gradient_checkpointing()
        self.vae, *self.texts = (
            nn.Module.to(part, self.device, frozen).eval().requires_grad_(False)
            for part in (random_vae(case), *random_texts(case))
        )
        self.words = min(text.config.vocab_size for text in self.texts)
        pairs = feature_pairs(case.plan, case.settings.features)
        self.loss = Distillation(self.teacher, pairs, DDPMScheduler(), case.settings)
        self.optimizer = torch.optim.AdamW(self.student.parameters(), lr=case.settings.learning_rate)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        # Made once, in the scripts' favour: without workers, as their commands are, they read and decode in every step.
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
            total = self.loss(self.student, Batch(batch))["loss"]
        mark("student")
        self.scaler.scale(total).backward()
        mark("backward")
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.student.parameters(), case.settings.max_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        total.item()
        mark("optimizer")


@contextmanager
def _marked(teacher: nn.Module, mark: Mark) -> Iterator[None]:
    """Mark the end of the teacher's forward pass."""
    hook = teacher.register_forward_hook(lambda module, inputs, output: mark("teacher"))
    try:
        yield
    finally:
        hook.remove()
