"""Fréchet distance between two sets of pictures in the space of a VAE's latents.

The features of a picture are its latents' means, averaged over a grid of cells: what colour is where, coarsely, and
how much outline. No learned classifier is involved, so values compare only with values in the same VAE's space and for
the same number of pictures (the distance falls with it); the distance between two sets of real pictures is the floor.
"""

import numpy as np
import torch.nn.functional as F
from torch import Tensor

CELLS = 4  # to a side: 4 × 4 cells × 4 channels = 64 features


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
    first, second = (np.atleast_2d(np.cov(each, rowvar=False)) for each in (one, other))
    # The trace of (C₁ C₂)^½ is the sum of the roots of the product's eigenvalues, all real and not negative.
    roots = np.sqrt(np.clip(np.linalg.eigvals(first @ second).real, 0, None))
    apart = float(np.square(one.mean(0) - other.mean(0)).sum())
    return apart + float(np.trace(first) + np.trace(second) - 2 * roots.sum())
