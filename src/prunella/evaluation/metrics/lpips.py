"""LPIPS: the perceptual distance from the teacher's picture of the same prompt and noise (arXiv 1801.03924).

Zhang et al. 2018, version 0.1 on VGG-16; pictures are not resized for it. The teacher's are read again beside those of
each model: features of whole pictures are too large to be kept.
"""

from collections.abc import Sequence
from itertools import islice

from prunella.evaluation.backbones import vgg
from prunella.evaluation.metrics.base import Images, PerPicture, Subject
from prunella.evaluation.similarity import taught

NEEDS = ("vgg",)  # of benchmark.backbones


def build(subject: Subject) -> PerPicture:
    model, theirs = vgg(subject), taught(subject)

    def distances(images: Images, prompts: Sequence[str]) -> list[float]:
        return [model.lpips(*both) for both in zip(images, islice(theirs, len(images)), strict=True)]

    return PerPicture(distances)
