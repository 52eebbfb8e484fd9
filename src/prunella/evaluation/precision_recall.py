"""Which pictures lie within the manifold of another set: in a ball around one of its pictures, in a space of features.

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

NEIGHBOURS = 3
FEWEST = 1000  # pictures of either set: with fewer, the value says more about their number
BLOCK = 2**23  # distances in memory, 64 MB


class Covered(Distance):
    """A share of one set, and what each picture adds to it; `drawn` and `real` have the share as their means."""

    def estimate(self) -> Estimate:
        """With Wilson's interval for as many pictures as would vary like this share, by both sets' chance.

        The effective number of a survey's shares (Franco et al. 2019, J. Surv. Stat. Methodol. 7): one that is 0 or 1
        has a width too.
        """
        n, spread = len(self.drawn), sum(each.var(ddof=1) / len(each) for each in (self.drawn, self.real))
        near = (self.value * n + 2) / (n + 4)  # of no width 0
        few = near * (1 - near) / max(spread, near * (1 - near) / n)
        z = float(norm.ppf((1 + CONFIDENCE) / 2))
        middle = (self.value + z**2 / (2 * few)) / (1 + z**2 / few)
        half = z / (1 + z**2 / few) * np.sqrt(self.value * (1 - self.value) / few + z**2 / (4 * few**2))
        return Estimate(self.value, n, max(0.0, float(middle - half)), min(1.0, float(middle + half)))


def precision(drawn: np.ndarray, real: np.ndarray) -> Covered:
    """The share of NF drawn pictures within the manifold of MF real ones."""
    inside, added = covered(drawn, real)
    return Covered(float(inside.mean()), inside.astype(float), added)


def recall(drawn: np.ndarray, real: np.ndarray) -> Covered:
    """The share of MF real pictures within the manifold of NF drawn ones."""
    inside, added = covered(real, drawn)
    return Covered(float(inside.mean()), added, inside.astype(float))


def covered(points: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which of NF points lie in a ball of MF centres (N truths), and what each centre adds to their share (M).

    The latter are the jackknife's pseudo-values, moved so that their mean is the share: without a centre its own ball
    is gone, and those of its neighbours reach one picture further. Raises ValueError with fewer than five centres.
    """
    if len(centres) < NEIGHBOURS + 2:
        raise ValueError(f"a ball needs {NEIGHBOURS + 1} pictures beside its own; there are {len(centres)}")
    points, centres = points.astype(np.float64), centres.astype(np.float64)
    near, reach = _balls(centres)
    inside, change = np.empty(len(points), bool), np.zeros(len(centres))
    for rows, apart in _distances(points, centres):
        now, grown = apart <= reach[:, 0], apart <= reach[:, 1]
        inside[rows] = now.any(1)
        for balls in grown[~inside[rows]]:  # a point that is in no ball comes in
            change[np.unique(near[balls])] += 1
        alone = now.sum(1) == 1
        for ball, balls in zip(now[alone].argmax(1), grown[alone], strict=True):  # a point in one ball falls out
            if not (balls & (near == ball).any(1)).any():
                change[ball] -= 1
    added = -(len(centres) - 1) * change / len(points)
    return inside, inside.mean() + added - added.mean()


def _balls(centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest others of each centre (M, NEIGHBOURS), and squared distances of the last of them and of the next."""
    near, reach = np.empty((len(centres), NEIGHBOURS), int), np.empty((len(centres), 2))
    for rows, apart in _distances(centres, centres):
        apart[np.arange(len(apart)), np.arange(rows.start, rows.start + len(apart))] = np.inf
        first = np.argpartition(apart, NEIGHBOURS, axis=1)[:, : NEIGHBOURS + 1]
        each = np.take_along_axis(apart, first, 1)
        order = each.argsort(1)
        near[rows] = np.take_along_axis(first, order, 1)[:, :NEIGHBOURS]
        reach[rows] = np.take_along_axis(each, order, 1)[:, NEIGHBOURS - 1 :]
    return near, reach


def _distances(one: np.ndarray, other: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Squared distances of some rows of `one` from all of `other`, and which rows."""
    lengths, rows = np.square(other).sum(1), max(1, BLOCK // len(other))
    for start in range(0, len(one), rows):
        some = one[start : start + rows]
        apart = np.square(some).sum(1)[:, None] + lengths - 2 * some @ other.T
        yield slice(start, start + len(some)), np.clip(apart, 0, None)
