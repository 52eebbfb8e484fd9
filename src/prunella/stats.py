"""Estimates with 95 % intervals."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import binomtest, bootstrap, norm

CONFIDENCE = 0.95
RESAMPLES = 2000
RESAMPLE_BATCH = 100  # resamples in memory


class Estimate(NamedTuple):
    """A value from `n` observations with its 95 % interval [low, high], in the value's unit."""

    value: float
    n: int
    low: float
    high: float

    def to_report_dict(self) -> dict[str, Any]:
        """{"value", "n", "low", "high"} for a report, six significant digits each."""
        return {name: part if name == "n" else float(f"{part:.6g}") for name, part in self._asdict().items()}


def estimate_fraction(hits: int, n: int) -> Estimate:
    """A share with the Wilson score interval (Wilson 1927), which holds near 0 and 1."""
    interval = binomtest(hits, n).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(hits / n, n, float(interval.low), float(interval.high))


def estimate_mean(values: Sequence[float]) -> Estimate:
    """The mean with its percentile bootstrap interval; the resampling is seeded, so equal values give equal figures."""
    array = np.asarray(values, float)
    center = float(array.mean())
    if len(array) < 2 or np.ptp(array) == 0:
        return Estimate(center, len(array), center, center)
    return Estimate(center, len(array), *bootstrap_interval(np.mean, array))


def bootstrap_interval(statistic: Callable[..., Any], *values: np.ndarray) -> tuple[float, float]:
    """The percentile bootstrap interval of a statistic of arrays (N), whose i-th values are drawn together; seeded."""
    interval = bootstrap(
        values,
        statistic,
        paired=True,
        n_resamples=RESAMPLES,
        batch=RESAMPLE_BATCH,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def estimate_paired_difference(after: Sequence[float], before: Sequence[float]) -> Estimate:
    """Mean of `after` − `before`, value by value, with its interval: one without 0 is a difference.

    The interval is that of `estimate_mean`; of truths (bool), of which few may differ, that of
    `_estimate_paired_proportions`. Raises ValueError where the two are not of equal length.
    """
    if len(after) != len(before):
        raise ValueError(f"paired values: {len(after)} and {len(before)} are not pairs")
    if len(after) and all(isinstance(value, bool) for value in (*after, *before)):
        return _estimate_paired_proportions(after, before)
    return estimate_mean(np.asarray(after, float) - np.asarray(before, float))


def _estimate_paired_proportions(after: Sequence[float], before: Sequence[float]) -> Estimate:
    """Difference of two paired shares with Bonett & Price's adjusted Wald interval (2012, J. Educ. Behav. Stat. 37).

    A pair that was won and one that was lost are added, so that it has a width even where no pair differs, and holds
    for few pairs, where a bootstrap's is too narrow.
    """
    n = len(after)
    gained = sum(a and not b for a, b in zip(after, before, strict=True))
    lost = sum(b and not a for a, b in zip(after, before, strict=True))
    up, down = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    half_width = norm.ppf((1 + CONFIDENCE) / 2) * np.sqrt((up + down - (up - down) ** 2) / (n + 2))
    return Estimate(
        (gained - lost) / n, n, max(-1.0, float(up - down - half_width)), min(1.0, float(up - down + half_width))
    )
