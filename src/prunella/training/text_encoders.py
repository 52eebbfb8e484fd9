"""A UNet whose text encoders learn with it: captions come as tokens and are embedded in the step."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from prunella.latents.encoders import TOKENS, Encoders, embedded
from prunella.training.data import Batch
from prunella.training.losses import Loss
from prunella.training.trainable import Learned


class Speaking(nn.Module):
    """UNet and text encoders under one roof. `nothing`: tokens (L) of no caption, by name."""

    def __init__(
        self,
        unet: UNet2DConditionModel,
        encoders: Mapping[str, nn.Module],
        nothing: Mapping[str, Tensor],
        zeros: bool,
    ):
        super().__init__()
        self.unet, self.encoders = unet, nn.ModuleDict(encoders)
        self.nothing, self.zeros = nothing, zeros

    def said(self, batch: Batch) -> Batch:
        """The batch with "states" (NLD) and, of SDXL, "pooled" (NP) of its tokens; of no caption where "dropped".

        Nothing said is the empty caption, or zeros where the stock pipeline guides away from zeros.
        """
        dropped = batch["dropped"]
        tokens = {
            name: torch.where(dropped[:, None], self.nothing[name].to(dropped.device), batch[name])
            for name in TOKENS.values()
            if name in batch
        }
        made = embedded(dict(self.encoders.items()), tokens)
        if self.zeros:
            made = {name: _zeroed(value, dropped) for name, value in made.items()}
        return Batch({**batch, **{{"text": "states"}.get(name, name): value for name, value in made.items()}})


def _zeroed(rows: Tensor, where: Tensor) -> Tensor:
    return rows.masked_fill(where.view(-1, *[1] * (rows.dim() - 1)), 0)


class Spoken:
    """`loss` of a UNet's batch, for a `Speaking`."""

    def __init__(self, loss: Loss):
        self.loss = loss

    def __call__(self, model: Any, batch: Batch) -> dict[str, Tensor]:
        return self.loss(model.unet, model.said(batch))


def speaking(unet: UNet2DConditionModel, folder: Path, device: str) -> Speaking:
    """The UNet with the text encoders of the pipeline folder."""
    own = Encoders(folder, device)
    nothing = {name: tokens[0] for name, tokens in own.tokens([""])[0].items()}
    encoders = {name: part.float() for name in TOKENS if (part := getattr(own.pipeline, name, None)) is not None}
    return Speaking(unet, encoders, nothing, bool(own.pipeline.config.get("force_zeros_for_empty_prompt")))


def rates(model: Speaking, text_rate: float | None) -> list[dict]:
    """AdamW's parameter groups: the text encoders at a rate of their own (None: that of the UNet)."""
    texts = {"params": Learned(model.encoders).parameters()} | ({} if text_rate is None else {"lr": text_rate})
    return [{"params": Learned(model.unet).parameters()}, texts]
