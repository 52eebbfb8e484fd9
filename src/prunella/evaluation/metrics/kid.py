"""KID: the kernel distance of drawn from real pictures in Inception's features.

Bińkowski et al. 2018, arXiv 1801.01401. Unbiased at any number of pictures, unlike FID. For all pictures at once: no
subsets are drawn by chance.
"""

from functools import partial

from prunella.evaluation.backbones import load_inception
from prunella.evaluation.metrics.base import MetricContext
from prunella.evaluation.mmd import MIN_IMAGES, evaluate_cubic_kernel, measure_mmd
from prunella.evaluation.reference_images import get_image_feature_space
from prunella.evaluation.set_distance import SetMetric, check_set_sizes

NEEDS = ("inception",)  # of benchmark.backbones


def build(context: MetricContext) -> SetMetric:
    space = get_image_feature_space(context, "inception", load_inception(context).extract_features)
    check_set_sizes(space, len(context.prompts), MIN_IMAGES, "benchmark.prompts, benchmark.reference_images")
    return SetMetric(space, partial(measure_mmd, kernel=evaluate_cubic_kernel), MIN_IMAGES)
