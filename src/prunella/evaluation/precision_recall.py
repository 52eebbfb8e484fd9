"""The pictures that lie within the manifold of another set: in a ball around one of its pictures, in a space of
features.

Improved precision and recall (Kynkäänniemi et al. 2019, arXiv 1904.06991, section 3): a ball reaches as far as the
third nearest picture of its own set. Precision is the share of drawn pictures within the manifold of real ones, recall
the share of real ones within that of drawn ones. Distances are held a block at a time, so memory grows with the number
of pictures alone. The jackknife errs to the safe side here (Efron & Stein 1981, Ann. Stat. 9).
"""

from collections.abc import Iterator

import numpy as np
from scipy.stats import norm

from prunella.evaluation.set_distance import Distance
from prunella.stats import CONFIDENCE, Estimate

NUM_NEIGHBORS = 3
MIN_IMAGES = 1000  # pictures of either set: with fewer, the value says more about their number
MAX_BLOCK_ENTRIES = 2**23  # distances in memory, 64 MB


class CoverageEstimate(Distance):
    """A share of one set, and what each picture adds to it; `drawn` and `real` have the share as their means."""

    def estimate(self) -> Estimate:
        """With Wilson's interval for as many pictures as would vary like this share, by both sets' chance.

        The effective number of a survey's shares (Franco et al. 2019, J. Surv. Stat. Methodol. 7): one that is 0 or 1
        has a width too.
        """
        n, variance = (
            len(self.generated_values),
            sum(values.var(ddof=1) / len(values) for values in (self.generated_values, self.real_values)),
        )
        shrunk_value = (self.value * n + 2) / (n + 4)  # of no width 0
        effective_n = shrunk_value * (1 - shrunk_value) / max(variance, shrunk_value * (1 - shrunk_value) / n)
        z = float(norm.ppf((1 + CONFIDENCE) / 2))
        center = (self.value + z**2 / (2 * effective_n)) / (1 + z**2 / effective_n)
        half_width = (
            z
            / (1 + z**2 / effective_n)
            * np.sqrt(self.value * (1 - self.value) / effective_n + z**2 / (4 * effective_n**2))
        )
        return Estimate(self.value, n, max(0.0, float(center - half_width)), min(1.0, float(center + half_width)))


def measure_precision(generated: np.ndarray, real: np.ndarray) -> CoverageEstimate:
    """The share of NF drawn pictures within the manifold of MF real ones."""
    inside, influence = find_covered(generated, real)
    return CoverageEstimate(float(inside.mean()), inside.astype(float), influence)


def measure_recall(generated: np.ndarray, real: np.ndarray) -> CoverageEstimate:
    """The share of MF real pictures within the manifold of NF drawn ones."""
    inside, influence = find_covered(real, generated)
    return CoverageEstimate(float(inside.mean()), influence, inside.astype(float))


def find_covered(points: np.ndarray, centers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The of NF points lie in a ball of MF centres (N truths), and what each centre adds to their share (M).

    The latter are the jackknife's pseudo-values, moved so that their mean is the share: without a centre its own ball
    is gone, and those of its neighbours reach one picture further. Raises ValueError with fewer than five centres.
    """
    if len(centers) < NUM_NEIGHBORS + 2:
        raise ValueError(f"a ball needs {NUM_NEIGHBORS + 1} pictures beside its own; there are {len(centers)}")
    points, centers = points.astype(np.float64), centers.astype(np.float64)
    neighbors, radii = _knn_radii(centers)
    inside, coverage_change = np.empty(len(points), bool), np.zeros(len(centers))
    for rows, distances in _iter_distances(points, centers):
        in_ball, in_grown_ball = distances <= radii[:, 0], distances <= radii[:, 1]
        inside[rows] = in_ball.any(1)
        for balls in in_grown_ball[~inside[rows]]:  # a point that is in no ball comes in
            coverage_change[np.unique(neighbors[balls])] += 1
        in_one_ball = in_ball.sum(1) == 1
        for ball, balls in zip(
            in_ball[in_one_ball].argmax(1), in_grown_ball[in_one_ball], strict=True
        ):  # a point in one ball falls out
            if not (balls & (neighbors == ball).any(1)).any():
                coverage_change[ball] -= 1
    influence = -(len(centers) - 1) * coverage_change / len(points)
    return inside, inside.mean() + influence - influence.mean()


def _knn_radii(centers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest others of each centre (M, NEIGHBOURS), and squared distances of the last of them and of the next."""
    neighbors, radii = np.empty((len(centers), NUM_NEIGHBORS), int), np.empty((len(centers), 2))
    for rows, distances in _iter_distances(centers, centers):
        distances[np.arange(len(distances)), np.arange(rows.start, rows.start + len(distances))] = np.inf
        nearest = np.argpartition(distances, NUM_NEIGHBORS, axis=1)[:, : NUM_NEIGHBORS + 1]
        nearest_distances = np.take_along_axis(distances, nearest, 1)
        order = nearest_distances.argsort(1)
        neighbors[rows] = np.take_along_axis(nearest, order, 1)[:, :NUM_NEIGHBORS]
        radii[rows] = np.take_along_axis(nearest_distances, order, 1)[:, NUM_NEIGHBORS - 1 :]
    return neighbors, radii


def _iter_distances(one: np.ndarray, other: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Squared distances of some rows of `one` from all of `other`, and which rows."""
    lengths, rows = np.square(other).sum(1), max(1, MAX_BLOCK_ENTRIES // len(other))
    for start in range(0, len(one), rows):
        block = one[start : start + rows]
        distances = np.square(block).sum(1)[:, None] + lengths - 2 * block @ other.T
        yield slice(start, start + len(block)), np.clip(distances, 0, None)
