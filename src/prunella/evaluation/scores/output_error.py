"""Output error: how far a UNet's predictions are from the teacher's on held-out pairs, noise and timesteps fixed.

The teacher predicts once, into a folder of a file a batch; every student is compared with what is there.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from diffusers import DDPMScheduler
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from prunella.errors import UserError
from prunella.training.batch import Batch
from prunella.training.losses import Task, squares


def predict(teacher: nn.Module, scheduler: DDPMScheduler, batches: Iterable[Batch], out: Path) -> int:
    """Write the teacher's predictions (NCHW fp32) of each batch to `out`; the number of pairs."""
    out.mkdir(parents=True, exist_ok=True)
    count = 0
    for number, (batch, predicted) in enumerate(_predicted(teacher, scheduler, batches)):
        save_file({"pairs": batch["pairs"], "prediction": predicted.contiguous()}, out / f"{number:05d}.safetensors")
        count += len(predicted)
    return count


def output_errors(
    unet: nn.Module, scheduler: DDPMScheduler, batches: Iterable[Batch], predictions: Path
) -> list[float]:
    """Mean squared difference from the teacher's prediction, pair by pair, in the order of the batches.

    Raises UserError where the predictions are of other batches.
    """
    errors: list[float] = []
    for number, (batch, predicted) in enumerate(_predicted(unet, scheduler, batches)):
        errors += squares(predicted, _stored(predictions, number, batch)).tolist()
    return errors


@torch.no_grad()
def _predicted(unet: nn.Module, scheduler: DDPMScheduler, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Tensor]]:
    """Each batch with its prediction, fp32, on the CPU."""
    task, device = Task(scheduler), next(unet.parameters()).device
    for batch in batches:
        yield batch, task.predict(unet, Batch(batch).to(device)).float().cpu()


def _stored(predictions: Path, number: int, batch: Batch) -> Tensor:
    path = predictions / f"{number:05d}.safetensors"
    stored = load_file(path) if path.is_file() else {}
    if "pairs" not in stored or not torch.equal(stored["pairs"], batch["pairs"]):
        raise UserError(f"{path}: no predictions of this batch of held-out pairs; run the score_teacher stage again")
    return stored["prediction"]
