"""Distances of two sets of pictures by their features: drawn ones from real ones.

Letters: N drawn pictures, M real ones, F features.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from scipy.stats import t as student_t

from prunella.evaluation.metrics.base import Images, OfAll, Unavailable
from prunella.stats import CONFIDENCE, Estimate


class Distance(NamedTuple):
    """A distance, and what each picture adds to it: jackknife pseudo-values, whose mean is the distance."""

    value: float
    drawn: np.ndarray  # N
    real: np.ndarray  # M

    def estimate(self) -> Estimate:
        """With the interval by Student's t from the pseudo-values of both sets, which chance has drawn alike."""
        variance = sum(each.var(ddof=1) / len(each) for each in (self.drawn, self.real))
        half = float(student_t.ppf((1 + CONFIDENCE) / 2, min(len(self.drawn), len(self.real)) - 1) * np.sqrt(variance))
        return Estimate(self.value, len(self.drawn), self.value - half, self.value + half)


class Space(Protocol):
    """Where pictures are compared."""

    real: np.ndarray  # MF, of the pictures that drawn ones are compared with
    asked: np.ndarray  # KF, of the real pictures whose captions are drawn; (0, F) where there are none

    def __call__(self, images: Images) -> np.ndarray:
        """NF features of pictures (HWC uint8) of one size."""


class SetMetric(OfAll):
    """Gathers the features of drawn pictures, batch by batch; `distance` is of NF and MF features."""

    def __init__(self, space: Space, distance: Callable[[np.ndarray, np.ndarray], Distance], fewest: int):
        self.space, self.distance, self.fewest = space, distance, fewest
        self.rows: list[np.ndarray] = []
        self.found: Distance | None = None

    def update(self, images: Images, prompts: Sequence[str]) -> None:
        self.rows.append(self.space(images))

    def compute(self) -> Estimate:
        drawn = np.concatenate(self.rows)
        if (few := min(len(drawn), len(self.space.real))) < self.fewest:
            raise Unavailable(
                f"{len(drawn)} drawn and {len(self.space.real)} real pictures; {self.fewest} of each are needed, "
                f"and with {few} the value would say more about their number"
            )
        self.found = self.distance(drawn, self.space.real)
        return self.found.estimate()

    def values(self) -> dict[str, Sequence[float | bool | None]]:
        assert self.found is not None  # `compute` comes first
        return {"": self.found.drawn.tolist(), "_real": self.found.real.tolist()}

    def floor(self) -> Estimate | None:
        """The distance of the real pictures under the drawn captions: what chance alone gives."""
        if min(len(self.space.asked), len(self.space.real)) < self.fewest:
            return None
        return self.distance(self.space.asked, self.space.real).estimate()


def enough(space: Space, drawn: int, fewest: int, hint: str) -> None:
    """Raises Unavailable, before anything is computed, where a set is too small."""
    if min(drawn, len(space.real)) < fewest:
        raise Unavailable(f"{drawn} drawn and {len(space.real)} real pictures; {fewest} of each are needed: {hint}")
