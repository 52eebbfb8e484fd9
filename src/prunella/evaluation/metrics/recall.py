"""Recall: the share of real pictures within the manifold of drawn ones, in Inception's features.

Kynkäänniemi et al. 2019, arXiv 1904.06991; a low one says that kinds of pictures are lacking. Their features are
VGG-16's, so values compare only within one network, and at equal numbers of drawn and of real pictures.
"""

from prunella.evaluation import precision_recall
from prunella.evaluation.backbones import load_inception
from prunella.evaluation.metrics.base import MetricContext
from prunella.evaluation.reference_images import get_image_feature_space
from prunella.evaluation.set_distance import SetMetric, check_set_sizes

NEEDS = ("inception",)  # of benchmark.backbones


def build(context: MetricContext) -> SetMetric:
    space = get_image_feature_space(context, "inception", load_inception(context).extract_features)
    check_set_sizes(
        space, len(context.prompts), precision_recall.MIN_IMAGES, "benchmark.prompts, benchmark.reference_images"
    )
    return SetMetric(space, precision_recall.measure_recall, precision_recall.MIN_IMAGES)
