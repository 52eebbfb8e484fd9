"""A teacher's encoders: pictures to raw latents, captions to text embeddings, as stock diffusers does both.

Raw pixels (HWC uint8) → raw latents (mean and std, what is stored) → final latents (sampled and scaled, what the
net sees). Letters: N pairs, L tokens, D text width.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from prunella.params import Precision
from prunella.teachers import load_pipeline
from prunella.training.precision import autocast


@torch.no_grad()
def raw_latents(
    vae, pictures: np.ndarray, precision: Precision = "fp32", batch_size: int = 64
) -> tuple[Tensor, Tensor]:
    """Mean and std (NCHW fp32, on the CPU) that `vae` gives of pictures (NHWC uint8), `batch_size` at a time."""
    parts = []
    for start in range(0, len(pictures), batch_size):
        chunk = torch.from_numpy(pictures[start : start + batch_size]).permute(0, 3, 1, 2)
        with autocast(vae.device, precision):
            parts.append(vae.encode(chunk.to(vae.device).float() / 127.5 - 1).latent_dist)
    return torch.cat([part.mean.float().cpu() for part in parts]), torch.cat([part.std.float().cpu() for part in parts])


class Encoders:
    """VAE, tokenizer and text encoder of the pipeline folder `folder`, on `device`; the VAE computes in `precision`."""

    def __init__(self, folder: Path, device: str, precision: Precision = "fp32"):
        pipeline = load_pipeline(folder)
        self.vae = pipeline.vae.to(device).eval()
        self.text_encoder = pipeline.text_encoder.to(device).eval()
        self.tokenizer = pipeline.tokenizer
        self.scaling_factor = float(self.vae.config.scaling_factor)
        self.factor = pipeline.vae_scale_factor
        self.device, self.precision = torch.device(device), precision

    def latents(self, pictures: np.ndarray) -> tuple[Tensor, Tensor]:
        """Mean and std (NCHW fp32, on the CPU) of pictures (NHWC uint8)."""
        return raw_latents(self.vae, pictures, self.precision, batch_size=len(pictures))

    @torch.no_grad()
    def text(self, captions: list[str]) -> tuple[Tensor, int]:
        """Text embeddings (NLD fp32, on the CPU), and how many captions were cut at the tokenizer's length."""
        longest = self.tokenizer.model_max_length
        cut = sum(len(ids) > longest for ids in self.tokenizer(captions, verbose=False).input_ids)
        tokens = self.tokenizer(
            captions, padding="max_length", max_length=longest, truncation=True, return_tensors="pt"
        )
        return self.text_encoder(tokens.input_ids.to(self.device)).last_hidden_state.float().cpu(), cut
