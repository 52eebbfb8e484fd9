"""Recall: the share of real pictures within the manifold of drawn ones, in Inception's features.

Kynkäänniemi et al. 2019, arXiv 1904.06991; a low one says that kinds of pictures are lacking. Their features are
VGG-16's, so values compare only within one network, and at equal numbers of drawn and of real pictures.
"""

from prunella.evaluation import precision_recall
from prunella.evaluation.backbones import inception
from prunella.evaluation.metrics.base import Subject
from prunella.evaluation.reference_images import picture_space
from prunella.evaluation.set_distance import SetMetric, enough

NEEDS = ("inception",)  # of benchmark.backbones


def build(subject: Subject) -> SetMetric:
    space = picture_space(subject, "inception", inception(subject).features)
    enough(space, len(subject.prompts), precision_recall.FEWEST, "benchmark.prompts, benchmark.real")
    return SetMetric(space, precision_recall.recall, precision_recall.FEWEST)
