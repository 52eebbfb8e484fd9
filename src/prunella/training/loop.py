"""The one training loop: distillation, fine-tuning and the miniature all run through `train`.

The loop owns steps, optimizer, learning rate, precision, accumulation, distributed, EMA and checkpoint. What is learned
is the loss's business, `loss(model, batch) -> {"loss": total, name: term, …}`, each term a mean over the examples; what
is learned from is the batches', a pure function `batches(number) -> batch`. A step takes `accumulation` batches of
every process, numbered in line. Since a batch depends on its number alone, noise included, and torch's own generator
is seeded anew at each step, a resumed run sees what an undisturbed one would have seen.
"""

import math
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from tqdm import tqdm

from prunella.compute import distributed, fsdp
from prunella.compute.kernels import use_fast_kernels
from prunella.compute.precision import autocast, tf32_context
from prunella.compute.seeds import STEP, make_generator
from prunella.params import Training
from prunella.training import checkpoint
from prunella.training.data import Batch
from prunella.training.loader import loaded_batches
from prunella.training.optimizer import adamw
from prunella.training.preemption import graceful_shutdown
from prunella.training.step_metrics import Readings, Terms, reads_late
from prunella.training.trainable import Learned


def train(
    model: nn.Module,
    loss: Callable[[nn.Module, Batch], dict[str, Tensor]],
    batches: Callable[[int], dict[str, Tensor]],
    settings: Training,
    *,
    folder: Path | None = None,
    checkpoint_every: int | None = None,
    ema: EMAModel | None = None,
    micro_batch: int | None = None,
    groups: list[dict] | None = None,
    until: int | None = None,
    title: str = "train",
) -> Generator[tuple[int, list[tuple[int, Terms]]], None, None]:
    """Train `model` in place, yielding after each step: steps done, and what is newly known of steps.

    That is a list of (steps done then, means of the step's terms and gradient norm): of the step itself, but on a GPU
    of the one before, lest it stops to be read; nothing is left out before a state is kept.

    Of several processes each calls this and yields the same; `batches` gives batches of `batch_size` / processes
    examples, which go through the model in parts of at most `micro_batch` (None: whole). `folder` keeps a checkpoint
    every `checkpoint_every` steps (None: at the end) and is resumed from; None keeps none. `groups` are AdamW's
    parameter groups where not all parameters learn alike. `until` ends it after that step, all else being as for the
    whole of `settings.steps`. After SIGTERM or Ctrl-C the step is finished and kept, then
    SystemExit(143) is raised. Raises UserError, naming step, term and pairs, when a term is not finite; the weights are
    then those before the step.
    """
    device, sharded = next(model.parameters()).device, fsdp.is_fsdp(model)
    team = distributed.get_accelerator(device)
    learned, last = Learned(model), until or settings.steps
    optimizer = adamw(groups or learned.parameters(), settings)
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: rate(done, settings))
    scaler = torch.amp.GradScaler(device.type, enabled=settings.precision == "fp16")
    parts: dict[str, Any] = {"model": learned, "optimizer": optimizer, "rates": rates, "scaler": scaler} | (
        {"ema": ema} if ema else {}
    )

    # Resume
    start = _resumed(parts, learned, checkpoint.load(folder, mapped=sharded))
    if start and ema:
        ema.to(device)

    # Train
    forward = distributed.LossModule(model, loss)
    if not sharded:  # which exchanges gradients itself
        forward = team.prepare_model(forward, device_placement=False)
    feed = loaded_batches(batches, numbers(start, settings, team.process_index, team.num_processes), device)
    model.train()
    bar = tqdm(
        range(start, last), title, settings.steps, initial=start, unit="step", mininterval=1.0,
        disable=not team.is_main_process,
    )  # fmt: skip
    readings = Readings(device, late=reads_late(device, optimizer), scaler=scaler.is_enabled())
    with graceful_shutdown() as stop, tf32_context(settings.precision), use_fast_kernels(device):
        for step in bar:
            torch.manual_seed(make_generator(STEP, settings.seed, step, team.process_index).initial_seed())
            terms, pairs = passes(forward, feed, settings, step, scaler, team, micro_batch)
            scaler.unscale_(optimizer)
            norm = fsdp.full_scalar(nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm))
            told = torch.stack([*terms.values(), norm, norm.new_full((), float(stop.asked))])
            readings.add(step, list(terms), team.reduce(told, "mean"), pairs)
            readings.guard(optimizer)
            # fp16's scaler passes over a step whose gradients are not finite, and scales less from then on. The
            # schedule goes on: it counts steps, so that a run that is taken up again has the same.
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            rates.step()
            if ema:
                ema.step(learned.parameters())

            # Report
            done = step + 1
            due = done == last or (checkpoint_every is not None and done % checkpoint_every == 0)
            known, stopping = readings.known(every=due), readings.stopping
            if known:
                bar.set_postfix(loss=f"{known[-1][1].get('loss', math.nan):.4f}", refresh=False)
            yield done, known
            if not model.training:
                model.train()

            # Keep, after the caller has written down what this step gave
            if folder and (due or stopping) and (sharded or team.is_main_process):
                _save(parts, done, folder, team.is_main_process)
            if stopping and done < settings.steps:
                kept = f"its state is kept in {folder}" if folder else "nothing is kept"
                print(f"{title}: stopped by {stop.by} after step {done}; {kept}", file=sys.stderr)
                sys.exit(143)


