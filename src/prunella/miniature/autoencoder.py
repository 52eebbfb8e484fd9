"""The miniature's VAE: trained on scenes with L1 + MSE and a very small KL weight (1e-6).

A KL weight hundreds of times larger keeps reconstructions below 19 dB.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from prunella.miniature.recipe import Autoencoder
from prunella.training.noise import generator
from prunella.training.order import examples


def build(recipe: Autoencoder) -> AutoencoderKL:
    vae = AutoencoderKL(**recipe.config)
    for name, module in vae.named_modules():
        if name.endswith("conv2"):  # each residual branch starts as nothing
            torch.nn.init.zeros_(module.weight)
            torch.nn.init.zeros_(module.bias)
    return vae


class Reconstruction:
    """L1 + MSE between picture and reconstruction, plus kl_weight × KL to the unit Gaussian (mean per element)."""

    def __init__(self, kl_weight: float):
        self.kl_weight = kl_weight

    def __call__(self, vae: AutoencoderKL, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        latents = vae.encode(batch["pixels"]).latent_dist
        drawn = vae.decode(latents.mean + latents.std * batch["noise"]).sample
        l1, mse = F.l1_loss(drawn, batch["pixels"]), F.mse_loss(drawn, batch["pixels"])
        kl = latents.kl().sum() / latents.mean.numel()
        return {"loss": l1 + mse + self.kl_weight * kl, "l1": l1, "mse": mse, "kl": kl}


def batches(pictures: Tensor, recipe: Autoencoder) -> Callable[[int], dict[str, Tensor]]:
    """Batches by step from NCHW uint8 `pictures`: crops at first, whole pictures in the last quarter."""
    settings = recipe.training
    factor = 2 ** (len(recipe.config["block_out_channels"]) - 1)

    def batch(step: int) -> dict[str, Tensor]:
        source = generator(settings.seed, step)
        chosen = pictures[torch.from_numpy(examples(step, settings.batch_size, len(pictures), settings.seed))]
        if step < settings.steps * 3 // 4:
            x, y = torch.randint(0, pictures.shape[-1] - recipe.crop + 1, (2,), generator=source).tolist()
            chosen = chosen[:, :, y : y + recipe.crop, x : x + recipe.crop]
        n, _, h, w = chosen.shape
        noise = torch.randn(n, recipe.config["latent_channels"], h // factor, w // factor, generator=source)
        return {"pixels": chosen.float() / 127.5 - 1, "noise": noise}

    return batch
