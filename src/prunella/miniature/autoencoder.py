"""The miniature's VAE: trained on scenes with L1 + MSE, a very small KL weight (1e-6) and decorrelated latents.

A KL weight hundreds of times larger keeps reconstructions below 19 dB. Without decorrelation 99 % of the latents'
variance was brightness: colour and outline lay in directions so weak that the first noise steps drowned them, and
the UNet trained on such latents drew hardly any of either.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from prunella.compute.seeds import make_generator
from prunella.miniature.recipe import AutoencoderConfig
from prunella.miniature.zero_init import zero_init
from prunella.params import Training
from prunella.training.sampler import batch_positions, sample_indices


def build_autoencoder(recipe: AutoencoderConfig) -> AutoencoderKL:
    vae = AutoencoderKL(**recipe.config)
    zero_init(vae, "conv2")
    return vae


class ReconstructionLoss:
    """L1 + MSE between picture and reconstruction, + kl_weight × KL to the unit Gaussian (mean per element),
    + decorrelation × the `whiteness` of the latents' means.

    Uses the means, because of drawn latents even a channel of mere noise is white. The noise has a least standard
    deviation, `noise`: without one the encoder writes everything into the last digits of two channels.
    """

    def __init__(self, recipe: AutoencoderConfig):
        self.recipe = recipe

    def __call__(self, vae: AutoencoderKL, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        posterior = vae.encode(batch["pixels"]).latent_dist
        latents = posterior.mean + posterior.std.clamp(min=self.recipe.noise) * batch["noise"]
        reconstruction = vae.decode(latents).sample
        l1, mse = F.l1_loss(reconstruction, batch["pixels"]), F.mse_loss(reconstruction, batch["pixels"])
        kl, whiteness_term = posterior.kl().sum() / latents.numel(), measure_whiteness(posterior.mean)
        loss = l1 + mse + self.recipe.kl_weight * kl + self.recipe.decorrelation * whiteness_term
        return {"loss": loss, "l1": l1, "mse": mse, "kl": kl, "whiteness": whiteness_term}


def measure_whiteness(latents: Tensor) -> Tensor:
    """Squared distance of NCHW latents' channel means and covariance from 0 and identity; 0 is white.

    The covariance term of VICReg (Bardes et al., arXiv 2105.04906, eq. 4), with the variances drawn to 1 as well.
    """
    channels = latents.transpose(0, 1).flatten(1)
    means = channels.mean(1, keepdim=True)
    covariance = (channels - means) @ (channels - means).T / channels.shape[1]
    return (covariance - torch.eye(len(channels), device=latents.device)).square().sum() + means.square().sum()


def make_autoencoder_batches(
    images: Tensor, recipe: AutoencoderConfig, settings: Training, full_images_from: int
) -> Callable[[int], dict[str, Tensor]]:
    """Batches by step from NCHW uint8 `pictures`: crops before step `whole_from`, then whole pictures."""
    downscale_factor = 2 ** (len(recipe.config["block_out_channels"]) - 1)

    def make_batch(step: int) -> dict[str, Tensor]:
        rng = make_generator(settings.seed, step)
        selected = images[
            torch.from_numpy(sample_indices(batch_positions(step, settings.batch_size), len(images), settings.seed))
        ]
        if step < full_images_from:
            x, y = torch.randint(0, images.shape[-1] - recipe.crop + 1, (2,), generator=rng).tolist()
            selected = selected[:, :, y : y + recipe.crop, x : x + recipe.crop]
        n, _, h, w = selected.shape
        noise = torch.randn(
            n, recipe.config["latent_channels"], h // downscale_factor, w // downscale_factor, generator=rng
        )
        return {"pixels": selected.float() / 127.5 - 1, "noise": noise}

    return make_batch


@contextmanager
def freeze_encoder(vae: AutoencoderKL) -> Iterator[None]:
    """Inside, only the decoder learns, so that latents stay what they are."""
    frozen_parameters = [*vae.encoder.parameters(), *vae.quant_conv.parameters()]
    for parameter in frozen_parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in frozen_parameters:
            parameter.requires_grad_(True)
