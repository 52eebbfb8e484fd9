"""What a diffusion model is to predict, and how its errors are weighed by timestep, as pure functions.

Letters: N examples, C latent channels, H × W latent pixels.
"""

from typing import Any

import torch
from torch import Tensor


def sampled(mean: Tensor, std: Tensor, source: torch.Generator, scaling_factor: float) -> Tensor:
    """Final latents (what the net sees), drawn from raw latents' mean and std (NCHW or CHW each)."""
    return (mean + std * torch.randn(mean.shape, generator=source)) * scaling_factor


def target(latents: Tensor, noise: Tensor, timesteps: Tensor, scheduler: Any) -> Tensor:
    """What a student is to predict (NCHW): the noise, or v = sqrt(a)·noise - sqrt(1-a)·latents.

    v-prediction: Salimans & Ho 2022, https://arxiv.org/abs/2202.00512, appendix D.
    """
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return noise
    if kind == "v_prediction":
        return scheduler.get_velocity(latents, noise, timesteps)
    raise ValueError(f"prediction_type {kind!r}: expected epsilon or v_prediction")


def min_snr(timesteps: Tensor, scheduler: Any, gamma: float) -> Tensor:
    """Weights (N) of squared errors by timestep: min(SNR, gamma) / SNR for epsilon, / (SNR + 1) for v.

    Min-SNR (Hang et al. 2023, https://arxiv.org/abs/2303.09556): an error of the latents weighs min(SNR, gamma); the
    noise's squared error is SNR times the latents', v's is SNR + 1 times.
    """
    signal = scheduler.alphas_cumprod.to(timesteps.device)[timesteps]
    snr = signal / (1 - signal)
    if scheduler.config.prediction_type == "v_prediction":
        return snr.clamp(max=gamma) / (snr + 1)
    return (gamma / snr).clamp(max=1)  # 1, not 0/0, where nothing is left of the signal
