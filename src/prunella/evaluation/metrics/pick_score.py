"""PickScore: a CLIP trained on people's choices (Kirstain et al. 2023, arXiv 2305.01569): its scaled cosine."""

from collections.abc import Sequence

from prunella.evaluation.backbones import clip
from prunella.evaluation.metrics.base import Images, PerPicture, Subject

NEEDS = ("preference",)  # of benchmark.backbones


def build(subject: Subject) -> PerPicture:
    model = clip(subject, "preference")

    def scores(images: Images, prompts: Sequence[str]) -> list[float]:
        return (model.scale * (model.images(images) * model.texts(prompts)).sum(1)).tolist()

    return PerPicture(scores)
