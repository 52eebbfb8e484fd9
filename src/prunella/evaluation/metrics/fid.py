"""FID: the Fréchet distance of drawn from real pictures in Inception's features (Heusel et al. 2017, arXiv 1706.08500).

Biased upwards where pictures are few, so it is refused below ten a feature, 20,480 of either set; `kid` and `cmmd` do
with fewer.
"""

from prunella.evaluation.backbones import inception
from prunella.evaluation.frechet import A_FEATURE, frechet
from prunella.evaluation.metrics.base import Subject
from prunella.evaluation.reference_images import picture_space
from prunella.evaluation.set_distance import SetMetric, enough

NEEDS = ("inception",)  # of benchmark.backbones


def build(subject: Subject) -> SetMetric:
    space = picture_space(subject, "inception", inception(subject).features)
    fewest = A_FEATURE * space.real.shape[1]
    enough(space, len(subject.prompts), fewest, f"{A_FEATURE} a feature (benchmark.prompts, benchmark.real)")
    return SetMetric(space, frechet, fewest)
