"""CLIP score: the cosine of a picture's and its prompt's embedding (Hessel et al. 2021, arXiv 2104.08718).

Neither clipped at 0 nor times 100 or 2.5: BK-SDM and others report the mean cosine. It compares only within one CLIP.
"""

from collections.abc import Sequence

from prunella.evaluation.backbones import load_clip_backbone
from prunella.evaluation.metrics.base import Images, MetricContext, PerImageMetric

NEEDS = ("clip",)  # of benchmark.backbones


def build(context: MetricContext) -> PerImageMetric:
    model = load_clip_backbone(context)

    def score_batch(images: Images, prompts: Sequence[str]) -> list[float]:
        return (model.embed_images(images) * model.embed_texts(prompts)).sum(1).tolist()

    return PerImageMetric(score_batch)
