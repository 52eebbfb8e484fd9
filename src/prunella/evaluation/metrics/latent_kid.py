"""Kernel distance (KID) of drawn from real pictures in the teacher's latents: unbiased at any number of pictures.

Bińkowski et al. 2018 (arXiv 1801.01401) with the features of `prunella.evaluation.latent_features` in place of
Inception's, so values compare only within one teacher's VAE. The real pictures are the held-out ones whose captions are
not drawn.
"""

from functools import partial

from prunella.evaluation.latent_features import latent_features
from prunella.evaluation.metrics.base import Subject
from prunella.evaluation.mmd import FEWEST, cubic, discrepancy
from prunella.evaluation.set_distance import SetMetric, enough


def build(subject: Subject) -> SetMetric:
    space = latent_features(subject)
    enough(space, len(subject.prompts), FEWEST, "encode.heldout above benchmark.prompts")
    return SetMetric(space, partial(discrepancy, kernel=cubic), FEWEST)
