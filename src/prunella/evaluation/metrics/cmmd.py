"""CMMD: the distance of drawn from real pictures in CLIP's embeddings (Jayasumana et al. 2024, arXiv 2401.09603).

The squared maximum mean discrepancy with a Gaussian kernel of σ = 10, times 1000, unbiased. It tells models apart with
a few thousand pictures, of which FID needs tens of thousands. The paper's CLIP is ViT-L/14 at 336 pixels
(openai/clip-vit-large-patch14-336); values compare only within one CLIP.
"""

from functools import partial

import numpy as np

from prunella.evaluation.backbones import load_clip_backbone
from prunella.evaluation.metrics.base import Images, MetricContext
from prunella.evaluation.mmd import MIN_IMAGES, make_gaussian_kernel, measure_mmd
from prunella.evaluation.reference_images import get_image_feature_space
from prunella.evaluation.set_distance import SetMetric, check_set_sizes

NEEDS = ("clip",)  # of benchmark.backbones

SIGMA, SCALE = 10.0, 1000.0


def build(context: MetricContext) -> SetMetric:
    model = load_clip_backbone(context)

    def embed_images(images: Images) -> np.ndarray:
        return model.embed_images(images).float().numpy()

    space = get_image_feature_space(context, "clip", embed_images)
    check_set_sizes(space, len(context.prompts), MIN_IMAGES, "benchmark.prompts, benchmark.reference_images")
    return SetMetric(space, partial(measure_mmd, kernel=make_gaussian_kernel(SIGMA, SCALE)), MIN_IMAGES)
