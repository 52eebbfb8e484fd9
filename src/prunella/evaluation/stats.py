"""Estimates with 95 % intervals."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import binomtest, bootstrap

CONFIDENCE = 0.95
RESAMPLES = 2000
AT_ONCE = 100  # resamples in memory


class Estimate(NamedTuple):
    """A value from `n` observations with its 95 % interval [low, high], in the value's unit."""

    value: float
    n: int
    low: float
    high: float

    def rounded(self) -> dict[str, Any]:
        """{"value", "n", "low", "high"} for a report, six significant digits each."""
        return {name: part if name == "n" else float(f"{part:.6g}") for name, part in self._asdict().items()}


def share(hits: int, n: int) -> Estimate:
    """A share with the Wilson score interval (Wilson 1927), which holds near 0 and 1."""
    interval = binomtest(hits, n).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(hits / n, n, float(interval.low), float(interval.high))


def mean(values: Sequence[float]) -> Estimate:
    """The mean with its percentile bootstrap interval; the resampling is seeded, so equal values give equal figures."""
    found = np.asarray(values, float)
    value = float(found.mean())
    if len(found) < 2 or np.ptp(found) == 0:
        return Estimate(value, len(found), value, value)
    interval = bootstrap(
        (found,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=AT_ONCE,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Estimate(value, len(found), float(interval.low), float(interval.high))


def paired_difference(after: Sequence[float], before: Sequence[float]) -> Estimate:
    """Mean of `after` − `before`, value by value, with its bootstrap interval: an interval without 0 is a difference.

    Raises ValueError where the two are not of equal length.
    """
    if len(after) != len(before):
        raise ValueError(f"paired values: {len(after)} and {len(before)} are not pairs")
    return mean(np.asarray(after, float) - np.asarray(before, float))
