"""Fréchet distance of drawn from real pictures in the teacher's latents, for large numbers of pictures.

The distance is biased upwards where pictures are few: 64 real pictures against 64 others give 4.3 ± 0.7 on the default
data, 1,000 against 1,000 give 0.29. So it is refused below ten pictures a feature; `latent_kid` has no such bias.
"""

from collections.abc import Sequence

import numpy as np
from scipy.stats import norm

from prunella.evaluation.metrics.base import Images, Subject, Unavailable
from prunella.evaluation.scores.features import LatentFeatures, latent_features
from prunella.evaluation.stats import CONFIDENCE, Estimate

A_FEATURE = 10  # pictures, at least
RESAMPLES = 100


class LatentFrechet:
    """Distance of the drawn pictures from the held-out ones whose captions are not drawn."""

    def __init__(self, features: LatentFeatures):
        self.features = features
        self.rows: list[np.ndarray] = []

    def update(self, images: Images, prompts: Sequence[str]) -> None:
        self.rows.append(self.features(images))

    def compute(self) -> Estimate:
        return estimate(np.concatenate(self.rows), self.features.others)

    def parts(self) -> dict[str, Estimate]:
        return {}

    def floor(self) -> Estimate:
        return estimate(self.features.drawn_ones, self.features.others)


def build(subject: Subject) -> LatentFrechet:
    features = latent_features(subject)
    few = min(len(features.drawn_ones), len(features.others))
    needed = A_FEATURE * max(features.drawn_ones.shape[1], 1)
    if few < needed:
        raise Unavailable(
            f"{len(features.drawn_ones)} drawn and {len(features.others)} other held-out pictures; {needed} of each "
            f"are needed, {A_FEATURE} a feature (benchmark.prompts, encode.heldout); latent_kid does with fewer"
        )
    return LatentFrechet(features)


def estimate(one: np.ndarray, other: np.ndarray) -> Estimate:
    """The distance with an interval of the value ± 1.96 standard deviations over seeded bootstrap resamples."""
    rng, value = np.random.default_rng(0), frechet(one, other)
    resampled = [
        frechet(*(rows[rng.integers(len(rows), size=len(rows))] for rows in (one, other))) for _ in range(RESAMPLES)
    ]
    half = float(norm.ppf((1 + CONFIDENCE) / 2) * np.std(resampled, ddof=1))
    return Estimate(value, len(one), value - half, value + half)


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
