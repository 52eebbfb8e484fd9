"""CMMD: the distance of drawn from real pictures in CLIP's embeddings (Jayasumana et al. 2024, arXiv 2401.09603).

The squared maximum mean discrepancy with a Gaussian kernel of σ = 10, times 1000, unbiased. It tells models apart with
a few thousand pictures, of which FID needs tens of thousands. The paper's CLIP is ViT-L/14 at 336 pixels
(openai/clip-vit-large-patch14-336); values compare only within one CLIP.
"""

from functools import partial

import numpy as np

from prunella.evaluation.backbones import clip
from prunella.evaluation.metrics.base import Images, Subject
from prunella.evaluation.mmd import FEWEST, discrepancy, gaussian
from prunella.evaluation.reference_images import picture_space
from prunella.evaluation.set_distance import SetMetric, enough

NEEDS = ("clip",)  # of benchmark.backbones

SIGMA, SCALE = 10.0, 1000.0


def build(subject: Subject) -> SetMetric:
    model = clip(subject)

    def embeddings(images: Images) -> np.ndarray:
        return model.images(images).float().numpy()

    space = picture_space(subject, "clip", embeddings)
    enough(space, len(subject.prompts), FEWEST, "benchmark.prompts, benchmark.real")
    return SetMetric(space, partial(discrepancy, kernel=gaussian(SIGMA, SCALE)), FEWEST)
