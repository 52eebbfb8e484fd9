"""Fréchet distance between two sets of pictures in the space of a VAE's latents.

The features of a picture are its latents' means, averaged over a grid of cells: what colour is where, coarsely, and
how much outline. No learned classifier is involved, so values compare only with values in the same VAE's space and for
the same number of pictures (the distance falls with it); the distance between two sets of real pictures is the floor.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

CELLS = 4  # to a side: 4 × 4 cells × 4 channels = 64 features


@torch.no_grad()
def latent_means(vae, pictures: list[np.ndarray], batch_size: int = 64) -> Tensor:
    """Raw latents' means (NCHW, on the CPU) of HWC uint8 pictures."""
    means = []
    for start in range(0, len(pictures), batch_size):
        chunk = torch.from_numpy(np.stack(pictures[start : start + batch_size])).permute(0, 3, 1, 2)
        means.append(vae.encode(chunk.to(vae.device, vae.dtype) / 127.5 - 1).latent_dist.mean.float().cpu())
    return torch.cat(means)


def features(latents: Tensor) -> np.ndarray:
    """NF features, float64, of NCHW latents."""
    return F.adaptive_avg_pool2d(latents.float(), CELLS).flatten(1).double().numpy()


def frechet(one: np.ndarray, other: np.ndarray) -> float:
    """Squared Fréchet distance of the Gaussians fitted to two NF arrays.

    Dowson & Landau 1982, used as in FID (Heusel et al., arXiv 1706.08500, eq. 6):
    |m₁ − m₂|² + tr(C₁ + C₂ − 2 (C₁ C₂)^½). Raises ValueError with fewer than two pictures in a set.
    """
    if min(len(one), len(other)) < 2:
        raise ValueError(f"a Gaussian needs two pictures or more; there are {len(one)} and {len(other)}")
    first, second = np.cov(one, rowvar=False), np.cov(other, rowvar=False)
    # The trace of (C₁ C₂)^½ is the sum of the roots of the product's eigenvalues, all real and not negative.
    roots = np.sqrt(np.clip(np.linalg.eigvals(np.atleast_2d(first) @ np.atleast_2d(second)).real, 0, None))
    apart = float(np.square(one.mean(0) - other.mean(0)).sum())
    return apart + float(np.trace(np.atleast_2d(first)) + np.trace(np.atleast_2d(second)) - 2 * roots.sum())
