"""The processes that train together: this one alone, or several under DDP, as accelerate finds them.

Several are started by `prunella.compute.launch`, `accelerate launch` or `torchrun`, which all use the same
environment variables.
"""

from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from itertools import islice
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import nn

from prunella.compute.launch import rank, size
from prunella.errors import UserError

T = TypeVar("T")


def team(device: torch.device | str) -> Accelerator:
    """accelerate's view of the processes. Precision, its scaler and the model's place are the loop's business.

    Raises UserError where one of them ends before all have found one another.
    """
    how = [
        DistributedDataParallelKwargs(gradient_as_bucket_view=True),
        # The others wait while the first writes a state, or for pictures; torch's ten minutes may be too few.
        InitProcessGroupKwargs(timeout=timedelta(hours=6)),
    ]
    try:
        return Accelerator(cpu=torch.device(device).type == "cpu", mixed_precision="no", kwargs_handlers=how)
    except torch.distributed.DistError:
        raise UserError(
            f"another of the {size()} processes ended before all had found one another; its own words say why"
        ) from None


class Pass(nn.Module):
    """The model and its loss as one module, whose forward gives the loss's terms: what DDP wraps."""

    def __init__(self, model: nn.Module, loss: Callable[[nn.Module, Any], dict[str, torch.Tensor]]):
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: dict) -> dict[str, torch.Tensor]:
        return self.loss(self.model, batch)


def dealt(work: Iterable[T]) -> Iterator[T]:
    """This process's share of some work: of P processes the first has items 0, P, 2 P, …"""
    return islice(work, rank(), None, size())


def agreed(asked: Callable[[], bool]) -> bool:
    """What the first process answers, in each of them. They call it together."""
    if size() == 1:
        return asked()
    answer = [asked() if rank() == 0 else False]
    torch.distributed.broadcast_object_list(answer, src=0)
    return answer[0]


def gathered(mine: list[T]) -> list[T]:
    """What all processes made of what was `dealt`, in the order of the work, in each of them. They call it together."""
    if size() == 1:
        return mine
    shares: list[list[T]] = [[] for _ in range(size())]
    torch.distributed.all_gather_object(shares, mine)
    return [share[place] for place in range(len(shares[0])) for share in shares if place < len(share)]
