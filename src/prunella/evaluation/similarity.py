"""How alike a model's picture and the teacher's are, from the same prompt and noise."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from prunella.evaluation.metrics.base import Images, PerPicture, Subject
from prunella.evaluation.preprocess import as_measured
from prunella.sampling.gallery import Gallery

Embed = Callable[[Images], Tensor]  # pictures → unit embeddings, ND


class Similarity(PerPicture):
    """Cosines of pictures' embeddings with `theirs` (ND), which are in the same order."""

    def __init__(self, embed: Embed, theirs: Tensor):
        super().__init__(self._cosines)
        self.embed, self.theirs = embed, theirs

    def _cosines(self, images: Images, prompts: Sequence[str]) -> list[float]:
        at = len(self.each)
        return (self.embed(images) * self.theirs[at : at + len(images)]).sum(1).tolist()


def similarity(subject: Subject, name: str, embed: Embed) -> Similarity:
    """`name` is the backbone's; the teacher's pictures go through it once for all models."""

    def theirs() -> Tensor:
        batches = Gallery(subject.taught).batches(subject.batch_size)
        return torch.cat([embed(as_measured(images, subject.resize, subject.jpeg)) for _, images in batches])

    return Similarity(embed, subject.common(f"{name} of the teacher's pictures", theirs))


def taught(subject: Subject) -> Iterator[np.ndarray]:
    """The teacher's pictures (HWC uint8) as they are measured, one at a time, in the order of every model's."""
    for _, image in Gallery(subject.taught):
        yield from as_measured([image], subject.resize, subject.jpeg)
