"""LPIPS: the perceptual distance from the teacher's picture of the same prompt and noise (arXiv 1801.03924).

Zhang et al. 2018, version 0.1 on VGG-16; pictures are not resized for it. The teacher's are read again beside those of
each model: features of whole pictures are too large to be kept.
"""

from collections.abc import Sequence
from itertools import islice

from prunella.evaluation.backbones import load_vgg
from prunella.evaluation.metrics.base import Images, MetricContext, PerImageMetric
from prunella.evaluation.similarity import iter_teacher_images

NEEDS = ("vgg",)  # of benchmark.backbones


def build(context: MetricContext) -> PerImageMetric:
    model, teacher_images = load_vgg(context), iter_teacher_images(context)

    def measure_batch(images: Images, prompts: Sequence[str]) -> list[float]:
        return [model.measure_lpips(*pair) for pair in zip(images, islice(teacher_images, len(images)), strict=True)]

    return PerImageMetric(measure_batch)
