"""Times of calls that are taken in turns, so that all see the same machine, and their ratios."""

import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.stats import quantile_test

from prunella.profiling.energy import EnergyMeter
from prunella.stats import CONFIDENCE, Estimate

MIN_ROUNDS_P95 = 20  # rounds, below which the 95th percentile is the largest of them
MIN_ROUNDS_CI = 6  # rounds, below which no interval of a median holds 95 %
Calls = dict[str, Callable[[], object]]


class InterleavedTimer:
    """Milliseconds of each call, round by round, and joules a call where the device tells them.

    The calls have run before: nothing is warmed up here.
    """

    def __init__(self, calls: Calls, rounds: int, energy: EnergyMeter | None = None):
        self.ms: dict[str, list[float]] = {name: [] for name in calls}
        self.joules: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(rounds):
            for name, call in calls.items():
                self._time_once(name, call, energy)

    def _time_once(self, name: str, call: Callable[[], object], energy: EnergyMeter | None) -> None:
        synchronize_gpu()
        joules_before, start = energy.joules() if energy else 0.0, time.perf_counter()
        call()
        synchronize_gpu()
        self.ms[name].append(1000 * (time.perf_counter() - start))
        if energy:
            self.joules[name].append(energy.joules() - joules_before)

    def latency(self, name: str, prefix: str = "latency") -> dict[str, float]:
        """Median, 95th percentile (below 20 rounds the largest) and largest time in ms, under "{what}_ms_p50", …"""
        times_ms = self.ms[name]
        p95 = max(times_ms) if len(times_ms) < MIN_ROUNDS_P95 else statistics.quantiles(times_ms, n=20)[-1]
        statistics_ms = {"p50": statistics.median(times_ms), "p95": p95, "max": max(times_ms)}
        return {
            f"{prefix}_ms_{statistic}": round(value, 1 if value >= 10 else 3)
            for statistic, value in statistics_ms.items()
        }

    def speedup(self, name: str, reference: str) -> dict[str, float]:
        """How many times as fast as `reference`.

        The median of the rounds' ratios with its interval, as reports have it.
        """
        return estimate_median(
            [slow / fast for slow, fast in zip(self.ms[reference], self.ms[name], strict=True)]
        ).to_report_dict()

    def energy(self, name: str) -> float | None:
        """Median joules a call; None where the device does not tell."""
        return round(statistics.median(self.joules[name]), 3) if self.joules[name] else None


def estimate_median(values: Sequence[float]) -> Estimate:
    """The median with the interval of its order statistics (Conover 1999, 3.2): no distribution is assumed.

    Below six values none holds 95 %: the interval is then their range, from the smallest to the largest.
    """
    array = np.asarray(values, float)
    low, high = float(array.min()), float(array.max())
    if len(array) >= MIN_ROUNDS_CI:
        interval = quantile_test(array, q=float(np.median(array)), p=0.5).confidence_interval(CONFIDENCE)
        low, high = float(interval.low), float(interval.high)
    return Estimate(float(np.median(array)), len(array), low, high)


def synchronize_gpu() -> None:
    """Wait for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
