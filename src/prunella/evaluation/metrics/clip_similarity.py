"""Likeness to the teacher: cosine of the CLIP embeddings of its picture and ours, from the same prompt and noise."""

from prunella.evaluation.backbones import load_clip_backbone
from prunella.evaluation.metrics.base import MetricContext, PerImageMetric
from prunella.evaluation.similarity import make_similarity_metric

NEEDS = ("clip",)  # of benchmark.backbones


def build(context: MetricContext) -> PerImageMetric:
    return make_similarity_metric(context, "clip", load_clip_backbone(context).embed_images)
