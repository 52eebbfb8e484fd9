"""Fréchet distance of drawn from real pictures in the teacher's latents, for large numbers of pictures.

It is biased upwards where pictures are few: 64 real pictures against 64 others give 4.3 ± 0.7 on the default data,
1,000 against 1,000 give 0.29. Therefore it is refused below ten pictures a feature; `latent_kid` has no such bias.
"""

from prunella.evaluation.frechet import IMAGES_PER_FEATURE, measure_frechet
from prunella.evaluation.latent_features import get_latent_features
from prunella.evaluation.metrics.base import MetricContext
from prunella.evaluation.set_distance import SetMetric, check_set_sizes


def build(context: MetricContext) -> SetMetric:
    space = get_latent_features(context)
    min_images = IMAGES_PER_FEATURE * max(space.real_of_prompts.shape[1], space.real.shape[1], 1)
    check_set_sizes(
        space,
        len(context.prompts),
        min_images,
        f"{IMAGES_PER_FEATURE} a feature (benchmark.prompts, encode.heldout); latent_kid does with fewer",
    )
    return SetMetric(space, measure_frechet, min_images)
