"""Random generators seeded by tuples of numbers, so that chance depends on what it is for and on nothing before it."""

import hashlib

import torch

TRAINING, HELDOUT, DRAWING, STEP, CAPTION, MIRROR = range(6)  # what chance is for


def generator(*numbers: int) -> torch.Generator:
    """A CPU generator that every tuple of numbers seeds differently. By custom the first says what it is for."""
    digest = hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest) >> 1)
