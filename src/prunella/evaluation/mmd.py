"""The unbiased squared maximum mean discrepancy (MMD) of two sets, for any kernel of products and lengths.

Gretton et al. 2012 (JMLR 13, lemma 6). It is 0 on average for two sets of one distribution, so it may be below 0, and
has no bias at any number of pictures. Only sums over rows of the kernel matrices are kept, so memory grows with the
number of pictures alone.
"""

from collections.abc import Callable

import numpy as np

from prunella.evaluation.set_distance import Distance

MIN_IMAGES = 3  # of either set: the jackknife leaves one out of two that the estimator needs
MAX_BLOCK_ENTRIES = 2**23  # entries of a kernel matrix in memory, 64 MB
# (x·y, |x|², |y|², F) → k(x, y), elementwise
Kernel = Callable[[np.ndarray, np.ndarray, np.ndarray, int], np.ndarray]


def evaluate_cubic_kernel(products: np.ndarray, ones: np.ndarray, others: np.ndarray, num_features: int) -> np.ndarray:
    """KID's, (x·y / F + 1)³ (Bińkowski et al. 2018, arXiv 1801.01401, section 4)."""
    return (products / num_features + 1) ** 3


def make_gaussian_kernel(sigma: float, scale: float) -> Kernel:
    """scale · exp(-|x - y|² / 2σ²)."""

    def kernel(products: np.ndarray, ones: np.ndarray, others: np.ndarray, num_features: int) -> np.ndarray:
        return scale * np.exp(-np.clip(ones + others - 2 * products, 0, None) / (2 * sigma**2))

    return kernel


def measure_mmd(generated: np.ndarray, real: np.ndarray, kernel: Kernel) -> Distance:
    """For NF and MF features, with the jackknife's pseudo-values over both sets (Arvesen 1969, Ann. Math. Stat. 40)."""
    generated, real = generated.astype(np.float64), real.astype(np.float64)
    n, m = len(generated), len(real)
    generated_sums, real_sums = (
        _row_sums(rows, rows, kernel) - _kernel_diagonal(rows, kernel) for rows in (generated, real)
    )
    cross_sums, cross_sums_back = _row_sums(generated, real, kernel), _row_sums(real, generated, kernel)
    generated_total, real_total, cross_total = generated_sums.sum(), real_sums.sum(), cross_sums.sum()
    value = generated_total / (n * (n - 1)) + real_total / (m * (m - 1)) - 2 * cross_total / (n * m)
    without_generated = (
        (generated_total - 2 * generated_sums) / ((n - 1) * (n - 2))
        + real_total / (m * (m - 1))
        - 2 * (cross_total - cross_sums) / ((n - 1) * m)
    )
    without_real = (
        generated_total / (n * (n - 1))
        + (real_total - 2 * real_sums) / ((m - 1) * (m - 2))
        - 2 * (cross_total - cross_sums_back) / (n * (m - 1))
    )
    return Distance(float(value), n * value - (n - 1) * without_generated, m * value - (m - 1) * without_real)


def _row_sums(one: np.ndarray, other: np.ndarray, kernel: Kernel) -> np.ndarray:
    """Sums over `other` of the kernel with each row of `one`."""
    lengths, num_features, sums = np.square(other).sum(1), one.shape[1], np.empty(len(one))
    block_rows = max(1, MAX_BLOCK_ENTRIES // len(other))
    for start in range(0, len(one), block_rows):
        block = one[start : start + block_rows]
        ones = np.square(block).sum(1)[:, None]
        sums[start : start + block_rows] = kernel(block @ other.T, ones, lengths, num_features).sum(1)
    return sums


def _kernel_diagonal(rows: np.ndarray, kernel: Kernel) -> np.ndarray:
    """The kernel of each row with itself."""
    lengths = np.square(rows).sum(1)
    return kernel(lengths, lengths, lengths, rows.shape[1])
