"""The Fréchet distance of the Gaussians fitted to two sets, and what each picture adds to it.

It is biased upwards where pictures are few: a fitted covariance of F features needs many times F pictures. So whoever
uses it refuses fewer than ten pictures a feature.
"""

import numpy as np

from prunella.evaluation.set_distance import Distance

A_FEATURE = 10  # pictures, at least
SMALLEST = 1e-10  # of the largest eigenvalue, below which a direction counts as empty


def frechet(one: np.ndarray, other: np.ndarray) -> Distance:
    """Squared Fréchet distance of two NF arrays: |m₁ − m₂|² + tr(C₁ + C₂ − 2 (C₁ C₂)^½).

    Dowson & Landau 1982, used as in FID (Heusel et al., arXiv 1706.08500, eq. 6). What a picture adds is the
    infinitesimal jackknife: the distance's derivative by the picture's weight, from the linear map that takes one
    Gaussian to the other (Takatsu 2011, Osaka J. Math. 48). Raises ValueError with fewer than two pictures in a set.
    """
    if min(len(one), len(other)) < 2:
        raise ValueError(f"a Gaussian needs two pictures or more; there are {len(one)} and {len(other)}")
    one, other = one.astype(np.float64), other.astype(np.float64)
    means = [each.mean(0) for each in (one, other)]
    first, second = (np.atleast_2d(np.cov(each, rowvar=False)) for each in (one, other))
    root, inverse = _roots(first)
    middle, middle_inverse = _roots(root @ second @ root)
    apart = means[0] - means[1]
    value = float(apart @ apart + np.trace(first) + np.trace(second) - 2 * np.trace(middle))
    # T takes the first Gaussian to the second, its inverse back; the derivative by C₁ is 1 − T, by C₂ 1 − T⁻¹.
    there, back = inverse @ middle @ inverse, root @ middle_inverse @ root
    drawn = value + _added(one - means[0], 2 * apart, there)
    return Distance(value, drawn, value + _added(other - means[1], -2 * apart, back))


def _added(rows: np.ndarray, slope: np.ndarray, through: np.ndarray) -> np.ndarray:
    """First-order changes of the distance by the weight of each row (centred): 0 on average."""
    squares = np.square(rows).sum(1) - np.einsum("nf,nf->n", rows @ through, rows)
    return rows @ slope + squares - squares.mean()


def _roots(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Square root of a positive semi-definite matrix, and that root's (pseudo-)inverse."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    values = np.sqrt(np.clip(values, 0, None))
    full = values > np.sqrt(SMALLEST) * max(values.max(initial=0), 1e-300)
    inverse = np.divide(1, values, out=np.zeros_like(values), where=full)
    return (vectors * values) @ vectors.T, (vectors * inverse) @ vectors.T
