"""Values of a loss's terms on the held-out split."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn


@torch.no_grad()
def heldout_terms(
    model: nn.Module, loss: Callable[[nn.Module, dict], dict[str, Tensor]], batches: Iterable[dict[str, Tensor]]
) -> dict[str, float]:
    """Mean of each term over all pairs of `batches`, by name."""
    device, sums, pairs = next(model.parameters()).device, {}, 0
    for batch in batches:
        n = len(batch["latents"])
        for name, value in loss(model, {key: part.to(device) for key, part in batch.items()}).items():
            sums[name] = sums.get(name, 0.0) + float(value) * n
        pairs += n
    return {name: total / pairs for name, total in sums.items()}
