"""Kernel distance (KID) of drawn from real pictures in the teacher's latents: unbiased at any number of pictures.

Bińkowski et al. 2018 (arXiv 1801.01401): the squared maximum mean discrepancy with the kernel (x·y / F + 1)³, by its
unbiased estimator, which is 0 on average for two sets of one distribution and may be below 0. The features are those of
`prunella.evaluation.scores.features` in place of Inception's, so values compare only within one teacher's VAE.
"""

from collections.abc import Sequence

import numpy as np
from scipy.stats import t as student_t

from prunella.evaluation.metrics.base import Images, Subject, Unavailable
from prunella.evaluation.scores.features import LatentFeatures, latent_features
from prunella.evaluation.stats import CONFIDENCE, Estimate

FEWEST = 3  # of either set: the jackknife leaves one out of two that the estimator needs
BLOCK = 1024  # rows of a kernel matrix in memory


class LatentKid:
    """KID of the drawn pictures from the held-out ones whose captions are not drawn."""

    def __init__(self, features: LatentFeatures):
        self.features = features
        self.rows: list[np.ndarray] = []

    def update(self, images: Images, prompts: Sequence[str]) -> None:
        self.rows.append(self.features(images))

    def compute(self) -> Estimate:
        return kid(np.concatenate(self.rows), self.features.others)

    def parts(self) -> dict[str, Estimate]:
        return {}

    def floor(self) -> Estimate:
        """KID of the real pictures under the drawn captions from the others: 0 but for chance."""
        return kid(self.features.drawn_ones, self.features.others)


def build(subject: Subject) -> LatentKid:
    features = latent_features(subject)
    few = min(len(features.drawn_ones), len(features.others))
    if few < FEWEST:
        raise Unavailable(
            f"{len(features.drawn_ones)} drawn and {len(features.others)} other held-out pictures; "
            f"{FEWEST} of each are needed (encode.heldout above benchmark.prompts)"
        )
    return LatentKid(features)


def kid(one: np.ndarray, other: np.ndarray) -> Estimate:
    """Unbiased squared discrepancy of two NF arrays, its interval by the jackknife over both (Arvesen 1969).

    Only sums over rows of the kernel matrices are kept, so memory grows with the number of pictures alone.
    """
    n, m = len(one), len(other)
    inner, outer = _row_sums(one, one) - _diagonal(one), _row_sums(other, other) - _diagonal(other)
    across, back = _row_sums(one, other), _row_sums(other, one)
    within, without, between = inner.sum(), outer.sum(), across.sum()
    value = within / (n * (n - 1)) + without / (m * (m - 1)) - 2 * between / (n * m)
    one_out = (
        (within - 2 * inner) / ((n - 1) * (n - 2)) + without / (m * (m - 1)) - 2 * (between - across) / ((n - 1) * m)
    )
    other_out = (
        within / (n * (n - 1)) + (without - 2 * outer) / ((m - 1) * (m - 2)) - 2 * (between - back) / (n * (m - 1))
    )
    variance = (n - 1) * one_out.var() + (m - 1) * other_out.var()
    half = float(student_t.ppf((1 + CONFIDENCE) / 2, min(n, m) - 1) * np.sqrt(variance))
    return Estimate(float(value), n, float(value) - half, float(value) + half)


def _kernel(products: np.ndarray, width: int) -> np.ndarray:
    return (products / width + 1) ** 3


def _row_sums(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Sums over `other` of the kernel with each row of `one`."""
    blocks = (one[start : start + BLOCK] @ other.T for start in range(0, len(one), BLOCK))
    return np.concatenate([_kernel(block, one.shape[1]).sum(1) for block in blocks])


def _diagonal(rows: np.ndarray) -> np.ndarray:
    return _kernel(np.square(rows).sum(1), rows.shape[1])
