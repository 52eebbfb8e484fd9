"""Two ways to make a training step on models of the same configs.

`Ours` is of the loop's own parts. `Published` is what the public distillation scripts do (BK-SDM's
kd_train_text_to_image.py, segmind/distill-sd): pictures through the VAE and captions through the text encoders in every
step, fp16 autocast on a GPU and fp32 on a CPU, the teacher in fp32 among the prepared models, torch's AdamW as it is,
nothing compiled.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from diffusers import DDPMScheduler
from torch import nn

from prunella.bench.workload import Workload, random_texts, random_unet, random_vae
from prunella.compute.device import placed
from prunella.compute.precision import BITS, autocast, rounding
from prunella.latents.shards import Latents
from prunella.params import Precision
from prunella.pruning.mapping import feature_pairs
from prunella.training.batch import Batch, training_batches
from prunella.training.loader import loaded_batches
from prunella.training.losses import Distillation
from prunella.training.optimizer import adamw

Mark = Callable[[str], None]  # is told at the end of each part of a step


class Ours:
    """The step that `distill` makes."""

    def __init__(self, case: Workload, folder: Path, stack: ExitStack):
        device = torch.device(case.place.device)
        self.student, self.teacher = random_unet(case.student, device).train(), random_unet(case.teacher, device)
        pairs, precision = feature_pairs(case.plan, case.settings.features), case.settings.precision
        if precision in BITS:
            self.teacher.to(BITS[precision])
        if case.settings.gradient_checkpointing:
            self.student.enable_gradient_checkpointing()
        stack.enter_context(placed(self.teacher, [pair.teacher for pair in pairs], case.place))
        stack.enter_context(placed(self.student, [pair.student for pair in pairs], case.place))
        self.loss = Distillation(self.teacher, pairs, DDPMScheduler(), case.settings)
        self.optimizer = adamw(self.student.parameters(), case.settings)
        batches = training_batches(Latents(folder, "train"), case.settings.batch_size, case.settings, 1000)
        self.feed = loaded_batches(batches, iter(range(10**9)), device)
        self.settings, self.device = case.settings, device

    def step(self, mark: Mark) -> None:
        with rounding(self.settings.precision):
            self._step(mark)

    def _step(self, mark: Mark) -> None:
        batch = next(self.feed)
        mark("data")
        with _marked(self.teacher, mark), autocast(self.device, self.settings.precision):
            total = self.loss(self.student, Batch(batch))["loss"]
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

    def __init__(self, case: Workload, folder: Path, stack: ExitStack):
        self.device = torch.device(case.place.device)
        self.precision: Precision = "fp16" if self.device.type == "cuda" else "fp32"
        frozen = BITS.get(self.precision, torch.float32)
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
            total = self.loss(self.student, Batch(batch))["loss"]
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


@contextmanager
def _marked(teacher: nn.Module, mark: Mark) -> Iterator[None]:
    """Mark the end of the teacher's forward pass."""
    hook = teacher.register_forward_hook(lambda module, inputs, output: mark("teacher"))
    try:
        yield
    finally:
        hook.remove()
