"""Batches of noised examples from encoded pairs: for training by step, for measuring on the held-out split.

Both are pure functions of their seed, so that two students see the same examples, noise and timesteps.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from prunella.latents.shards import Latents
from prunella.training.noise import generator, sampled
from prunella.training.order import examples

Batch = dict[str, Tensor]


def training_batches(
    latents: Latents, batch_size: int, seed: int, caption_dropout: float, last: int, among: np.ndarray | None = None
) -> Callable[[int], Batch]:
    """step → batch, with timesteps uniform below `last`; `among` restricts it to some pairs.

    A caption is replaced by the empty one with probability `caption_dropout`, which guidance at drawing needs.
    """
    among = np.arange(len(latents)) if among is None else among

    def batch(step: int) -> Batch:
        source = generator(seed, step)
        rows = latents.take(among[examples(step, batch_size, len(among), seed)])
        final = sampled(rows["mean"], rows["std"], source, latents.scaling_factor)
        dropped = torch.rand(len(final), generator=source) < caption_dropout
        return {
            "latents": final,
            "noise": torch.randn(final.shape, generator=source),
            "timesteps": torch.randint(0, last, (len(final),), generator=source),
            "states": torch.where(dropped[:, None, None], latents.empty["text"], rows["text"]),
            **_added(rows, dropped, latents),
        }

    return batch


def _added(rows: Batch, dropped: Tensor, latents: Latents) -> Batch:
    """SDXL's "pooled" embedding, that of no caption where it is `dropped`, and "sizes"; nothing for SD 1.x and 2.x."""
    if "pooled" not in rows:
        return {}
    return {"pooled": torch.where(dropped[:, None], latents.empty["pooled"], rows["pooled"]), "sizes": rows["sizes"]}


def heldout_batches(latents: Latents, batch_size: int, last: int, among: np.ndarray | None = None) -> Iterator[Batch]:
    """The held-out split (or the pairs `among` it) once, each pair with its fixed noise and timestep below `last`."""
    among = np.arange(len(latents)) if among is None else among
    for start in range(0, len(among), batch_size):
        rows = latents.take(among[start : start + batch_size])
        source = generator(0, start)
        final = sampled(rows["mean"], rows["std"], source, latents.scaling_factor)
        # The golden ratio spreads timesteps evenly over any prefix of the split.
        share = np.modf((np.arange(start, start + len(final)) + 0.5) * 0.6180339887)[0]
        yield {
            "latents": final,
            "noise": torch.randn(final.shape, generator=source),
            "timesteps": torch.from_numpy((share * last).astype(np.int64)),
            "states": rows["text"],
            **_added(rows, torch.zeros(len(final), dtype=torch.bool), latents),
        }
