"""Values of a loss's terms on the held-out split."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from prunella.compute.distributed import all_gather_ordered
from prunella.compute.precision import autocast, tf32_context
from prunella.params import Precision
from prunella.training.data import Batch

Loss = Callable[[nn.Module, Batch], dict[str, Tensor]]


class BatchTerms(NamedTuple):
    """For a batch."""

    pairs: int
    terms: dict[str, float]


def evaluate_loss(
    model: nn.Module,
    loss: Loss,
    batches: Iterable[dict[str, Tensor]],
    precision: Precision = "fp32",
    shared: bool = False,
) -> dict[str, float]:
    """Mean of each term over all pairs of `batches`, by name; {} without pairs.

    If they are `shared`, several processes call this together, each with the batches that it was dealt, and all get
    the mean over all pairs. Batches are added up in order whoever measured them, so it is what one process gets.
    """
    batch_terms = list(_iter_batch_terms(model, loss, batches, precision))
    batch_terms = all_gather_ordered(batch_terms) if shared else batch_terms
    sums: dict[str, float] = {}
    for pairs, terms in batch_terms:
        for name, value in terms.items():
            sums[name] = sums.get(name, 0.0) + value * pairs
    return {name: total / sum(pairs for pairs, _ in batch_terms) for name, total in sums.items()}


@torch.no_grad()
def _iter_batch_terms(
    model: nn.Module, loss: Loss, batches: Iterable[dict[str, Tensor]], precision: Precision
) -> Iterator[BatchTerms]:
    device = next(model.parameters()).device
    for batch in batches:
        with tf32_context(precision), autocast(device, precision):
            terms = loss(model, Batch(batch).to(device))
        yield BatchTerms(len(batch["latents"]), {name: float(value) for name, value in terms.items()})
