"""The one training loop: distillation, fine-tuning and the miniature all run through `train`.

The loop owns steps, optimizer, learning rate, precision, accumulation, distributed, EMA and checkpoint. The learned
function is the loss's business, `loss(model, batch) -> {"loss": total, name: term, …}`, each term a mean over the
examples; what is learned from is the batches', a pure function `batches(number) -> batch`. A step takes `accumulation`
batches of every process, numbered in line. Since a batch depends on its number alone, noise included, and torch's own
generator is seeded anew at each step, a resumed run sees what an undisturbed one would have seen.
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
from prunella.training.loader import iter_loaded_batches
from prunella.training.optimizer import make_adamw
from prunella.training.preemption import graceful_shutdown
from prunella.training.step_metrics import StepMetrics, Terms, defers_reads
from prunella.training.trainable import TrainableState


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
    stop_at_step: int | None = None,
    title: str = "train",
) -> Generator[tuple[int, list[tuple[int, Terms]]], None, None]:
    """Train `model` in place, yielding after each step: steps done, and what is newly known of steps.

    The list has (steps done then, means of the step's terms and gradient norm): of the step itself, but on a GPU
    of the one before, lest it stops to be read; nothing is left out before a state is kept.

    Among several processes, each calls this and yields the same; `batches` gives batches of `batch_size` / processes
    examples, which go through the model in parts of at most `micro_batch` (None: whole). `folder` keeps a checkpoint
    every `checkpoint_every` steps (None: at the end) and is resumed from; None keeps none. `groups` are AdamW's
    parameter groups where not all parameters learn alike. `stop_at_step` ends it after that step, all else being as for
    the whole of `settings.steps`. After SIGTERM or Ctrl-C the step is finished and kept, then SystemExit(143) is
    raised. Raises UserError, naming step, term and pairs, when a term is not finite; the weights are then those before
    the step.
    """
    device, sharded = next(model.parameters()).device, fsdp.is_fsdp(model)
    accelerator = distributed.get_accelerator(device)
    trainable, last = TrainableState(model), stop_at_step or settings.steps
    optimizer = make_adamw(groups or trainable.parameters(), settings)
    lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: lr_multiplier(done, settings))
    scaler = torch.amp.GradScaler(device.type, enabled=settings.precision == "fp16")
    parts: dict[str, Any] = {"model": trainable, "optimizer": optimizer, "rates": lr_scheduler, "scaler": scaler} | (
        {"ema": ema} if ema else {}
    )

    # Resume
    start = _load_state(parts, trainable, checkpoint.load(folder, mapped=sharded))
    if start and ema:
        ema.to(device)

    # Train
    forward = distributed.LossModule(model, loss)
    if not sharded:  # which exchanges gradients itself
        forward = accelerator.prepare_model(forward, device_placement=False)
    batch_iter = iter_loaded_batches(
        batches, batch_numbers(start, settings, accelerator.process_index, accelerator.num_processes), device
    )
    model.train()
    progress_bar = tqdm(
        range(start, last), title, settings.steps, initial=start, unit="step", mininterval=1.0,
        disable=not accelerator.is_main_process,
    )  # fmt: skip
    step_metrics = StepMetrics(device, deferred=defers_reads(device, optimizer), scaler=scaler.is_enabled())
    with graceful_shutdown() as stop, tf32_context(settings.precision), use_fast_kernels(device):
        for step in progress_bar:
            torch.manual_seed(make_generator(STEP, settings.seed, step, accelerator.process_index).initial_seed())
            terms, pairs = forward_backward(forward, batch_iter, settings, step, scaler, accelerator, micro_batch)
            scaler.unscale_(optimizer)
            grad_norm = fsdp.full_scalar(nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm))
            step_values = torch.stack([*terms.values(), grad_norm, grad_norm.new_full((), float(stop.requested))])
            step_metrics.add(step, list(terms), accelerator.reduce(step_values, "mean"), pairs)
            step_metrics.check_or_skip(optimizer)
            # fp16's scaler passes over a step whose gradients are not finite, and scales less from then on. The
            # schedule goes on: it counts steps, so that a run that is taken up again has the same.
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            lr_scheduler.step()
            if ema:
                ema.step(trainable.parameters())

            # Report
            done = step + 1
            due = done == last or (checkpoint_every is not None and done % checkpoint_every == 0)
            new_rows, stopping = step_metrics.flush(everything=due), step_metrics.stopping
            if new_rows:
                progress_bar.set_postfix(loss=f"{new_rows[-1][1].get('loss', math.nan):.4f}", refresh=False)
            yield done, new_rows
            if not model.training:
                model.train()

            # Keep, after the caller has written down what this step gave
            if folder and (due or stopping) and (sharded or accelerator.is_main_process):
                _save_checkpoint(parts, done, folder, accelerator.is_main_process)
            if stopping and done < settings.steps:
                state_note = f"its state is kept in {folder}" if folder else "nothing is kept"
                print(f"{title}: stopped by {stop.source} after step {done}; {state_note}", file=sys.stderr)
                sys.exit(143)


def _load_state(parts: dict[str, Any], trainable: TrainableState, state: dict[str, Any] | None) -> int:
    """Load the state into `parts`; its step, or 0 where there is none."""
    if state is None:
        return 0
    for name in parts.keys() & {"optimizer", "ema"}:
        state[name] = fsdp.shard_state_like(state[name], trainable.parameters())
    for name, part in parts.items():
        part.load_state_dict(state.pop(name))
    return state["step"]


def _save_checkpoint(parts: dict[str, Any], done: int, folder: Path, is_main_process: bool) -> None:
    """Keep the state after `done` steps; of tensors that processes have parts of all come here, and the first saves."""
    state = fsdp.full_state_dict({name: part.state_dict() for name, part in parts.items()}, retain=is_main_process)
    if is_main_process:
        checkpoint.save(folder, done, state | {"step": done})


def forward_backward(
    forward: nn.Module,
    batch_iter: Iterator[Batch],
    settings: Training,
    step: int,
    scaler: torch.amp.GradScaler,
    accelerator: Accelerator,
    micro_batch: int | None = None,
) -> tuple[dict[str, Tensor], list[int]]:
    """Forward and backward over the batches of a step: the mean of each term, and the pairs that were seen.

    A part of a batch counts by its share of the examples, so that it matters in the last bits alone how batches are
    cut. Gradients are exchanged between processes in the last backward pass only.
    """
    term_means: list[Tensor] = []
    pairs: list[int] = []
    device, sharded = next(forward.parameters()).device, fsdp.is_fsdp(forward)
    for remaining_batches in reversed(range(settings.gradient_accumulation_steps)):
        batch = next(batch_iter)
        parts = batch.split(micro_batch)
        values = []
        for number, part in enumerate(parts, 1):
            batch_fraction = part.num_examples / batch.num_examples
            with accelerator.no_sync(forward) if remaining_batches or number < len(parts) else nullcontext():
                with autocast(device, settings.precision, cache_weights=not sharded):
                    terms = forward({**part, "share": step / settings.steps})
                scaler.scale(terms["loss"] * batch_fraction / settings.gradient_accumulation_steps).backward()
            values.append(torch.stack([term.detach().float() for term in terms.values()]) * batch_fraction)
        term_means.append(torch.stack(values).sum(0))
        pairs += batch["pairs"].tolist() if "pairs" in batch else []
    return dict(zip(terms, torch.stack(term_means).mean(0), strict=True)), pairs


def batch_numbers(start: int, settings: Training, process: int, processes: int) -> Iterator[int]:
    """Numbers of the batches that a process learns from, from step `start` on.

    In a step the first `accumulation` numbers are the first process's, and so on.
    """
    for step in range(start, settings.steps):
        first_number = (step * processes + process) * settings.gradient_accumulation_steps
        yield from range(first_number, first_number + settings.gradient_accumulation_steps)


def lr_multiplier(done: int, settings: Training) -> float:
    """Share of the learning rate after `done` steps: a linear warm-up, then constant, or cosine / linear to 0."""
    if done < settings.lr_warmup_steps:
        return (done + 1) / (settings.lr_warmup_steps + 1)
    progress = (done - settings.lr_warmup_steps) / max(1, settings.steps - settings.lr_warmup_steps)
    return {"constant": 1.0, "cosine": 0.5 * (1 + math.cos(math.pi * progress)), "linear": 1 - progress}[
        settings.lr_scheduler
    ]


def make_ema(model: nn.Module, settings: Training) -> EMAModel | None:
    """The EMA of the model's learned parameters that `settings` asks for, or None."""
    if not settings.ema_decay:
        return None
    parameters = next(model.parameters()).is_cuda  # at once, where to begin each costs more than to do it
    return EMAModel(
        TrainableState(model).parameters(),
        decay=settings.ema_decay,
        use_ema_warmup=True,
        power=0.75,
        foreach=parameters,
    )


@contextmanager
def ema_weights(model: nn.Module, ema: EMAModel | None) -> Iterator[None]:
    """Inside, the model holds its averaged weights and is in evaluation mode; afterwards its own again."""
    original, trainable = model.training, TrainableState(model).parameters()
    if ema:
        ema.store(trainable)
        ema.copy_to(trainable)
    model.eval()
    try:
        yield
    finally:
        model.train(original)
        if ema:
            ema.restore(trainable)
