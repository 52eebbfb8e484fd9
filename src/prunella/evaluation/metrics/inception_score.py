"""Inception score: exp of the mean divergence of a picture's class probabilities from those of all pictures.

Salimans et al. 2016, arXiv 1606.03498. Biased downwards where pictures are few, so it is refused below 5,000. Of ten
parts, whose values are averaged, as published figures are; which picture is in which part is a seeded choice.
"""

from collections.abc import Sequence

import numpy as np
from scipy.special import rel_entr
from scipy.stats import t

from prunella.evaluation.backbones import Inception, inception
from prunella.evaluation.metrics.base import Images, OfAll, Subject, Unavailable
from prunella.stats import CONFIDENCE, Estimate

NEEDS = ("inception",)  # of benchmark.backbones

PARTS = 10
FEWEST = 5000


class InceptionScore(OfAll):
    """Keeps each picture's probabilities."""

    def __init__(self, model: Inception):
        self.model = model
        self.rows: list[np.ndarray] = []

    def update(self, images: Images, prompts: Sequence[str]) -> None:
        self.rows.append(self.model.shares(images))

    def compute(self) -> Estimate:
        return inception_score(np.concatenate(self.rows))


def build(subject: Subject) -> InceptionScore:
    model = inception(subject)
    if (few := len(subject.prompts)) < FEWEST:
        raise Unavailable(f"{few} pictures; {FEWEST} are needed (benchmark.prompts): with fewer it is biased downwards")
    return InceptionScore(model)


def inception_score(shares: np.ndarray) -> Estimate:
    """Of NK probabilities; the interval is Student's of the ten parts' mean."""
    shares = np.random.default_rng(0).permutation(shares.astype(np.float64))
    values = [float(np.exp(rel_entr(part, part.mean(0)).sum(1).mean())) for part in np.array_split(shares, PARTS)]
    value, half = np.mean(values), t.ppf((1 + CONFIDENCE) / 2, PARTS - 1) * np.std(values, ddof=1) / PARTS**0.5
    return Estimate(float(value), len(shares), float(value - half), float(value + half))
