"""How alike a model's picture and the teacher's are, from the same prompt and noise."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from prunella.evaluation.metrics.base import Images, MetricContext, PerImageMetric
from prunella.evaluation.preprocess import preprocess_images
from prunella.sampling.gallery import ImageShards

EmbedFn = Callable[[Images], Tensor]  # pictures → unit embeddings, ND


class Similarity(PerImageMetric):
    """Cosines of pictures' embeddings with `teacher_embeddings` (ND), which are in the same order."""

    def __init__(self, embed: EmbedFn, teacher_embeddings: Tensor):
        super().__init__(self._measure_cosines)
        self.embed, self.teacher_embeddings = embed, teacher_embeddings

    def _measure_cosines(self, images: Images, prompts: Sequence[str]) -> list[float]:
        offset = len(self.scores)
        return (self.embed(images) * self.teacher_embeddings[offset : offset + len(images)]).sum(1).tolist()


def make_similarity_metric(context: MetricContext, name: str, embed: EmbedFn) -> Similarity:
    """`name` is the backbone's; the teacher's pictures go through it once for all models."""

    def embed_teacher_images() -> Tensor:
        batches = ImageShards(context.teacher_images_dir).iter_batches(context.batch_size)
        return torch.cat([embed(preprocess_images(images, context.resize, context.jpeg)) for _, images in batches])

    return Similarity(embed, context.get_shared(f"{name} of the teacher's pictures", embed_teacher_images))


def iter_teacher_images(context: MetricContext) -> Iterator[np.ndarray]:
    """The teacher's pictures (HWC uint8) as they are measured, one at a time, in the order of every model's."""
    for _, image in ImageShards(context.teacher_images_dir):
        yield from preprocess_images([image], context.resize, context.jpeg)
