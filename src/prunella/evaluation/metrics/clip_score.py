"""CLIP score: the cosine of a picture's and its prompt's embedding (Hessel et al. 2021, arXiv 2104.08718).

Neither clipped at 0 nor times 100 or 2.5: BK-SDM and others report the mean cosine. It compares only within one CLIP.
"""

from collections.abc import Sequence

from prunella.evaluation.backbones import clip
from prunella.evaluation.metrics.base import Images, PerPicture, Subject

NEEDS = ("clip",)  # of benchmark.backbones


def build(subject: Subject) -> PerPicture:
    model = clip(subject)

    def cosines(images: Images, prompts: Sequence[str]) -> list[float]:
        return (model.images(images) * model.texts(prompts)).sum(1).tolist()

    return PerPicture(cosines)
