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

from prunella.bench.workload import Workload, make_random_text_encoders, make_random_unet, make_random_vae
from prunella.compute.device import apply_placement
from prunella.compute.precision import AUTOCAST_DTYPES, autocast
from prunella.latents.shards import LatentDataset
from prunella.params import Precision
from prunella.pruning.mapping import feature_pairs
from prunella.training.data import Batch, make_training_batches
from prunella.training.loop import make_ema, train
from prunella.training.losses import DistillationLoss

MarkCallback = Callable[[str], None]  # is told at the end of each part of a step


class Ours:
    """The steps that `distill` makes: `train` itself, of `steps` steps."""

    def __init__(self, workload: Workload, latents_dir: Path, stack: ExitStack, num_steps: int):
        device, settings = (
            torch.device(workload.placement.device),
            workload.settings.model_copy(update={"steps": num_steps}),
        )
        student_unet, teacher_unet = (
            make_random_unet(workload.student_unet_config, device),
            make_random_unet(workload.teacher_unet_config, device),
        )
        block_pairs = feature_pairs(workload.plan, settings.features)
        if settings.precision in AUTOCAST_DTYPES:
            teacher_unet.to(AUTOCAST_DTYPES[settings.precision])
        if settings.gradient_checkpointing:
            student_unet.enable_gradient_checkpointing()
        stack.enter_context(apply_placement(teacher_unet, [pair.teacher for pair in block_pairs], workload.placement))
        stack.enter_context(apply_placement(student_unet, [pair.student for pair in block_pairs], workload.placement))
        self.loss = DistillationLoss(
            teacher_unet, block_pairs, DDPMScheduler(), settings, compile=workload.placement.compile
        )
        self.mark: MarkCallback = lambda name: None
        self.has_forwarded = False  # whether a forward pass of this step was made
        hook = register_optimizer_step_pre_hook(lambda *given: self.mark("backward"))
        stack.callback(hook.remove)
        self.step_iterator = train(
            student_unet,
            self._compute_marked_loss,
            make_training_batches(LatentDataset(latents_dir, "train"), settings.batch_size, settings, 1000),
            settings,
            ema=make_ema(student_unet, settings),
            micro_batch=workload.micro_batch,
            title="bench",
        )
        stack.callback(self.step_iterator.close)

    def step(self, mark: MarkCallback) -> None:
        self.mark, self.has_forwarded = mark, False
        next(self.step_iterator)
        mark("optimizer")

    def _compute_marked_loss(self, student_unet: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        self.mark(
            "backward" if self.has_forwarded else "data"
        )  # of the pass before, its data included; those are ahead
        self.has_forwarded = True
        with _mark_teacher_forward(self.loss.teacher, self.mark):
            terms = self.loss(student_unet, batch)
        self.mark("student")
        return terms


class Published:
    """The step of the public scripts."""

    def __init__(self, workload: Workload, latents_dir: Path, stack: ExitStack, num_steps: int):
        self.device = torch.device(workload.placement.device)
        self.precision: Precision = "fp16" if self.device.type == "cuda" else "fp32"
        frozen_dtype = AUTOCAST_DTYPES.get(self.precision, torch.float32)
        self.student_unet, self.teacher_unet = (
            make_random_unet(workload.student_unet_config, self.device).train(),
            make_random_unet(workload.teacher_unet_config, self.device),
        )
        if workload.settings.gradient_checkpointing:
            self.student_unet.enable_gradient_checkpointing()
        self.vae, *self.text_encoders = (
            nn.Module.to(module, self.device, frozen_dtype).eval().requires_grad_(False)
            for module in (make_random_vae(workload), *make_random_text_encoders(workload))
        )
        self.vocab_size = min(text.config.vocab_size for text in self.text_encoders)
        block_pairs = feature_pairs(workload.plan, workload.settings.features)
        self.loss = DistillationLoss(self.teacher_unet, block_pairs, DDPMScheduler(), workload.settings)
        self.optimizer = torch.optim.AdamW(self.student_unet.parameters(), lr=workload.settings.learning_rate)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        # Made once, in the scripts' favour: without workers, as their commands are, they read and decode in every step.
        image_size, batch_size = workload.latent_size * workload.vae_scale_factor, workload.settings.batch_size
        generator = torch.Generator().manual_seed(0)
        self.pixels = torch.rand(batch_size, 3, image_size, image_size, generator=generator) * 2 - 1
        self.tokens = torch.randint(0, self.vocab_size, (batch_size, workload.num_tokens), generator=generator)
        if self.device.type == "cuda":
            self.pixels, self.tokens = self.pixels.pin_memory(), self.tokens.pin_memory()
        self.workload = workload

    def step(self, mark: MarkCallback) -> None:
        workload, batch_size = self.workload, self.workload.settings.batch_size
        pixels = self.pixels.to(self.device, non_blocking=True).to(self.vae.dtype)
        tokens = self.tokens.to(self.device, non_blocking=True)
        mark("data")
        with torch.no_grad():
            latents = self.vae.encode(pixels).latent_dist.sample().float() * 0.18215
            text_embeddings = torch.cat([text(tokens).last_hidden_state for text in self.text_encoders], -1).float()
        mark("encoders")
        batch = {
            "latents": latents,
            "noise": torch.randn_like(latents),
            "timesteps": torch.randint(0, 1000, (batch_size,), device=self.device),
            "states": text_embeddings,
        }
        batch |= {
            name: torch.zeros(batch_size, *workload.example_shapes[name], device=self.device)
            for name in ("pooled", "sizes")
            if name in workload.example_shapes
        }
        with _mark_teacher_forward(self.teacher_unet, mark), autocast(self.device, self.precision):
            loss = self.loss(self.student_unet, Batch(batch))["loss"]
        mark("student")
        self.scaler.scale(loss).backward()
        mark("backward")
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.student_unet.parameters(), workload.settings.max_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        loss.item()
        mark("optimizer")


@contextmanager
def _mark_teacher_forward(teacher_unet: nn.Module, mark: MarkCallback) -> Iterator[None]:
    """Mark the end of the teacher's forward pass."""
    hook = teacher_unet.register_forward_hook(lambda module, inputs, output: mark("teacher"))
    try:
        yield
    finally:
        hook.remove()
