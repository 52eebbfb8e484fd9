"""Which held-out captions are drawn: a seeded random choice, each in its pair's size."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Prompt(NamedTuple):
    """A picture to draw. Its number decides its noise; `pair` is the held-out pair that its caption is of."""

    number: int
    text: str
    width: int  # pixels
    height: int
    pair: int


def read_prompts(latents: Path, count: int, seed: int) -> list[Prompt]:
    """`count` held-out captions (all, where there are fewer) in a seeded random order.

    The order is by a hash of seed, caption and how often the caption came before, so most prompts stay when the
    held-out pairs change a little.
    """
    from prunella.latents.shards import Latents  # torch, which what only reads a gallery does without

    heldout = Latents(latents, "heldout", texts=_unread)
    sizes = np.concatenate([np.tile(shard.size, (shard.pairs, 1)) for shard in heldout.shards])
    seen: dict[str, int] = {}
    keys = []
    for caption in heldout.captions:
        seen[caption] = seen.get(caption, 0) + 1
        keys.append(hashlib.sha256(f"{seed} {seen[caption]} {caption}".encode()).digest())
    chosen = sorted(range(len(keys)), key=keys.__getitem__)[:count]
    wide, high = sizes[:, 0].tolist(), sizes[:, 1].tolist()
    return [Prompt(i, heldout.captions[pair], wide[pair], high[pair], pair) for i, pair in enumerate(chosen)]


def _unread(tokens: dict) -> dict:
    raise AssertionError("prompts are chosen by their captions alone")
