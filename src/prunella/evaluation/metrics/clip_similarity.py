"""Likeness to the teacher: cosine of the CLIP embeddings of its picture and ours, from the same prompt and noise."""

from prunella.evaluation.backbones import clip
from prunella.evaluation.metrics.base import PerPicture, Subject
from prunella.evaluation.similarity import similarity

NEEDS = ("clip",)  # of benchmark.backbones


def build(subject: Subject) -> PerPicture:
    return similarity(subject, "clip", clip(subject).images)
