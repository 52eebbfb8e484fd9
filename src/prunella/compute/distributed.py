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

from prunella.compute.launch import rank, world_size
from prunella.errors import UserError

T = TypeVar("T")


def get_accelerator(device: torch.device | str) -> Accelerator:
    """accelerate's view of the processes. Precision, its scaler and the model's place are the loop's business.

    Raises UserError where one of them ends before all have found one another.
    """
    kwargs_handlers = [
        DistributedDataParallelKwargs(gradient_as_bucket_view=True),
        # The others wait while the first writes a state, or for pictures; torch's ten minutes may be too few.
        InitProcessGroupKwargs(timeout=timedelta(hours=6)),
    ]
    try:
        return Accelerator(
            cpu=torch.device(device).type == "cpu", mixed_precision="no", kwargs_handlers=kwargs_handlers
        )
    except torch.distributed.DistError:
        raise UserError(
            f"another of the {world_size()} processes ended before all had found one another; its own words say why"
        ) from None


class LossModule(nn.Module):
    """The model and its loss as one module, whose forward gives the loss's terms: what DDP wraps."""

    def __init__(self, model: nn.Module, loss: Callable[[nn.Module, Any], dict[str, torch.Tensor]]):
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: dict) -> dict[str, torch.Tensor]:
        return self.loss(self.model, batch)


def shard_for_rank(items: Iterable[T]) -> Iterator[T]:
    """This process's share of some work: of P processes the first has items 0, P, 2 P, …"""
    return islice(items, rank(), None, world_size())


def broadcast_from_main(decide: Callable[[], bool]) -> bool:
    """The answer of the first process, in each of them. They call it together."""
    if world_size() == 1:
        return decide()
    answer = [decide() if rank() == 0 else False]
    torch.distributed.broadcast_object_list(answer, src=0)
    return answer[0]


def all_gather_ordered(local_items: list[T]) -> list[T]:
    """The results of all processes for `shard_for_rank`'s work, in the order of the work, in each of them.

    They call it together.
    """
    if world_size() == 1:
        return local_items
    items_by_rank: list[list[T]] = [[] for _ in range(world_size())]
    torch.distributed.all_gather_object(items_by_rank, local_items)
    return [
        rank_items[index]
        for index in range(len(items_by_rank[0]))
        for rank_items in items_by_rank
        if index < len(rank_items)
    ]
