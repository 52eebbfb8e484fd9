"""Kernel distance (KID) of drawn from real pictures in the teacher's latents: unbiased at any number of pictures.

Bińkowski et al. 2018 (arXiv 1801.01401) with the features of `prunella.evaluation.latent_features` in place of
Inception's, so values compare only within one teacher's VAE. The real pictures are the held-out ones whose captions are
not drawn.
"""

from functools import partial

from prunella.evaluation.latent_features import get_latent_features
from prunella.evaluation.metrics.base import MetricContext
from prunella.evaluation.mmd import MIN_IMAGES, evaluate_cubic_kernel, measure_mmd
from prunella.evaluation.set_distance import SetMetric, check_set_sizes


def build(context: MetricContext) -> SetMetric:
    space = get_latent_features(context)
    check_set_sizes(space, len(context.prompts), MIN_IMAGES, "encode.heldout above benchmark.prompts")
    return SetMetric(space, partial(measure_mmd, kernel=evaluate_cubic_kernel), MIN_IMAGES)
