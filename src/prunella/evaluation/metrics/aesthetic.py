"""LAION's aesthetic score, about 1 to 10, by a linear head on the CLIP that it was trained on."""

from collections.abc import Sequence

from PIL import Image

from prunella.data.aesthetic import AestheticScorer
from prunella.errors import UserError
from prunella.evaluation.backbones import find_backbone
from prunella.evaluation.metrics.base import Images, MetricContext, PerImageMetric, Unavailable

NEEDS = ("aesthetic", "clip")  # of benchmark.backbones


def build(context: MetricContext) -> PerImageMetric:
    backbones = context.backbones

    def load_scorer() -> AestheticScorer:
        try:
            return AestheticScorer(
                find_backbone(backbones, "aesthetic"), find_backbone(backbones, "clip"), context.device
            )
        except UserError as error:
            raise Unavailable(str(error)) from None

    model = context.get_shared("aesthetic", load_scorer)

    def score_batch(images: Images, prompts: Sequence[str]) -> list[float]:
        return model([Image.fromarray(image) for image in images])

    return PerImageMetric(score_batch)
