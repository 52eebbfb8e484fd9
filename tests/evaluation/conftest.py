import numpy as np
import pytest

from prunella.evaluation.metrics.base import Subject
from prunella.latents.shards import Latents


@pytest.fixture
def make_subject(latents, teacher):
    """A function from a number of held-out pairs that are drawn, of seven, to what they are measured against."""

    def made(drawn: int, batch_size: int = 2) -> Subject:
        source = {"source": "folder", "path": "pictures"}
        return Subject(teacher, Latents(latents, "heldout"), np.arange(drawn), source, "cpu", batch_size)

    return made


@pytest.fixture
def subject(make_subject) -> Subject:
    return make_subject(3)
