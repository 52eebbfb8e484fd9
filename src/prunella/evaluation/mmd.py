"""The unbiased squared maximum mean discrepancy (MMD) of two sets, for any kernel of products and lengths.

Gretton et al. 2012 (JMLR 13, lemma 6). It is 0 on average for two sets of one distribution, so it may be below 0, and
has no bias at any number of pictures. Of the kernel matrices only sums over rows are kept, so memory grows with the
number of pictures alone.
"""

from collections.abc import Callable

import numpy as np

from prunella.evaluation.set_distance import Distance

FEWEST = 3  # of either set: the jackknife leaves one out of two that the estimator needs
BLOCK = 2**23  # entries of a kernel matrix in memory, 64 MB
# (x·y, |x|², |y|², F) → k(x, y), elementwise
Kernel = Callable[[np.ndarray, np.ndarray, np.ndarray, int], np.ndarray]


def cubic(products: np.ndarray, ones: np.ndarray, others: np.ndarray, width: int) -> np.ndarray:
    """KID's, (x·y / F + 1)³ (Bińkowski et al. 2018, arXiv 1801.01401, section 4)."""
    return (products / width + 1) ** 3


def gaussian(sigma: float, scale: float) -> Kernel:
    """scale · exp(-|x - y|² / 2σ²)."""

    def kernel(products: np.ndarray, ones: np.ndarray, others: np.ndarray, width: int) -> np.ndarray:
        return scale * np.exp(-np.clip(ones + others - 2 * products, 0, None) / (2 * sigma**2))

    return kernel


def discrepancy(one: np.ndarray, other: np.ndarray, kernel: Kernel) -> Distance:
    """Of NF and MF features, with the jackknife's pseudo-values over both sets (Arvesen 1969, Ann. Math. Stat. 40)."""
    one, other = one.astype(np.float64), other.astype(np.float64)
    n, m = len(one), len(other)
    inner, outer = (_row_sums(rows, rows, kernel) - _diagonal(rows, kernel) for rows in (one, other))
    across, back = _row_sums(one, other, kernel), _row_sums(other, one, kernel)
    within, without, between = inner.sum(), outer.sum(), across.sum()
    value = within / (n * (n - 1)) + without / (m * (m - 1)) - 2 * between / (n * m)
    one_out = (
        (within - 2 * inner) / ((n - 1) * (n - 2)) + without / (m * (m - 1)) - 2 * (between - across) / ((n - 1) * m)
    )
    other_out = (
        within / (n * (n - 1)) + (without - 2 * outer) / ((m - 1) * (m - 2)) - 2 * (between - back) / (n * (m - 1))
    )
    return Distance(float(value), n * value - (n - 1) * one_out, m * value - (m - 1) * other_out)


def _row_sums(one: np.ndarray, other: np.ndarray, kernel: Kernel) -> np.ndarray:
    """Sums over `other` of the kernel with each row of `one`."""
    lengths, width, sums = np.square(other).sum(1), one.shape[1], np.empty(len(one))
    rows = max(1, BLOCK // len(other))
    for start in range(0, len(one), rows):
        block = one[start : start + rows]
        ones = np.square(block).sum(1)[:, None]
        sums[start : start + rows] = kernel(block @ other.T, ones, lengths, width).sum(1)
    return sums


def _diagonal(rows: np.ndarray, kernel: Kernel) -> np.ndarray:
    """The kernel of each row with itself."""
    lengths = np.square(rows).sum(1)
    return kernel(lengths, lengths, lengths, rows.shape[1])
