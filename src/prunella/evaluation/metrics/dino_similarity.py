"""Likeness to the teacher: cosine of the DINO embeddings of its picture and ours, from the same prompt and noise."""

from prunella.evaluation.backbones import dino
from prunella.evaluation.metrics.base import PerPicture, Subject
from prunella.evaluation.similarity import similarity

NEEDS = ("dino",)  # of benchmark.backbones


def build(subject: Subject) -> PerPicture:
    return similarity(subject, "dino", dino(subject).images)
