"""The Fréchet distance of the Gaussians fitted to two sets, and what each picture adds to it.

It is biased upwards where pictures are few: a fitted covariance of F features needs many times F pictures. Therefore
whoever uses it refuses fewer than ten pictures a feature.
"""

import numpy as np

from prunella.evaluation.set_distance import Distance

IMAGES_PER_FEATURE = 10  # pictures, at least
EIGENVALUE_TOLERANCE = 1e-10  # of the largest eigenvalue, below which a direction counts as empty


def measure_frechet(generated: np.ndarray, real: np.ndarray) -> Distance:
    """Squared Fréchet distance of two NF arrays: |m₁ − m₂|² + tr(C₁ + C₂ − 2 (C₁ C₂)^½).

    Dowson & Landau 1982, used as in FID (Heusel et al., arXiv 1706.08500, eq. 6). The contribution of a picture is the
    infinitesimal jackknife: the distance's derivative by the picture's weight, from the linear map that takes one
    Gaussian to the other (Takatsu 2011, Osaka J. Math. 48). Raises ValueError with fewer than two pictures in a set.
    """
    if min(len(generated), len(real)) < 2:
        raise ValueError(f"a Gaussian needs two pictures or more; there are {len(generated)} and {len(real)}")
    generated, real = generated.astype(np.float64), real.astype(np.float64)
    means = [features.mean(0) for features in (generated, real)]
    generated_cov, real_cov = (np.atleast_2d(np.cov(features, rowvar=False)) for features in (generated, real))
    cov_root, cov_root_inverse = _matrix_roots(generated_cov)
    product_root, product_root_inverse = _matrix_roots(cov_root @ real_cov @ cov_root)
    mean_difference = means[0] - means[1]
    value = float(
        mean_difference @ mean_difference + np.trace(generated_cov) + np.trace(real_cov) - 2 * np.trace(product_root)
    )
    # T takes the first Gaussian to the second, its inverse back; the derivative by C₁ is 1 − T, by C₂ 1 − T⁻¹.
    transport, inverse_transport = (
        cov_root_inverse @ product_root @ cov_root_inverse,
        cov_root @ product_root_inverse @ cov_root,
    )
    generated_values = value + _weight_derivatives(generated - means[0], 2 * mean_difference, transport)
    return Distance(
        value, generated_values, value + _weight_derivatives(real - means[1], -2 * mean_difference, inverse_transport)
    )


def _weight_derivatives(rows: np.ndarray, slope: np.ndarray, transport: np.ndarray) -> np.ndarray:
    """First-order changes of the distance by the weight of each row (centred): 0 on average."""
    squares = np.square(rows).sum(1) - np.einsum("nf,nf->n", rows @ transport, rows)
    return rows @ slope + squares - squares.mean()


def _matrix_roots(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Square root of a positive semi-definite matrix, and that root's (pseudo-)inverse."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    values = np.sqrt(np.clip(values, 0, None))
    nonzero = values > np.sqrt(EIGENVALUE_TOLERANCE) * max(values.max(initial=0), 1e-300)
    inverse = np.divide(1, values, out=np.zeros_like(values), where=nonzero)
    return (vectors * values) @ vectors.T, (vectors * inverse) @ vectors.T
