"""Distances of two sets of pictures by their features: drawn ones from real ones.

Letters: N drawn pictures, M real ones, F features.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from scipy.stats import t as student_t

from prunella.evaluation.metrics.base import Images, SetMetricDefaults, Unavailable
from prunella.stats import CONFIDENCE, Estimate


class Distance(NamedTuple):
    """A distance, and what each picture adds to it: jackknife pseudo-values, whose mean is the distance."""

    value: float
    generated_values: np.ndarray  # N
    real_values: np.ndarray  # M

    def estimate(self) -> Estimate:
        """With the interval by Student's t from the pseudo-values of both sets, which chance has drawn alike."""
        variance = sum(each.var(ddof=1) / len(each) for each in (self.generated_values, self.real_values))
        half_width = float(
            student_t.ppf((1 + CONFIDENCE) / 2, min(len(self.generated_values), len(self.real_values)) - 1)
            * np.sqrt(variance)
        )
        return Estimate(self.value, len(self.generated_values), self.value - half_width, self.value + half_width)


class FeatureSpace(Protocol):
    """The features in which pictures are compared."""

    real: np.ndarray  # MF, of the pictures that drawn ones are compared with
    real_of_prompts: np.ndarray  # KF, of the real pictures whose captions are drawn; (0, F) where there are none

    def __call__(self, images: Images) -> np.ndarray:
        """NF features of pictures (HWC uint8) of one size."""


class SetMetric(SetMetricDefaults):
    """Gathers the features of drawn pictures, batch by batch; `distance` is of NF and MF features."""

    def __init__(self, space: FeatureSpace, distance: Callable[[np.ndarray, np.ndarray], Distance], min_images: int):
        self.space, self.distance, self.min_images = space, distance, min_images
        self.feature_batches: list[np.ndarray] = []
        self.result: Distance | None = None

    def update(self, images: Images, prompts: Sequence[str]) -> None:
        self.feature_batches.append(self.space(images))

    def compute(self) -> Estimate:
        features = np.concatenate(self.feature_batches)
        if (set_size := min(len(features), len(self.space.real))) < self.min_images:
            raise Unavailable(
                f"{len(features)} drawn and {len(self.space.real)} real pictures; {self.min_images} of each are "
                "needed, "
                f"and with {set_size} the value would say more about their number"
            )
        self.result = self.distance(features, self.space.real)
        return self.result.estimate()

    def values(self) -> dict[str, Sequence[float | bool | None]]:
        assert self.result is not None  # `compute` comes first
        return {"": self.result.generated_values.tolist(), "_real": self.result.real_values.tolist()}

    def real_data_floor(self) -> Estimate | None:
        """The distance of the real pictures under the drawn captions: what chance alone gives."""
        if min(len(self.space.real_of_prompts), len(self.space.real)) < self.min_images:
            return None
        return self.distance(self.space.real_of_prompts, self.space.real).estimate()


def check_set_sizes(space: FeatureSpace, num_generated: int, min_images: int, hint: str) -> None:
    """Raises Unavailable, before anything is computed, where a set is too small."""
    if min(num_generated, len(space.real)) < min_images:
        raise Unavailable(
            f"{num_generated} drawn and {len(space.real)} real pictures; {min_images} of each are needed: {hint}"
        )
