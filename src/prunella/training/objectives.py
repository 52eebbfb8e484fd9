"""Targets of a diffusion model: how examples are corrupted, the target, and the weight of each timestep.

An objective is one class; a new one (flow matching, say) is one more. Letters: N examples, C latent channels, H × W
latent pixels.
"""

from typing import Any, Protocol

import torch
from torch import Tensor


def sample_latents(mean: Tensor, std: Tensor, source: torch.Generator, scaling_factor: float) -> Tensor:
    """Final latents (what the net sees), drawn from raw latents' mean and std (NCHW or CHW each)."""
    return (mean + std * torch.randn(mean.shape, generator=source)) * scaling_factor


class Objective(Protocol):
    def corrupt(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The model's input (NCHW), of latents and noise (NCHW each) at timesteps (N)."""

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The model's target for that (NCHW)."""

    def min_snr_weight(self, timesteps: Tensor, gamma: float) -> Tensor:
        """Weights (N) of squared errors by timestep: min-SNR (Hang et al. 2023, https://arxiv.org/abs/2303.09556).

        An error of the latents weighs min(SNR, gamma); what that is for the target's error depends on the target.
        """


class Epsilon:
    """The noise is predicted (Ho et al. 2020, https://arxiv.org/abs/2006.11239). `scheduler`: diffusers' DDPM kind."""

    def __init__(self, scheduler: Any):
        self.scheduler = scheduler

    def corrupt(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return self.scheduler.add_noise(latents, noise, timesteps)

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return noise

    def min_snr_weight(self, timesteps: Tensor, gamma: float) -> Tensor:
        """min(SNR, gamma) / SNR: the noise's squared error is SNR times the latents'."""
        return (gamma / self.snr(timesteps)).clamp(max=1)  # 1, not 0/0, where nothing is left of the signal

    def snr(self, timesteps: Tensor) -> Tensor:
        """Signal to noise ratio (N)."""
        signal = self.scheduler.alphas_cumprod.to(timesteps.device)[timesteps]
        return signal / (1 - signal)


class Velocity(Epsilon):
    """v = sqrt(a)·noise - sqrt(1-a)·latents is predicted (Salimans & Ho 2022, https://arxiv.org/abs/2202.00512, D)."""

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return self.scheduler.get_velocity(latents, noise, timesteps)

    def min_snr_weight(self, timesteps: Tensor, gamma: float) -> Tensor:
        """min(SNR, gamma) / (SNR + 1): v's squared error is SNR + 1 times the latents'."""
        snr = self.snr(timesteps)
        return snr.clamp(max=gamma) / (snr + 1)


OBJECTIVES = {"epsilon": Epsilon, "v_prediction": Velocity}


def make_objective(scheduler: Any) -> Objective:
    """The objective that a diffusers scheduler's config names. Raises ValueError for one that is not known."""
    kind = scheduler.config.prediction_type
    if kind not in OBJECTIVES:
        raise ValueError(f"prediction_type {kind!r}: expected {' or '.join(OBJECTIVES)}")
    return OBJECTIVES[kind](scheduler)
