"""HPSv2: a CLIP trained on people's choices (Wu et al. 2023, arXiv 2306.09341): its cosine, not times 100.

Pictures that are not square are padded with black, as the original does it. Versions 2.0 and 2.1 of its weights give
other values.
"""

from collections.abc import Sequence

import numpy as np

from prunella.evaluation.backbones import load_clip_backbone
from prunella.evaluation.metrics.base import Images, MetricContext, PerImageMetric

NEEDS = ("hpsv2",)  # of benchmark.backbones


def build(context: MetricContext) -> PerImageMetric:
    model = load_clip_backbone(context, "hpsv2")

    def score_batch(images: Images, prompts: Sequence[str]) -> list[float]:
        return (
            (model.embed_images([_pad_to_square(image) for image in images]) * model.embed_texts(prompts))
            .sum(1)
            .tolist()
        )

    return PerImageMetric(score_batch)


def _pad_to_square(image: np.ndarray) -> np.ndarray:
    """HWC with black around its shorter side, in its middle."""
    padding = [max(image.shape[:2]) - side for side in image.shape[:2]]
    return np.pad(image, [*((each // 2, each - each // 2) for each in padding), (0, 0)])
