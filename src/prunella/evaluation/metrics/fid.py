"""FID: the Fréchet distance of drawn from real pictures in Inception's features (Heusel et al. 2017, arXiv 1706.08500).

Biased upwards where pictures are few, so it is refused below ten a feature, 20,480 of either set; `kid` and `cmmd` do
with fewer.
"""

from prunella.evaluation.backbones import load_inception
from prunella.evaluation.frechet import IMAGES_PER_FEATURE, measure_frechet
from prunella.evaluation.metrics.base import MetricContext
from prunella.evaluation.reference_images import get_image_feature_space
from prunella.evaluation.set_distance import SetMetric, check_set_sizes

NEEDS = ("inception",)  # of benchmark.backbones


def build(context: MetricContext) -> SetMetric:
    space = get_image_feature_space(context, "inception", load_inception(context).extract_features)
    min_images = IMAGES_PER_FEATURE * space.real.shape[1]
    check_set_sizes(
        space,
        len(context.prompts),
        min_images,
        f"{IMAGES_PER_FEATURE} a feature (benchmark.prompts, benchmark.reference_images)",
    )
    return SetMetric(space, measure_frechet, min_images)
