"""Output error: how far a UNet's predictions are from the teacher's on held-out pairs, noise and timesteps fixed.

The teacher predicts once, into a folder of a file a batch; every student is compared with what is there.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import DDPMScheduler
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from prunella.errors import UserError
from prunella.training.data import Batch
from prunella.training.losses import DiffusionLoss, per_sample_mse


class OutputErrors(NamedTuple):
    """Held-out pair by pair, in the split's order."""

    errors: list[float]  # mean squared difference from the teacher's prediction
    timesteps: list[int]


def write_teacher_predictions(
    teacher_unet: nn.Module, scheduler: DDPMScheduler, batches: Iterable[Batch], out: Path
) -> list[int]:
    """Write the teacher's predictions (NCHW fp32) of each batch to `out`.

    The timestep of each pair, as in `OutputErrors`.
    """
    out.mkdir(parents=True, exist_ok=True)
    timesteps: dict[int, int] = {}
    for number, (batch, prediction) in enumerate(_iter_predictions(teacher_unet, scheduler, batches)):
        save_file({"pairs": batch["pairs"], "prediction": prediction.contiguous()}, out / f"{number:05d}.safetensors")
        timesteps |= _map_by_sample(batch, batch["timesteps"])
    return [timesteps[index] for index in sorted(timesteps)]


def measure_output_errors(
    unet: nn.Module, scheduler: DDPMScheduler, batches: Iterable[Batch], predictions: Path
) -> OutputErrors:
    """The errors of a UNet. Raises UserError where the predictions are of other batches."""
    errors: dict[int, float] = {}
    timesteps: dict[int, int] = {}
    for number, (batch, prediction) in enumerate(_iter_predictions(unet, scheduler, batches)):
        errors |= _map_by_sample(batch, per_sample_mse(prediction, _load_prediction(predictions, number, batch)))
        timesteps |= _map_by_sample(batch, batch["timesteps"])
    return OutputErrors([errors[index] for index in sorted(errors)], [timesteps[index] for index in sorted(timesteps)])


def _map_by_sample(batch: Batch, values: Tensor) -> dict[int, Any]:
    return dict(zip(batch["pairs"].tolist(), values.tolist(), strict=True))


@torch.no_grad()
def _iter_predictions(
    unet: nn.Module, scheduler: DDPMScheduler, batches: Iterable[Batch]
) -> Iterator[tuple[Batch, Tensor]]:
    """Each batch with its prediction, fp32, on the CPU."""
    loss, device = DiffusionLoss(scheduler), next(unet.parameters()).device
    for batch in batches:
        yield batch, loss.predict(unet, Batch(batch).to(device)).float().cpu()


def _load_prediction(predictions: Path, number: int, batch: Batch) -> Tensor:
    path = predictions / f"{number:05d}.safetensors"
    stored = load_file(path) if path.is_file() else {}
    if "pairs" not in stored or not torch.equal(stored["pairs"], batch["pairs"]):
        raise UserError(f"{path}: no predictions of this batch of held-out pairs; run the score_teacher stage again")
    return stored["prediction"]
