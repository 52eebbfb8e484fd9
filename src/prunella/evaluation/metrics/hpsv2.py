"""HPSv2: a CLIP trained on people's choices (Wu et al. 2023, arXiv 2306.09341): its cosine, not times 100.

Pictures that are not square are padded with black, as the original does it. Versions 2.0 and 2.1 of its weights give
other values.
"""

from collections.abc import Sequence

import numpy as np

from prunella.evaluation.backbones import clip
from prunella.evaluation.metrics.base import Images, PerPicture, Subject

NEEDS = ("hpsv2",)  # of benchmark.backbones


def build(subject: Subject) -> PerPicture:
    model = clip(subject, "hpsv2")

    def scores(images: Images, prompts: Sequence[str]) -> list[float]:
        return (model.images([_square(image) for image in images]) * model.texts(prompts)).sum(1).tolist()

    return PerPicture(scores)


def _square(image: np.ndarray) -> np.ndarray:
    """HWC with black around its shorter side, in its middle."""
    lacking = [max(image.shape[:2]) - side for side in image.shape[:2]]
    return np.pad(image, [*((each // 2, each - each // 2) for each in lacking), (0, 0)])
