"""Likeness to the teacher: cosine of the CLIP embeddings of its picture and ours, from the same prompt and noise."""

from prunella.evaluation.metrics.base import PerPicture, Subject
from prunella.evaluation.scores.backbones import clip
from prunella.evaluation.scores.similarity import similarity

NEEDS = ("clip",)  # of benchmark.backbones


def build(subject: Subject) -> PerPicture:
    return similarity(subject, "clip", clip(subject).images)
