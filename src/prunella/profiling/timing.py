"""Times of calls that are taken in turns, so that all see the same machine, and their ratios."""

import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.stats import quantile_test

from prunella.profiling.energy import EnergyMeter
from prunella.stats import CONFIDENCE, Estimate

ENOUGH = 20  # rounds, below which the 95th percentile is the largest of them
FEWEST = 6  # rounds, below which no interval of a median holds 95 %
Calls = dict[str, Callable[[], object]]


class Turns:
    """Milliseconds of each call, round by round, and joules a call where the device tells them.

    The calls have run before: nothing is warmed up here.
    """

    def __init__(self, calls: Calls, rounds: int, energy: EnergyMeter | None = None):
        self.ms: dict[str, list[float]] = {name: [] for name in calls}
        self.joules: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(rounds):
            for name, call in calls.items():
                self._take(name, call, energy)

    def _take(self, name: str, call: Callable[[], object], energy: EnergyMeter | None) -> None:
        synchronize()
        before, began = energy.joules() if energy else 0.0, time.perf_counter()
        call()
        synchronize()
        self.ms[name].append(1000 * (time.perf_counter() - began))
        if energy:
            self.joules[name].append(energy.joules() - before)

    def latency(self, name: str, what: str = "latency") -> dict[str, float]:
        """Median, 95th percentile (below 20 rounds the largest) and largest time in ms, under "{what}_ms_p50", …"""
        taken = self.ms[name]
        p95 = max(taken) if len(taken) < ENOUGH else statistics.quantiles(taken, n=20)[-1]
        found = {"p50": statistics.median(taken), "p95": p95, "max": max(taken)}
        return {f"{what}_ms_{part}": round(value, 1 if value >= 10 else 3) for part, value in found.items()}

    def speedup(self, name: str, over: str) -> dict[str, float]:
        """How many times as fast as `over`: the median of the rounds' ratios with its interval, as reports have it."""
        return median([slow / fast for slow, fast in zip(self.ms[over], self.ms[name], strict=True)]).rounded()

    def energy(self, name: str) -> float | None:
        """Median joules a call; None where the device does not tell."""
        return round(statistics.median(self.joules[name]), 3) if self.joules[name] else None


def median(values: Sequence[float]) -> Estimate:
    """The median with the interval of its order statistics (Conover 1999, 3.2): no distribution is assumed.

    Below six values none holds 95 %: the interval is then their range, from the smallest to the largest.
    """
    found = np.asarray(values, float)
    low, high = float(found.min()), float(found.max())
    if len(found) >= FEWEST:
        interval = quantile_test(found, q=float(np.median(found)), p=0.5).confidence_interval(CONFIDENCE)
        low, high = float(interval.low), float(interval.high)
    return Estimate(float(np.median(found)), len(found), low, high)


def synchronize() -> None:
    """Wait for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
