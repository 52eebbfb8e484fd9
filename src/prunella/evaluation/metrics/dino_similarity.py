"""Likeness to the teacher: cosine of the DINO embeddings of its picture and ours, from the same prompt and noise."""

from prunella.evaluation.backbones import load_dino
from prunella.evaluation.metrics.base import MetricContext, PerImageMetric
from prunella.evaluation.similarity import make_similarity_metric

NEEDS = ("dino",)  # of benchmark.backbones


def build(context: MetricContext) -> PerImageMetric:
    return make_similarity_metric(context, "dino", load_dino(context).embed_images)
