"""The one training loop: distillation, fine-tuning and the miniature all run through `train`.

The loop owns steps, optimizer, learning rate, precision, EMA and checkpoints. What is learned is the loss's
business, `loss(model, batch) -> {"loss": total, name: term, …}`; what is learned from is the batches', a pure
function `batches(step) -> batch`. Since a batch depends on its step alone, noise included, a resumed run sees
what an undisturbed one would have seen. Absent: several processes, gradient accumulation.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from tqdm import tqdm

from prunella.errors import UserError
from prunella.params import Training
from prunella.training import checkpoints
from prunella.training.precision import autocast

Batch = dict[str, Tensor]
Terms = dict[str, float]


def train(
    model: nn.Module,
    loss: Callable[[nn.Module, Batch], dict[str, Tensor]],
    batches: Callable[[int], Batch],
    settings: Training,
    *,
    folder: Path | None = None,
    ema: EMAModel | None = None,
    groups: list[dict] | None = None,
    title: str = "train",
) -> Iterator[tuple[int, Terms]]:
    """Train `model` in place, yielding (steps done, terms of the last batch) after each step.

    `folder` keeps checkpoints and is resumed from; None keeps none. `groups` are AdamW's parameter groups where
    not all parameters learn alike. Raises UserError, naming step and term, when a term is not finite.
    """
    device = next(model.parameters()).device
    optimizer = torch.optim.AdamW(
        groups or model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: rate(done, settings))
    scaler = torch.amp.GradScaler(device.type, enabled=settings.precision == "fp16")
    parts = {"model": model, "optimizer": optimizer, "rates": rates, "scaler": scaler} | ({"ema": ema} if ema else {})

    # Resume
    start = 0
    if state := checkpoints.load(folder, device):
        start = state.pop("step")
        for name, part in parts.items():
            part.load_state_dict(state[name])

    # Train
    model.train()
    bar = tqdm(range(start, settings.steps), title, settings.steps, initial=start, unit="step", mininterval=1.0)
    for step in bar:
        batch = {name: value.to(device, non_blocking=True) for name, value in batches(step).items()}
        with autocast(device, settings.precision):
            terms = loss(model, batch)
        scaler.scale(terms["loss"]).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        rates.step()
        if ema:
            ema.step(model.parameters())

        # Report
        values = dict(zip(terms, torch.stack([term.detach().float() for term in terms.values()]).tolist(), strict=True))
        check_finite(values, step)
        bar.set_postfix(loss=f"{values['loss']:.4f}", refresh=False)
        done = step + 1
        yield done, values
        model.train()

        # Keep, after the caller has written down what this step gave
        if folder and (done % settings.checkpoint_every == 0 or done == settings.steps):
            checkpoints.save(folder, done, {name: part.state_dict() for name, part in parts.items()} | {"step": done})


def rate(done: int, settings: Training) -> float:
    """Share of the learning rate after `done` steps: a linear warm-up, then constant, or cosine / linear to 0."""
    if done < settings.warmup_steps:
        return (done + 1) / (settings.warmup_steps + 1)
    share = (done - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return {"constant": 1.0, "cosine": 0.5 * (1 + math.cos(math.pi * share)), "linear": 1 - share}[settings.schedule]


def check_finite(values: Terms, step: int) -> None:
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if bad:
        raise UserError(
            f"step {step}: {', '.join(bad)} is not finite; "
            "a smaller learning_rate, or precision fp32 or bf16 in place of fp16, usually cures that"
        )


def averaged(model: nn.Module, settings: Training) -> EMAModel | None:
    """The EMA of the model's parameters that `settings` asks for, or None."""
    return (
        EMAModel(model.parameters(), decay=settings.ema_decay, use_ema_warmup=True, power=0.75)
        if settings.ema_decay
        else None
    )


@contextmanager
def ema_weights(model: nn.Module, ema: EMAModel | None) -> Iterator[None]:
    """Inside, the model holds its averaged weights and is in evaluation mode; afterwards its own again."""
    was = model.training
    if ema:
        ema.store(model.parameters())
        ema.copy_to(model.parameters())
    model.eval()
    try:
        yield
    finally:
        model.train(was)
        if ema:
            ema.restore(model.parameters())
