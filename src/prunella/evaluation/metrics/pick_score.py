"""PickScore: a CLIP trained on people's choices (Kirstain et al. 2023, arXiv 2305.01569): its scaled cosine."""

from collections.abc import Sequence

from prunella.evaluation.backbones import load_clip_backbone
from prunella.evaluation.metrics.base import Images, MetricContext, PerImageMetric

NEEDS = ("preference",)  # of benchmark.backbones


def build(context: MetricContext) -> PerImageMetric:
    model = load_clip_backbone(context, "preference")

    def score_batch(images: Images, prompts: Sequence[str]) -> list[float]:
        return (model.logit_scale * (model.embed_images(images) * model.embed_texts(prompts)).sum(1)).tolist()

    return PerImageMetric(score_batch)