def _resumed(parts: dict[str, Any], learned: Learned, state: dict[str, Any] | None) -> int:
    """Load the state into `parts`; its step, or 0 where there is none."""
    if state is None:
        return 0
    for name in parts.keys() & {"optimizer", "ema"}:
        state[name] = fsdp.shard_state_like(state[name], learned.parameters())
    for name, part in parts.items():
        part.load_state_dict(state.pop(name))
    return state["step"]


def _save(parts: dict[str, Any], done: int, folder: Path, first: bool) -> None:
    """Keep the state after `done` steps; of tensors that processes have parts of all come here, and the first saves."""
    state = fsdp.full_state_dict({name: part.state_dict() for name, part in parts.items()}, retain=first)
    if first:
        checkpoint.save(folder, done, state | {"step": done})


def passes(
    forward: nn.Module,
    feed: Iterator[Batch],
    settings: Training,
    step: int,
    scaler: torch.amp.GradScaler,
    team: Accelerator,
    micro_batch: int | None = None,
) -> tuple[dict[str, Tensor], list[int]]:
    """Forward and backward over the batches of a step: the mean of each term, and the pairs that were seen.

    A part of a batch counts by its share of the examples, so that it matters in the last bits alone how batches are
    cut. Gradients are exchanged between processes in the last backward pass only.
    """
    seen: list[Tensor] = []
    pairs: list[int] = []
    device, sharded = next(forward.parameters()).device, fsdp.is_fsdp(forward)
    for left in reversed(range(settings.gradient_accumulation_steps)):
        batch = next(feed)
        parts = batch.cut(micro_batch)
        values = []
        for number, part in enumerate(parts, 1):
            share = part.examples / batch.examples
            with team.no_sync(forward) if left or number < len(parts) else nullcontext():
                with autocast(device, settings.precision, cache_weights=not sharded):
                    terms = forward({**part, "share": step / settings.steps})
                scaler.scale(terms["loss"] * share / settings.gradient_accumulation_steps).backward()
            values.append(torch.stack([term.detach().float() for term in terms.values()]) * share)
        seen.append(torch.stack(values).sum(0))
        pairs += batch["pairs"].tolist() if "pairs" in batch else []
    return dict(zip(terms, torch.stack(seen).mean(0), strict=True)), pairs


def numbers(start: int, settings: Training, process: int, processes: int) -> Iterator[int]:
    """Numbers of the batches that a process learns from, from step `start` on.

    In a step the first `accumulation` numbers are the first process's, and so on.
    """
    for step in range(start, settings.steps):
        first = (step * processes + process) * settings.gradient_accumulation_steps
        yield from range(first, first + settings.gradient_accumulation_steps)


def rate(done: int, settings: Training) -> float:
    """Share of the learning rate after `done` steps: a linear warm-up, then constant, or cosine / linear to 0."""
    if done < settings.lr_warmup_steps:
        return (done + 1) / (settings.lr_warmup_steps + 1)
    share = (done - settings.lr_warmup_steps) / max(1, settings.steps - settings.lr_warmup_steps)
    return {"constant": 1.0, "cosine": 0.5 * (1 + math.cos(math.pi * share)), "linear": 1 - share}[
        settings.lr_scheduler
    ]


def averaged(model: nn.Module, settings: Training) -> EMAModel | None:
    """The EMA of the model's learned parameters that `settings` asks for, or None."""
    if not settings.ema_decay:
        return None
    many = next(model.parameters()).is_cuda  # at once, where to begin each costs more than to do it
    return EMAModel(
        Learned(model).parameters(), decay=settings.ema_decay, use_ema_warmup=True, power=0.75, foreach=many
    )


@contextmanager
def ema_weights(model: nn.Module, ema: EMAModel | None) -> Iterator[None]:
    """Inside, the model holds its averaged weights and is in evaluation mode; afterwards its own again."""
    was, learned = model.training, Learned(model).parameters()
    if ema:
        ema.store(learned)
        ema.copy_to(learned)
    model.eval()
    try:
        yield
    finally:
        model.train(was)
        if ema:
            ema.restore(learned)
