"""KID: the kernel distance of drawn from real pictures in Inception's features.

Bińkowski et al. 2018, arXiv 1801.01401. Unbiased at any number of pictures, unlike FID. Of all pictures at once: no
subsets are drawn by chance.
"""

from functools import partial

from prunella.evaluation.backbones import inception
from prunella.evaluation.metrics.base import Subject
from prunella.evaluation.mmd import FEWEST, cubic, discrepancy
from prunella.evaluation.reference_images import picture_space
from prunella.evaluation.set_distance import SetMetric, enough

NEEDS = ("inception",)  # of benchmark.backbones


def build(subject: Subject) -> SetMetric:
    space = picture_space(subject, "inception", inception(subject).features)
    enough(space, len(subject.prompts), FEWEST, "benchmark.prompts, benchmark.real")
    return SetMetric(space, partial(discrepancy, kernel=cubic), FEWEST)
