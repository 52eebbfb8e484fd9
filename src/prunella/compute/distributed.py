"""The processes that train together: this one alone, or several under DDP, as accelerate finds them.

Several are started by `prunella.compute.launch`, `accelerate launch` or `torchrun`, which all use the same
environment variables.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import nn


def team(device: torch.device | str) -> Accelerator:
    """accelerate's view of the processes. Precision, its scaler and the model's place are the loop's business."""
    return Accelerator(
        cpu=torch.device(device).type == "cpu",
        mixed_precision="no",
        kwargs_handlers=[
            DistributedDataParallelKwargs(gradient_as_bucket_view=True),
            # The others wait while the first measures and draws; torch's ten minutes may be too few for that.
            InitProcessGroupKwargs(timeout=timedelta(hours=6)),
        ],
    )


class Pass(nn.Module):
    """The model and its loss as one module, whose forward gives the loss's terms: what DDP wraps."""

    def __init__(self, model: nn.Module, loss: Callable[[nn.Module, Any], dict[str, torch.Tensor]]):
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: dict) -> dict[str, torch.Tensor]:
        return self.loss(self.model, batch)
