"""Values of a loss's terms on the held-out split."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from prunella.compute.precision import autocast, rounding
from prunella.params import Precision
from prunella.training.batch import Batch


@torch.no_grad()
def evaluate_loss(
    model: nn.Module,
    loss: Callable[[nn.Module, Batch], dict[str, Tensor]],
    batches: Iterable[dict[str, Tensor]],
    precision: Precision = "fp32",
) -> dict[str, float]:
    """Mean of each term over all pairs of `batches`, by name; {} without pairs."""
    device, pairs = next(model.parameters()).device, 0
    sums: dict[str, float] = {}
    for batch in batches:
        n = len(batch["latents"])
        with rounding(precision), autocast(device, precision):
            terms = loss(model, Batch(batch).to(device))
        for name, value in terms.items():
            sums[name] = sums.get(name, 0.0) + float(value) * n
        pairs += n
    return {name: total / pairs for name, total in sums.items()}
