"""A UNet whose text encoders learn with it: captions come as tokens and are embedded in the step."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from prunella.latents.encoders import TOKENS, Encoders, encode_tokens
from prunella.training.data import Batch
from prunella.training.losses import Loss
from prunella.training.trainable import TrainableState


class UNetWithTextEncoders(nn.Module):
    """UNet and text encoders under one roof. `empty_tokens`: tokens (L) of no caption, by name."""

    def __init__(
        self,
        unet: UNet2DConditionModel,
        encoders: Mapping[str, nn.Module],
        empty_tokens: Mapping[str, Tensor],
        zero_for_empty: bool,
    ):
        super().__init__()
        self.unet, self.encoders = unet, nn.ModuleDict(encoders)
        self.empty_tokens, self.zero_for_empty = empty_tokens, zero_for_empty

    def encode_captions(self, batch: Batch) -> Batch:
        """The batch with "states" (NLD) and, of SDXL, "pooled" (NP) of its tokens; of no caption where "dropped".

        Nothing said is the empty caption, or zeros where the stock pipeline guides away from zeros.
        """
        dropped = batch["dropped"]
        tokens = {
            name: torch.where(dropped[:, None], self.empty_tokens[name].to(dropped.device), batch[name])
            for name in TOKENS.values()
            if name in batch
        }
        embeddings = encode_tokens(dict(self.encoders.items()), tokens)
        if self.zero_for_empty:
            embeddings = {name: _fill_zeros(value, dropped) for name, value in embeddings.items()}
        return Batch({**batch, **{{"text": "states"}.get(name, name): value for name, value in embeddings.items()}})


def _fill_zeros(rows: Tensor, where: Tensor) -> Tensor:
    return rows.masked_fill(where.view(-1, *[1] * (rows.dim() - 1)), 0)


class LossOnTokens:
    """`loss` of a UNet's batch, for a `UNetWithTextEncoders`."""

    def __init__(self, loss: Loss):
        self.loss = loss

    def __call__(self, model: Any, batch: Batch) -> dict[str, Tensor]:
        return self.loss(model.unet, model.encode_captions(batch))


def load_with_text_encoders(unet: UNet2DConditionModel, folder: Path, device: str) -> UNetWithTextEncoders:
    """The UNet with the text encoders of the pipeline folder."""
    loaded_encoders = Encoders(folder, device)
    empty_tokens = {name: tokens[0] for name, tokens in loaded_encoders.tokenize([""])[0].items()}
    encoders = {
        name: part.float() for name in TOKENS if (part := getattr(loaded_encoders.pipeline, name, None)) is not None
    }
    return UNetWithTextEncoders(
        unet, encoders, empty_tokens, bool(loaded_encoders.pipeline.config.get("force_zeros_for_empty_prompt"))
    )


def make_parameter_groups(model: UNetWithTextEncoders, text_learning_rate: float | None) -> list[dict]:
    """AdamW's parameter groups: the text encoders at a rate of their own (None: that of the UNet)."""
    texts = {"params": TrainableState(model.encoders).parameters()} | (
        {} if text_learning_rate is None else {"lr": text_learning_rate}
    )
    return [{"params": TrainableState(model.unet).parameters()}, texts]
