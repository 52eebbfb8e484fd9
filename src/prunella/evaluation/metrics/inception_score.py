"""Inception score: exp of the mean divergence of a picture's class probabilities from those of all pictures.

Salimans et al. 2016, arXiv 1606.03498. Biased downwards where pictures are few, so it is refused below 5,000. Ten
parts are averaged, as published figures are; which picture is in which part is a seeded choice.
"""

from collections.abc import Sequence

import numpy as np
from scipy.special import rel_entr
from scipy.stats import t

from prunella.evaluation.backbones import InceptionModel, load_inception
from prunella.evaluation.metrics.base import Images, MetricContext, SetMetricDefaults, Unavailable
from prunella.stats import CONFIDENCE, Estimate

NEEDS = ("inception",)  # of benchmark.backbones

NUM_SPLITS = 10
MIN_IMAGES = 5000


class InceptionScore(SetMetricDefaults):
    """Keeps each picture's probabilities."""

    def __init__(self, model: InceptionModel):
        self.model = model
        self.probability_batches: list[np.ndarray] = []

    def update(self, images: Images, prompts: Sequence[str]) -> None:
        self.probability_batches.append(self.model.class_probabilities(images))

    def compute(self) -> Estimate:
        return estimate_inception_score(np.concatenate(self.probability_batches))


def build(context: MetricContext) -> InceptionScore:
    model = load_inception(context)
    if (num_images := len(context.prompts)) < MIN_IMAGES:
        raise Unavailable(
            f"{num_images} pictures; {MIN_IMAGES} are needed (benchmark.prompts): with fewer it is biased downwards"
        )
    return InceptionScore(model)


def estimate_inception_score(probabilities: np.ndarray) -> Estimate:
    """For NK probabilities; the interval is Student's of the ten parts' mean."""
    probabilities = np.random.default_rng(0).permutation(probabilities.astype(np.float64))
    split_scores = [
        float(np.exp(rel_entr(split, split.mean(0)).sum(1).mean()))
        for split in np.array_split(probabilities, NUM_SPLITS)
    ]
    score, half_width = (
        np.mean(split_scores),
        t.ppf((1 + CONFIDENCE) / 2, NUM_SPLITS - 1) * np.std(split_scores, ddof=1) / NUM_SPLITS**0.5,
    )
    return Estimate(float(score), len(probabilities), float(score - half_width), float(score + half_width))
