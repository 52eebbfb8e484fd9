"""AdamW as the settings ask for it: torch's fused one, or with its two moments in 8 bits (bitsandbytes)."""

from collections.abc import Iterable
from typing import Any

import torch

from prunella.errors import UserError
from prunella.params import DiffusionTraining, Training


def make_adamw(parameters: Iterable, settings: Training) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019) over parameters or parameter groups.

    "adamw-8bit" keeps 2 bytes of state a parameter in place of 8 (Dettmers et al. 2022, arXiv 2110.02861). Raises
    UserError where bitsandbytes is not installed.
    """
    options: dict[str, Any] = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    if isinstance(settings, DiffusionTraining):  # the miniature's trainings have torch's own
        options |= {"betas": settings.betas, "eps": settings.eps}
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(parameters, fused=True, **options)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError:
        raise UserError(
            "optimizer: adamw-8bit needs bitsandbytes, which is not installed: "
            "pip install 'prunella[8bit]', or optimizer: adamw"
        ) from None
    return AdamW8bit(parameters, **options)
